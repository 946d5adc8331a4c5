"""Programs that want more than they may have: each is ended, told from the others, and the sandbox goes on."""

from __future__ import annotations

import dataclasses
import time

import pytest

from reason.sandbox import Limits, Sandbox

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

SHORT = Limits(wall_seconds=2.0, cpu_seconds=20)


async def fine(sandbox: Sandbox) -> bool:
    return (await sandbox.run("print('fine')")).stdout == "fine\n"


async def test_a_fork_bomb_is_bounded_and_ended(sandbox: Sandbox) -> None:
    bomb = """
import os, time
failed = 0
while not failed:
    try:
        os.fork()
    except BlockingIOError:
        failed = 1
count = len([n for n in os.listdir("/proc") if n.isdigit()])
print(count, flush=True)
while True:
    time.sleep(1)
"""
    done = await sandbox.run(bomb, limits=SHORT)
    assert done.status == "timeout"
    counts = [int(line) for line in done.stdout.split()]
    assert counts
    assert max(counts) <= SHORT.processes + 1  # and the box's first process
    assert await fine(sandbox)


async def test_endless_forking_is_ended(sandbox: Sandbox) -> None:
    bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
    done = await sandbox.run(bomb, limits=SHORT)
    assert done.status == "timeout"
    assert done.seconds < 20
    assert await fine(sandbox)


async def test_threads_are_processes(sandbox: Sandbox) -> None:
    threads = "import threading, time\nfor _ in range(200):\n    threading.Thread(target=time.sleep, args=(9,)).start()"
    done = await sandbox.run(threads, limits=SHORT)
    assert "can't start new thread" in done.stderr


@pytest.mark.parametrize(
    "bomb",
    [
        "x = bytearray(4 << 30)",
        "x = []\nwhile True:\n    x.append('x' * 1000000)",
        "x = 10 ** 10 ** 10",
    ],
)
async def test_a_memory_bomb_is_a_memory_error(sandbox: Sandbox, bomb: str) -> None:
    done = await sandbox.run(bomb, limits=Limits(wall_seconds=30, cpu_seconds=20, memory_mb=256))
    assert done.status == ("timeout" if "**" in bomb else "memory") or done.status == "memory", done
    assert await fine(sandbox)


@pytest.mark.parametrize("wait", ["time.sleep(60)", "while True: print(end='.', flush=True); time.sleep(0.01)"])
async def test_many_processes_do_not_get_many_times_the_memory(sandbox: Sandbox, wait: str) -> None:
    bomb = f"""
import os, time
for _ in range(8):
    if os.fork() == 0:
        x = bytearray(60 << 20)
        time.sleep(60)
{wait}
"""
    done = await sandbox.run(bomb, limits=Limits(wall_seconds=40, memory_mb=200))
    assert done.status == "memory", done


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_endless_output_is_cut(sandbox: Sandbox, stream: str) -> None:
    flood = f"import sys\nwhile True:\n    sys.{stream}.write('x' * 10000)"
    done = await sandbox.run(flood, limits=Limits(output_kb=64))
    assert done.status == "output-limit"
    assert len(getattr(done, stream)) == 64 << 10


async def test_output_up_to_the_limit_is_kept(sandbox: Sandbox) -> None:
    done = await sandbox.run("print('x' * (65536 - 1))", limits=Limits(output_kb=64))
    assert done.status == "ok"
    assert len(done.stdout) == 65536


async def test_output_of_what_was_left_behind_counts(sandbox: Sandbox) -> None:
    flood = "import os, time\nif os.fork() == 0:\n    while True:\n        print('x' * 10000)\ntime.sleep(60)"
    assert (await sandbox.run(flood, limits=Limits(output_kb=64))).status == "output-limit"


@pytest.mark.parametrize(
    "forever", ["while True: pass", "import time; time.sleep(1000)", "import sys; sys.stdin.read(1)"]
)
async def test_the_clock_ends_it(sandbox: Sandbox, forever: str) -> None:
    started = time.monotonic()
    done = await sandbox.run(forever, limits=dataclasses.replace(SHORT, wall_seconds=0.5))
    if "stdin" in forever:
        assert done.status == "ok", "an empty input ends"
    else:
        assert done.status == "timeout"
        assert done.exit_code is None
        assert done.seconds >= 0.5
    assert time.monotonic() - started < 30


async def test_signals_do_not_save_it(sandbox: Sandbox) -> None:
    stubborn = (
        "import os, signal, time\n"
        "for number in range(1, 65):\n"
        "    try:\n"
        "        signal.signal(number, signal.SIG_IGN)\n"
        "    except (OSError, ValueError):\n"
        "        pass\n"
        "while True:\n"
        "    time.sleep(1)\n"
    )
    assert (await sandbox.run(stubborn, limits=dataclasses.replace(SHORT, wall_seconds=0.5))).status == "timeout"


async def test_processor_time_is_counted(sandbox: Sandbox) -> None:
    done = await sandbox.run("while True: pass", limits=Limits(wall_seconds=60, cpu_seconds=1))
    assert done.status == "timeout"
    assert done.seconds < 50


@pytest.mark.parametrize(
    "program",
    [
        "open('big', 'w').write('x' * (8 << 20))",
        "for n in range(100):\n    open(str(n), 'w').write('x' * (1 << 20))",
        "for n in range(100000):\n    open(str(n), 'w')",
        "import os\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')",
    ],
)
async def test_the_work_folder_is_bounded(sandbox: Sandbox, program: str) -> None:
    done = await sandbox.run(program, limits=Limits(work_mb=4, files=100))
    assert done.status == "error"
    assert done.error.startswith("OSError")


async def test_open_files_are_bounded(sandbox: Sandbox) -> None:
    done = await sandbox.run("x = [open('/dev/null') for _ in range(100)]", limits=Limits(open_files=32))
    assert "Too many open files" in done.error


async def test_limits_cannot_be_raised(sandbox: Sandbox) -> None:
    raised = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)"
    done = await sandbox.run(raised)
    assert done.status == "error"


async def test_huge_exception_texts_are_cut(sandbox: Sandbox) -> None:
    done = await sandbox.run("raise ValueError('x' * 50_000_000)", limits=Limits(output_kb=64, cpu_seconds=30))
    assert done.status == "error"
    assert done.traceback.startswith("Traceback")
    assert len(done.stderr) < 20_000


async def test_deep_recursion_is_an_error(sandbox: Sandbox) -> None:
    done = await sandbox.run("def f(n): return f(n + 1)\nf(0)")
    assert done.status == "error"
    assert done.error.startswith("RecursionError")


async def test_a_crash_of_the_interpreter_is_told(sandbox: Sandbox) -> None:
    done = await sandbox.run("import ctypes; ctypes.string_at(0)")
    assert done.status == "killed"
    assert done.exit_code == -11
    assert await fine(sandbox)
