"""Ordinary programs: what they print, how they end, and the pool they run in."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from reason.errors import ReasonError, UsageError
from reason.sandbox import Limits, Sandbox

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]


async def test_output_and_exit_code(sandbox: Sandbox) -> None:
    done = await sandbox.run("import sys\nprint('out é')\nprint('err', file=sys.stderr)")
    assert (done.status, done.exit_code, done.stdout, done.stderr) == ("ok", 0, "out é\n", "err\n")
    assert 0 < done.seconds < 30


@pytest.mark.parametrize(
    ("program", "code", "stderr"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("raise SystemExit('why')", 1, "why\n"),
        ("raise SystemExit", 0, ""),
        ("import os; os._exit(7)", 7, ""),
    ],
)
async def test_exits(sandbox: Sandbox, program: str, code: int, stderr: str) -> None:
    done = await sandbox.run(program)
    assert (done.status, done.exit_code, done.stderr) == ("error" if code else "ok", code, stderr)


async def test_an_exception_has_its_traceback(sandbox: Sandbox) -> None:
    done = await sandbox.run("def f():\n    return {}['a']\n\nf()")
    assert done.status == "error"
    assert done.exit_code == 1
    assert done.error == "KeyError: 'a'"
    assert "zygote" not in done.traceback
    assert 'File "program.py", line 4, in <module>' in done.traceback
    assert "return {}['a']" in done.traceback


async def test_a_syntax_error_is_told(sandbox: Sandbox) -> None:
    done = await sandbox.run("x = = 1")
    assert done.status == "error"
    assert done.error == "SyntaxError: invalid syntax"


async def test_standard_input_and_files(sandbox: Sandbox) -> None:
    text = "line\n" * 100_000  # more than a pipe holds
    program = "import sys\nprint(len(sys.stdin.read()), open('data/a.txt').read())\nprint(__name__, sys.argv)"
    done = await sandbox.run(program, stdin=text, files={"data/a.txt": "é"})
    assert done.stdout == "500000 é\n__main__ ['program.py']\n"
    assert (await sandbox.run("print(1)", stdin=text)).stdout == "1\n", "nobody has to read it"


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", ""])
async def test_files_stay_in_the_work_folder(sandbox: Sandbox, name: str) -> None:
    with pytest.raises(UsageError, match="relative to the work folder"):
        await sandbox.run("", files={name: ""})


async def test_threads_and_exit_handlers_finish(sandbox: Sandbox) -> None:
    program = (
        "import atexit, threading, time\n"
        "atexit.register(print, 'last')\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()\n"
        "print('main')\n"
    )
    assert (await sandbox.run(program)).stdout == "main\nthread\nlast\n"


async def test_programs_have_processes_temporary_files_and_packages(sandbox: Sandbox) -> None:
    program = (
        "import subprocess, tempfile, sys\n"
        "import numpy\n"
        "with tempfile.NamedTemporaryFile('w') as file:\n"
        "    file.write('x')\n"
        "open('/tmp/y', 'w').write('y')\n"
        "print(subprocess.run([sys.executable, '-c', 'print(1 + 1)'], capture_output=True, text=True).stdout)\n"
        "print(numpy.arange(3).sum())\n"
    )
    assert (await sandbox.run(program)).stdout == "2\n\n3\n"


async def test_many_runs_come_back_in_order(sandbox: Sandbox) -> None:
    done = await sandbox.run_many([f"print({n})" for n in range(50)])
    assert [run.stdout for run in done] == [f"{n}\n" for n in range(50)]


async def test_the_order_of_sets_does_not_change(sandbox: Sandbox) -> None:
    done = await sandbox.run_many(["print(*{chr(n) * 3 for n in range(97, 123)})"] * 4)
    assert len({run.stdout for run in done}) == 1


async def test_a_cancelled_run_leaves_the_pool_whole(sandbox: Sandbox) -> None:
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(sandbox.run("import time; time.sleep(60)"), 0.3)
    assert (await sandbox.run("print(1)")).stdout == "1\n"


async def test_a_dead_worker_is_replaced(sandbox: Sandbox) -> None:
    await sandbox.run("print(1)")
    for worker in sandbox._free:
        os.kill(worker._process.popen.pid, signal.SIGKILL)
        worker._process.popen.wait()
    assert [run.stdout for run in await sandbox.run_many(["print(1)"] * 4)] == ["1\n"] * 4


async def test_a_hung_worker_is_replaced(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    from reason.sandbox import pool

    monkeypatch.setattr(pool, "_GRACE", -59.5)  # so that a run that takes its time counts as hung
    done = await sandbox.run("import time; time.sleep(50)", limits=Limits(wall_seconds=60))
    assert (done.status, done.stderr) == ("timeout", "the worker hung, and was replaced")
    monkeypatch.undo()
    assert [run.stdout for run in await sandbox.run_many(["print(1)"] * 4)] == ["1\n"] * 4


async def test_a_closed_sandbox_runs_nothing() -> None:
    sandbox = Sandbox(workers=1, unsafe=True)
    assert (await sandbox.run("print(1)")).stdout == "1\n"
    await sandbox.close()
    await sandbox.close()
    with pytest.raises(UsageError, match="closed"):
        await sandbox.run("print(1)")
    assert not os.path.exists(sandbox._folder)


async def test_closing_ends_what_runs(sandbox: Sandbox) -> None:
    own = Sandbox(workers=1, unsafe=sandbox.backend == "unsafe")
    await own.run("print(1)")
    running = asyncio.ensure_future(own.run("import time; time.sleep(50)", limits=Limits(wall_seconds=60)))
    await asyncio.sleep(0.3)
    await own.close()
    with pytest.raises(UsageError, match="closed"):
        await asyncio.wait_for(running, 20)


async def test_without_isolation_programs_run_and_are_limited(unprotected: Sandbox) -> None:
    assert unprotected.backend == "unsafe"
    assert (await unprotected.run("print(1)")).stdout == "1\n"
    assert (await unprotected.run("import time; time.sleep(60)", limits=Limits(wall_seconds=0.3))).status == "timeout"
    assert (await unprotected.test("def f(): return 1", "assert f() == 1")).passed
    assert not (await unprotected.test("def f(): return 1", "assert f() == 2")).passed


async def test_a_worker_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from reason.sandbox import backends

    broken = backends.Backend(name="unsafe", command=lambda _: ["/bin/sh", "-c", "echo no such luck >&2"])
    monkeypatch.setattr(backends, "unprotected", lambda: broken)
    async with Sandbox(unsafe=True) as sandbox:
        with pytest.raises(ReasonError, match="no such luck"):
            await sandbox.run("print(1)")
