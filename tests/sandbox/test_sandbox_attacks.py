"""Attacks on what is outside of a run. Each program prints ESCAPED where it gets through, and how it was stopped where
not. Those that do no harm are also run without isolation, where they must get through: else they test nothing."""

from __future__ import annotations

import os
import socket
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reason.sandbox import Sandbox

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

TRY = """
def attempt(attack):
    try:
        print("ESCAPED" if attack() else "stopped: nothing there")
    except BaseException as error:
        print("stopped:", type(error).__name__, error)
"""

# Get through without isolation, and do no harm there.
HARMLESS = {
    "the home folder": "import os; attempt(lambda: set(os.listdir({home!r})) - {python!r})",
    "a file of the user": "attempt(lambda: open({secret!r}).read())",
    "other processes": "import os; attempt(lambda: os.readlink('/proc/{pid}/exe'))",
    "another's environment": "attempt(lambda: open('/proc/{pid}/environ', 'rb').read())",
    "processes seen": "import os; attempt(lambda: len([n for n in os.listdir('/proc') if n.isdigit()]) > 2)",
    "signals to others": "import os; attempt(lambda: os.kill({pid}, 0) is None)",
    "a connection": "import socket; attempt(lambda: socket.create_connection(('127.0.0.1', {port}), 5))",
    "an abstract unix socket": """
        import socket
        attempt(lambda: socket.socket(socket.AF_UNIX).connect('\\0' + {abstract!r}) is None)
    """,
    "a unix socket in a folder": """
        import socket
        attempt(lambda: socket.socket(socket.AF_UNIX).connect({unix!r}) is None)
    """,
    "a network socket": "import socket; attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))",
    "a netlink socket": "import socket; attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))",
    "network devices": "import os; attempt(lambda: os.listdir('/sys/class/net'))",
    "writing outside": "import os; attempt(lambda: open({outside!r}, 'w').write('x') and os.path.exists({outside!r}))",
    "a link out": """
        import os
        os.symlink({folder!r}, "out")
        attempt(lambda: open("out/secret").read())
    """,
    "the parent folders": "attempt(lambda: open('../' * 30 + {secret!r}).read())",
    "shared memory": "attempt(lambda: open('/dev/shm/reason-attack', 'w').write('x'))",
    "the password file": "attempt(lambda: open('/etc/passwd').read())",
    "memory in no limit": "import os; attempt(lambda: os.memfd_create('x') >= 0)",
    "System V shared memory": """
        import ctypes
        attempt(lambda: ctypes.CDLL(None).shmget(0, 4096, 0o1600) >= 0)
    """,
}
# Would change something outside, or need to be root: shown to be stopped only.
HARMFUL = {
    "a name server": "import socket; attempt(lambda: socket.getaddrinfo('example.com', 80))",
    "the virtual machine's host": "import socket; attempt(lambda: socket.socket(40, socket.SOCK_STREAM))",
    "the system's files": "attempt(lambda: open('/usr/attack', 'w').write('x'))",
    "Python's files": "import os; attempt(lambda: open(os.__file__, 'a').write('x') >= 0)",
    "the sandbox's code": "attempt(lambda: open('/code/inside/judge.py', 'a').write('x') >= 0)",
    "the root": "import os; attempt(lambda: os.mkdir('/attack') is None)",
    "devices": "import os, stat; attempt(lambda: os.mknod('disk', stat.S_IFBLK | 0o600, os.makedev(8, 0)) is None)",
    "becoming root": "import os; attempt(lambda: os.setuid(0) is None)",
    "descriptors": """
        import os, stat
        def find():
            found = []
            for fd in range(3, 1000):
                try:
                    found.append(os.fstat(fd))
                except OSError:
                    pass
            return found
        attempt(find)
    """,
    "the folder of process 1": "import os; attempt(lambda: os.listdir('/proc/1/fd'))",
    "the root of process 1": "import os; attempt(lambda: os.listdir('/proc/1/root/'))",
    "the memory of process 1": "attempt(lambda: open('/proc/1/mem', 'rb'))",
    "tracing process 1": "import ctypes; attempt(lambda: ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0)",
    "killing process 1": """
        import os, signal, time
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP):
            try:
                os.kill(1, number)
            except OSError:
                pass
        time.sleep(0.1)
        attempt(lambda: not os.path.exists("."))
    """,
    "killing everything": """
        import os, signal
        try:
            os.kill(-1, signal.SIGKILL)
        except OSError:
            pass
        attempt(lambda: False)
    """,
    "new namespaces": "import ctypes; attempt(lambda: ctypes.CDLL(None).unshare(0x10000000) == 0)",
    "a mount": "import ctypes; attempt(lambda: ctypes.CDLL(None).mount(b'x', b'/box', b'tmpfs', 0, None) == 0)",
    "unmounting": "import ctypes; attempt(lambda: ctypes.CDLL(None).umount2(b'/box', 2) == 0)",
    "chroot": "import os; attempt(lambda: os.chroot('.') is None)",
    "kernel settings": "attempt(lambda: open('/proc/sys/kernel/hostname', 'w').write('x'))",
    "keyrings": "import ctypes; attempt(lambda: ctypes.CDLL(None).syscall({keyctl}, 0, -3, 1) >= 0)",
    "bpf": "import ctypes; attempt(lambda: ctypes.CDLL(None).syscall({bpf}, 0, 0, 0) >= 0)",
    "the host's name": "import socket; attempt(lambda: socket.sethostname('attack') is None)",
    "set-user-id": """
        import os, subprocess
        def become():
            done = subprocess.run(["su", "-c", "id -u"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
            return done.stdout.strip() == "0"
        attempt(become)
    """,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """What there is to reach from outside the sandbox."""
    folder, home = tmp_path_factory.mktemp("world"), Path.home()
    (folder / "secret").write_text("secret")
    abstract = f"reason-attack-{os.getpid()}"
    machine = os.uname().machine
    calls = {"keyctl": 250, "bpf": 321} if machine == "x86_64" else {"keyctl": 219, "bpf": 280}
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as hidden:
        hidden.bind("\0" + abstract)
        hidden.listen(8)
        with socket.socket(socket.AF_UNIX) as visible:
            visible.bind(str(folder / "unix"))
            visible.listen(8)
            yield {
                "home": str(Path.home()),
                "python": {part for part in Path(sys.base_prefix).parts if Path(sys.base_prefix).is_relative_to(home)},
                "secret": str(folder / "secret"),
                "folder": str(folder),
                "outside": str(folder / "outside"),
                "pid": os.getpid(),
                "port": server.getsockname()[1],
                "abstract": abstract,
                "unix": str(folder / "unix"),
                **calls,
            }


def attack(program: str, world: dict[str, object]) -> str:
    text = textwrap.dedent(program)
    for name, value in world.items():
        text = text.replace("{" + name + "!r}", repr(value)).replace("{" + name + "}", str(value))
    return TRY + text


@pytest.mark.parametrize("name", [*HARMLESS, *HARMFUL])
async def test_no_attack_gets_through(sandbox: Sandbox, world: dict[str, object], name: str) -> None:
    done = await sandbox.run(attack({**HARMLESS, **HARMFUL}[name], world))
    assert "ESCAPED" not in done.stdout, done
    assert "stopped" in done.stdout or done.status == "killed", done
    assert not Path(str(world["outside"])).exists()


@pytest.mark.parametrize("name", HARMLESS)
async def test_without_isolation_it_gets_through(unprotected: Sandbox, world: dict[str, object], name: str) -> None:
    if name == "the home folder" and not set(os.listdir(str(world["home"]))) - world["python"]:  # type: ignore[operator]
        pytest.skip("nothing is in the home folder")
    done = await unprotected.run(attack(HARMLESS[name], world))
    Path(str(world["outside"])).unlink(missing_ok=True)
    Path("/dev/shm/reason-attack").unlink(missing_ok=True)
    assert "ESCAPED" in done.stdout, done


SURVIVOR = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        for fd in (0, 1, 2):
            os.close(fd)
        end = time.time() + {seconds}
        while time.time() < end:
            with open({beat!r}, "w") as file:
                file.write(str(time.time()))
            time.sleep(0.01)
    os._exit(0)
time.sleep(0.2)
print("left")
"""


async def test_nothing_survives_a_run(sandbox: Sandbox) -> None:
    done = await sandbox.run(SURVIVOR.format(seconds=60, beat="beat"))
    assert done.stdout == "left\n"
    assert done.seconds < 20, "the run does not wait for what was left behind, but ends it"
    look = "import os; print([n for n in os.listdir('/proc') if n.isdigit()], os.listdir('.'))"
    for _ in range(2):
        seen = (await sandbox.run(look)).stdout
        assert seen in ("['1', '2'] ['program.py']\n", "[] ['program.py']\n")  # the second: /proc is forbidden here


async def test_without_isolation_something_survives(unprotected: Sandbox, tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    await unprotected.run(SURVIVOR.format(seconds=2, beat=str(beat)))
    first = beat.stat().st_mtime_ns
    time.sleep(0.5)
    assert beat.stat().st_mtime_ns != first


async def test_the_environment_is_the_sandbox_s_own(sandbox: Sandbox) -> None:
    names = (await sandbox.run("import os; print(*sorted(os.environ))")).stdout.split()
    assert set(names) <= {
        "HOME", "LANG", "OPENBLAS_NUM_THREADS", "PATH", "PWD", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED",
        "PYTHONUTF8", "TMPDIR",
    }  # fmt: skip
    first = await sandbox.run("print(open('/proc/1/environ').read())")
    assert "PYTEST" not in first.stdout


async def test_no_run_sees_another_s_files_memory_or_modules(sandbox: Sandbox) -> None:
    await sandbox.run("import os, json; json.MARK = os.MARK = 1; open('left', 'w').write('x'); os.environ['A'] = 'b'")
    look = "import os, json; print(os.listdir('.'), hasattr(json, 'MARK'), hasattr(os, 'MARK'), os.environ.get('A'))"
    for _ in range(3):
        assert (await sandbox.run(look)).stdout == "['program.py'] False False None\n"


async def test_two_runs_at_a_time_do_not_meet(sandbox: Sandbox) -> None:
    meet = (
        "import os, socket, time\n"
        "listener = socket.socket(socket.AF_UNIX)\n"
        "listener.bind('\\0meeting')\n"  # taken already, if the other run were in the same network namespace
        "open('mine', 'w').write('x')\n"
        "time.sleep(0.5)\n"
        "print(sorted(os.listdir('.')))\n"
    )
    for done in await sandbox.run_many([meet, meet]):
        assert done.stdout == "['mine', 'program.py']\n", done.stderr
