"""The server under load: many streaming clients of all manners at once, and what must hold while they come and go.

    python benchmarks/serve_load.py --model smollm2-135m-instruct --seconds 180 --out load.json

They ask for samples and searches; some hang up in mid-stream, some read slowly, some are killed. It exits with
status 1 if a promise is broken: no status but 200 and, with Retry-After, 429; every stream ends as streams do; no KV,
ledger row, file descriptor or place is left; memory is flat once warm; the work of a killed client is freed within a
second (--freed-seconds); SIGTERM ends the server with status 0. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
JSON = {"Content-Type": "application/json"}
TOPICS = ("a lighthouse", "sorting cards", "the tides", "a chess game", "baking bread", "prime numbers", "an old map")
WARM_SHARE = 1 / 3
"""Of the time: memory is compared from then on."""
PROMPT_TOKENS = 1024
ENDS = ("data: [DONE]", 'data: {"type":"response.completed"', 'data: {"type":"response.incomplete"')
FAILURES = ('data: {"error"', 'data: {"type":"error"')

# Opens COUNT streams, says so once text comes on the first of them, and goes on reading until it is killed.
VICTIM = """
import socket, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
body = sys.stdin.buffer.read()
head = f"POST /v1/chat/completions HTTP/1.1\\r\\nHost: {host}\\r\\nContent-Type: application/json\\r\\n"
streams = [socket.create_connection((host, port)) for _ in range(count)]
for stream in streams:
    stream.sendall(f"{head}Content-Length: {len(body)}\\r\\n\\r\\n".encode() + body)
seen = b""
while seen.count(b"data: ") < 2:
    seen += streams[0].recv(65536)
print("reading", flush=True)
while any([stream.recv(65536) for stream in streams]):
    pass
"""


# -- the server --------------------------------------------------------------------------------------------------------


def serve_checked(arguments: list[str]) -> None:
    """`reason serve`, which in the end checks its KV forest and writes a line about what is left."""
    from reason.cli.main import app
    from reason.engine.local import LocalEngine

    close = LocalEngine.close

    def checked(engine: LocalEngine) -> None:
        engine.check_integrity()
        left = {"kv_tokens": engine.kv_tokens_in_use, "ledger_rows": len(engine.ledger_owners())}
        print(json.dumps(left), flush=True)
        close(engine)

    LocalEngine.close = checked  # type: ignore[method-assign]
    app(["serve", *arguments])


def open_in(pid: int | str) -> Iterator[str]:
    """What a process has open, by name or number."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended, or closed something meanwhile
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                yield os.readlink(each)


@dataclass
class Server:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    url: str

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def resident_mb(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 2**20

    def descriptors(self) -> set[str]:
        """What is open: files, and sockets and pipes by number, but for the pipes to its child, which compares answers:
        it is started when there are some to compare, and anew when a comparison takes too long."""
        theirs = {link for pid in self.children() for link in open_in(pid)}
        return {link for link in open_in(self.process.pid) if not (link in theirs and link.startswith("pipe:"))}

    def children(self) -> Iterator[str]:
        for file in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread ended meanwhile
                yield from file.read_text().split()

    def descriptors_beyond(self, before: set[str], limit: float) -> set[str]:
        """What is open that was not, once connections are closed, or after so many seconds."""
        ends = time.perf_counter() + limit
        while (left := self.descriptors() - before) and time.perf_counter() < ends:
            time.sleep(0.05)
        return left

    def counters(self) -> dict[str, float]:
        """What /metrics says, by name and labels."""
        page = httpx.get(f"{self.url}/metrics", timeout=30).text
        rows = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in rows}

    def busy(self) -> float:
        """Requests and KV tokens that something holds."""
        counters = self.counters()
        return sum(counters.get(f"reason_{name}", 0.0) for name in ("running", "queued", "kv_tokens_in_use"))

    def quiet_after(self, limit: float) -> float:
        """Seconds until nothing is under way; ``limit`` if it never happens."""
        began = time.perf_counter()
        while self.busy() and time.perf_counter() - began < limit:
            time.sleep(0.01)
        return min(time.perf_counter() - began, limit)


@contextlib.contextmanager
def started(arguments: list[str]) -> Iterator[Server]:
    command = [sys.executable, __file__, "--serve", *arguments, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            if not words:
                sys.exit("the server did not start")
            url = next(word for word in words if word.startswith("http")).removesuffix("/v1")
            yield Server(process, url)
        finally:
            process.kill()


# -- the clients -------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What happened."""

    statuses: Counter[str] = field(default_factory=Counter)  # "KIND STATUS"
    ended: Counter[str] = field(default_factory=Counter)  # streams read to their end, by kind
    first: list[float] = field(default_factory=list)  # seconds from asking to the first text, of streams
    broken: Counter[str] = field(default_factory=Counter)  # promises, by what was seen instead


@dataclass
class Load:
    """Clients that ask one thing after the other until the time is up."""

    server: Server
    model: str
    max_tokens: int
    ends: float
    tally: Tally = field(default_factory=Tally)

    async def client(self, number: int) -> None:
        draw = random.Random(number)
        kinds = (
            [self.plain] * 5
            + [self.several] * 2
            + [self.completion, self.response, self.whole]
            + [self.best_of_n, self.beam] * 2
            + [self.hang_up, self.read_slowly] * 2
            + [self.killed]
        )
        options = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]  # a slow reader's backlog reaches the server
        transport = httpx.AsyncHTTPTransport(socket_options=options)
        async with httpx.AsyncClient(base_url=self.server.url, transport=transport, timeout=300) as client:
            while time.monotonic() < self.ends:
                kind = draw.choice(kinds)
                try:
                    await kind(client, draw)
                except httpx.HTTPError as error:
                    self.tally.broken[f"{kind.__name__}: {type(error).__name__} {error}"] += 1

    def chat(self, draw: random.Random, **fields: Any) -> dict[str, Any]:
        say = f"Tell me about {draw.choice(TOPICS)} in {draw.randrange(20, 200)} words."
        limit = draw.randrange(self.max_tokens // 4, self.max_tokens + 1)
        asked = {"model": self.model, "messages": [{"role": "user", "content": say}], "max_tokens": limit}
        return asked | {"stream": True} | fields

    def search(self, draw: random.Random, model: str) -> dict[str, Any]:
        sum_of = f"What is {draw.randrange(10, 99)} + {draw.randrange(10, 99)}?"
        asked = self.chat(draw, model=model, messages=[{"role": "user", "content": sum_of}])
        del asked["max_tokens"]
        return asked | {"reason": {"budget": {"policy_tokens": 4 * self.max_tokens, "seconds": 60}}}

    async def plain(self, client: httpx.AsyncClient, draw: random.Random) -> None:
        await self.read(client, "plain", CHAT, self.chat(draw))

    async def several(self, client: httpx.AsyncClient, draw: random.Random) -> None:
        await self.read(client, "several", CHAT, self.chat(draw, n=3, temperature=0.8))

    async def completion(self, client: httpx.AsyncClient, draw: random.Random) -> None:
        text = f"Once there was {draw.choice(TOPICS)}"
        asked = {"model": self.model, "prompt": text, "max_tokens": self.max_tokens, "stream": True}
        await self.read(client, "completion", COMPLETIONS, asked)

    async def response(self, client: httpx.AsyncClient, draw: random.Random) -> None:
        asked = {"model": self.model, "input": f"Say a word about {draw.choice(TOPICS)}.", "stream": True}
        await self.read(client, "response", RESPONSES, asked | {"max_output_tokens": self.max_tokens})

    async def whole(self, client: httpx.AsyncClient, draw: random.Random) -> None:
        reply = await client.post(CHAT, json=self.chat(draw, stream=False))
        if await self.admitted("whole", reply) and not reply.json()["choices"]:
            self.tally.broken["whole: a reply without choices"] += 1

    async def best_of_n(self, client: httpx.AsyncClient, draw: random.Random) -> None:
        await self.read(client, "best-of-n", CHAT, self.search(draw, "reason/best-of-n:4"))

    async def beam(self, client: httpx.AsyncClient, draw: random.Random) -> None:
        await self.read(client, "beam", CHAT, self.search(draw, "reason/beam:4"))

    async def hang_up(self, client: httpx.AsyncClient, draw: random.Random) -> None:
        await self.read(client, "hang-up", CHAT, self.chat(draw, n=2), leave_after=draw.randrange(1, 12))

    async def read_slowly(self, client: httpx.AsyncClient, draw: random.Random) -> None:
        asked = self.chat(draw, n=8, max_tokens=self.max_tokens // 2)
        await self.read(client, "slow", CHAT, asked, pause=0.02)

    async def killed(self, client: httpx.AsyncClient, draw: random.Random) -> None:
        async with victim(self.server, self.chat(draw), count=1):
            self.tally.statuses["killed -"] += 1
            await asyncio.sleep(draw.uniform(0.5, 3.0))

    async def read(
        self,
        client: httpx.AsyncClient,
        kind: str,
        path: str,
        asked: dict[str, Any],
        *,
        leave_after: int | None = None,
        pause: float = 0.0,
    ) -> None:
        """Reads a stream to its end, or hangs up after so many lines."""
        began = time.perf_counter()
        async with client.stream("POST", path, json=asked) as reply:
            if not await self.admitted(kind, reply):
                return
            count, last = 0, ""
            async for line in reply.aiter_lines():
                if not line.startswith("data: "):
                    continue
                if line.startswith(FAILURES):
                    self.tally.broken[f"{kind}: {line[:200]}"] += 1
                count, last = count + 1, line
                if count == 2:
                    self.tally.first.append(time.perf_counter() - began)
                if count == leave_after:
                    return
                await asyncio.sleep(pause)
        if last.startswith(ENDS):
            self.tally.ended[kind] += 1
        else:
            self.tally.broken[f"{kind}: a stream was cut off"] += 1

    async def admitted(self, kind: str, reply: httpx.Response) -> bool:
        """Whether it is worked on; waits as it was told where not."""
        self.tally.statuses[f"{kind} {reply.status_code}"] += 1
        if reply.status_code == 200:
            return True
        await reply.aread()
        wait = reply.headers.get("retry-after", "")
        if reply.status_code != 429 or not wait.isdigit():
            self.tally.broken[f"{kind}: status {reply.status_code}, {reply.text[:200]}"] += 1
        await asyncio.sleep(max(0.0, min(float(wait or 1), self.ends - time.monotonic())))
        return False


@contextlib.asynccontextmanager
async def victim(server: Server, asked: dict[str, Any], *, count: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that reads streams until it is killed, which leaving this does."""
    host, port = server.address
    command = [sys.executable, "-S", "-c", VICTIM, host, str(port), str(count)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    process.stdin.write(json.dumps(asked).encode())
    process.stdin.close()
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


# -- the phases --------------------------------------------------------------------------------------------------------


def fill_pool(server: Server, model: str, kv_tokens: int) -> None:
    """Has every slot of the KV pool written once: memory that the pool was always meant to take is no growth."""
    draw = random.Random(0)
    for _ in range(0, kv_tokens, PROMPT_TOKENS):
        prompt = [draw.randrange(250) for _ in range(PROMPT_TOKENS)]
        asked = {"model": model, "prompt": prompt, "max_tokens": 1}
        httpx.post(f"{server.url}{COMPLETIONS}", json=asked, timeout=600).raise_for_status()


@dataclass(frozen=True)
class Sample:
    """A look at the server while it works."""

    seconds: float
    resident_mb: float
    descriptors: int


async def under_load(load: Load, clients: int, every: float) -> list[Sample]:
    """Lets all the clients go, and looks at the server meanwhile."""
    began = time.monotonic()
    samples: list[Sample] = []

    async def look() -> None:
        while True:
            samples.append(Sample(time.monotonic() - began, load.server.resident_mb(), len(load.server.descriptors())))
            await asyncio.sleep(every)

    looking = asyncio.ensure_future(look())
    try:
        await asyncio.gather(*(load.client(number) for number in range(clients)))
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    return samples


async def kills(load: Load, count: int, streams: int) -> list[float]:
    """Seconds from the SIGKILL of a process that reads streams until its work is freed, of several kinds of work."""
    found = []
    for number in range(count):
        draw = random.Random(number)
        long = {"max_tokens": 4 * load.max_tokens, "temperature": 1.5}
        asked = [
            load.chat(draw, **long),
            load.chat(draw, **long, n=4),
            load.search(draw, "reason/best-of-n:8"),
            load.search(draw, "reason/beam:4"),
        ][number % 4]
        async with victim(load.server, asked, count=streams) as process:
            assert process.stdout is not None
            if not await asyncio.wait_for(process.stdout.readline(), 120):
                load.tally.broken["kill: the client got no text"] += 1
                continue
            process.kill()
            found.append(await asyncio.to_thread(load.server.quiet_after, 60.0))
    return found


def levels(samples: list[Sample]) -> tuple[float, float]:
    """Resident memory at the end of the warm-up and at the end, each the median of a sixth of the time."""
    whole = samples[-1].seconds
    spans = ((WARM_SHARE, WARM_SHARE + 1 / 6), (5 / 6, 1.0))
    first, last = (
        statistics.median(each.resident_mb for each in samples if low * whole <= each.seconds <= high * whole)
        for low, high in spans
    )
    return first, last


def run(args: argparse.Namespace) -> dict[str, Any]:
    arguments = ["--model", args.model, "--max-running", str(args.max_running), "--max-queued", str(args.max_queued)]
    arguments += ["--kv-tokens", str(args.kv_tokens), "--threads", str(args.threads)]
    with started(arguments) as server:
        name = httpx.get(f"{server.url}/v1/models", timeout=30).json()["data"][0]["id"]
        fill_pool(server, name, args.kv_tokens)
        descriptors = server.descriptors()
        load = Load(server, name, args.max_tokens, time.monotonic() + args.seconds)
        samples = asyncio.run(under_load(load, args.clients, args.seconds / 180))
        settled = server.quiet_after(60.0)
        tally = load.tally
        freed = asyncio.run(kills(load, args.kills, args.streams))
        counters = server.counters()
        left = server.descriptors_beyond(descriptors, 5.0)
        server.process.send_signal(signal.SIGTERM)
        status = server.process.wait(60)
        assert server.process.stdout is not None
        ending = server.process.stdout.read()
    first, last = levels(samples)
    report = {
        "statuses": dict(sorted(tally.statuses.items())),
        "ended": dict(tally.ended),
        "first text, median s": round(statistics.median(tally.first), 3) if tally.first else None,
        "policy tokens": counters['reason_tokens_total{kind="policy"}'],
        "seconds until quiet": round(settled, 3),
        "freed after kill, worst s": round(max(freed, default=0.0), 3),
        "kills": [round(each, 3) for each in freed],
        "resident MB, warm": round(first, 1),
        "resident MB, end": round(last, 1),
        "descriptors, most": max(each.descriptors for each in samples),
        "descriptors left": sorted(left),
        "left in the engine": json.loads(ending.splitlines()[-1]) if ending.strip() else None,
        "exit status": status,
        "curve": [[round(each.seconds, 1), round(each.resident_mb, 1), each.descriptors] for each in samples],
    }
    promises = {
        "no failure": not tally.broken,
        "something was done": sum(tally.ended.values()) >= args.clients // 4,
        "no KV and no ledger row left": report["left in the engine"] == {"kv_tokens": 0, "ledger_rows": 0},
        "no place left": counters["reason_running"] == counters["reason_queued"] == 0,
        "no file descriptor left": not left,
        "memory is flat": last - first <= args.growth_mb,
        f"freed within {args.freed_seconds:g} s": len(freed) == args.kills
        and max(freed, default=0.0) <= args.freed_seconds,
        "SIGTERM ends it in order": status == 0,
    }
    return {"settings": vars(args), **report, "broken": dict(tally.broken), "promises": promises}


def show(report: dict[str, Any]) -> None:
    for name, value in report.items():
        if name not in ("settings", "curve", "promises"):
            print(f"{name:28} {value}")
    for name, kept in report["promises"].items():
        print(f"{'kept' if kept else 'BROKEN':28} {name}")


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve_checked(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a catalogue name or a folder")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--max-tokens", type=int, default=96, help="of a sample; searches get four times as many")
    parser.add_argument("--kills", type=int, default=8, help="client processes killed once the load is over")
    parser.add_argument("--streams", type=int, default=8, help="that each of these reads")
    parser.add_argument("--max-running", type=int, default=24)
    parser.add_argument("--max-queued", type=int, default=24)
    parser.add_argument("--kv-tokens", type=int, default=16384)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--freed-seconds", type=float, default=1.0, help="that a killed client's work may be held for")
    parser.add_argument("--growth-mb", type=float, default=32.0, help="that memory may grow by once warm")
    parser.add_argument("--out", type=Path, help="the report, as JSON")
    args = parser.parse_args()
    report = run(args)
    if args.out is not None:
        args.out.write_text(json.dumps(report, indent=1, default=str) + "\n", encoding="utf-8")
    show(report)
    sys.exit(0 if all(report["promises"].values()) else 1)


if __name__ == "__main__":
    main()
