"""Programs that want a test to pass without solving it. The right answer is 42, and none of them gives it."""

from __future__ import annotations

import pytest

from reason.sandbox import Limits, Sandbox, run_tests

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

TEST = """
import math

def check(candidate):
    assert candidate(6, 7) == 42
    assert math.isclose(candidate(6.0, 7.0), 42.0)

check(candidate)
"""

FORGERIES = {
    "sys.exit at once": "import sys; sys.exit(0)",
    "sys.exit in the call": "import sys\ndef f(a, b): sys.exit(0)",
    "os._exit at once": "import os; os._exit(0)",
    "os._exit in the call": "import os\ndef f(a, b): os._exit(0)",
    "SystemExit with text": "def f(a, b): raise SystemExit('passed')",
    "KeyboardInterrupt": "def f(a, b): raise KeyboardInterrupt",
    "an object that equals everything": """
class Any:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __float__(self): return 42.0
    def __bool__(self): return True
    def __hash__(self): return 0
def f(a, b): return Any()
""",
    "a number that equals everything": """
class Any(float):
    def __eq__(self, other): return True
    def __float__(self): return 42.0
    def __sub__(self, other): return 0.0
def f(a, b): return Any(1)
""",
    "a list that equals everything": """
class Any(list):
    def __eq__(self, other): return True
def f(a, b): return Any()
""",
    "a text that prints as the answer": "class S(str):\n    def __str__(self): return '42'\ndef f(a, b): return S('x')",
    "printed verdicts": """
import json, sys
def f(a, b):
    for text in ("PASSED", "OK", "1 passed", json.dumps({"passed": True, "ended": False, "message": "", "calls": []})):
        print(text); print(text, file=sys.stderr)
    return 0
""",
    "verdicts in every descriptor": """
import json, os, struct
def f(a, b):
    body = json.dumps({"passed": True, "ended": False, "message": "", "traceback": "", "calls": []}).encode()
    for fd in range(1024):
        try:
            os.write(fd, struct.pack(">I", len(body)) + body)
        except OSError:
            pass
    return 0
""",
    "verdicts in others' descriptors": """
import json, os, struct
def f(a, b):
    body = json.dumps({"passed": True, "ended": False, "message": "", "traceback": "", "calls": []}).encode()
    for pid in os.listdir("/proc"):
        for fd in range(64):
            try:
                with open(f"/proc/{pid}/fd/{fd}", "wb", buffering=0) as file:
                    file.write(struct.pack(">I", len(body)) + body)
            except OSError:
                pass
    return 0
""",
    "a verdict at exit": """
import atexit, os
atexit.register(lambda: os._exit(0))
def f(a, b): raise SystemExit(0)
""",
    "patched builtins": """
import builtins, json, math, pickle, sys, unittest
class Never(Exception): pass
builtins.AssertionError = Never
builtins.isinstance = lambda *_: True
builtins.__build_class__ = None
builtins.float = builtins.int = lambda *_: 42
math.isclose = lambda *_, **__: True
json.dumps = lambda *_, **__: '{"passed": true}'
json.loads = lambda *_, **__: {"passed": True}
pickle.dumps = lambda *_: b""
unittest.TestCase.assertEqual = lambda *_: None
sys.settrace(lambda *_: None)
def f(a, b): return 0
""",
    "a patched sandbox": """
import os, struct, sys
for module in list(sys.modules.values()):
    if module.__name__.startswith("reason.sandbox.inside"):
        for name, value in list(vars(module).items()):
            if callable(value) and not name.startswith("_") and not isinstance(value, type):
                if name in ("decide", "execution"):
                    setattr(module, name, lambda *_, **__: True)
        if hasattr(module, "encode"):
            module.encode = lambda *_, **__: {"passed": True, "value": True}
def f(a, b): return 0
""",
    "its own answers on the wire": """
import json, os, struct
def send(message):
    body = json.dumps(message).encode()
    os.write(3, struct.pack(">I", len(body)) + body)
send({"ready": True, "passed": True})
for _ in range(100):
    send({"passed": True, "value": True})
os._exit(0)
""",
    "no data on the wire": "import os\ndef f(a, b):\n    os.write(3, b'\\xff' * 1000)\n    return 0",
    "junk on the wire": "import os\ndef f(a, b):\n    os.write(3, b'\\0\\0\\0\\3[[[')\n    return 0",
    "deep data on the wire": "import os\ndef f(a, b): return os.write(3, b'\\0\\0\\xff\\xff' + b'[' * 65535)",
    "hanging up": "import os\ndef f(a, b):\n    os.close(3)\n    return 0",
    "killing the judge": """
import os, signal
def f(a, b):
    for pid in (-1, 1, 0, os.getppid()):
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    return 0
""",
    "a copy that goes on": "import os\ndef f(a, b):\n    if os.fork():\n        os._exit(0)\n    return 0",
    "an assertion of its own": "def f(a, b): raise AssertionError",
    "redefining the test": "candidate = check = lambda *_: None\ndef f(a, b): return 0",
    "the program is the test": "def check(candidate): pass\nassert_ = True\ndef f(a, b): return True",
    "no function": "x = 1",
    "no program": "this is no Python",
}


@pytest.mark.parametrize("name", FORGERIES)
async def test_no_forgery_passes(sandbox: Sandbox, name: str) -> None:
    (verdict,) = await run_tests(
        sandbox, FORGERIES[name], [TEST], entry_point="f", limits=Limits(wall_seconds=20, memory_mb=512)
    )
    assert not verdict.passed, verdict
    assert verdict.status in ("failed", "error", "killed")
    assert verdict.execution.status in ("ok", "error", "killed")


SEARCH = """
import ctypes, gc, inspect, os, re, sys

def everything():
    yield from (repr(frame.frame.f_locals) for frame in inspect.stack())
    for item in gc.get_objects():
        if type(item) in (dict, list, tuple):
            yield from [value for value in (item.values() if type(item) is dict else item) if type(value) is str]
    for root in ("/box", "/code", "/etc"):
        for folder, _, names in os.walk(root):
            for name in names:
                try:
                    yield open(os.path.join(folder, name), errors="replace").read(1 << 16)
                except OSError:
                    pass
    for pid in [name for name in os.listdir("/proc") if name.isdigit()]:
        try:
            with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
                for line in maps:
                    low, high = (int(part, 16) for part in line.split()[0].split("-"))
                    if "rw" in line and high - low < 1 << 28:
                        try:
                            memory.seek(low)
                            yield memory.read(high - low).decode("latin-1")
                        except OSError:
                            pass
        except OSError:
            pass

def f(a, b):
    marker = "secret" + "-of-" + "the-test"
    for text in everything():
        found = re.search(marker + "([0-9]+)", text)
        if found:
            return int(found.group(1))
    return None
"""


async def test_the_expected_value_is_nowhere_to_be_found(sandbox: Sandbox) -> None:
    """In frames, on the heap, in files, in the memory of any process: also of earlier runs of the same test."""
    test = "expected = 'secret-of-the-test4242'\nassert f(1, 2) == int(expected[-4:])"
    limits = Limits(wall_seconds=60, cpu_seconds=50)
    await run_tests(sandbox, "def f(a, b): return 4242", [test] * 4)  # each worker has had the test
    for verdict in await run_tests(sandbox, SEARCH, [test] * 2, limits=limits):
        assert verdict.status == "failed", verdict
        assert verdict.calls == ("f(1, 2) returned None",)


async def test_the_search_would_find_it(sandbox: Sandbox) -> None:
    """The same search, with the text in the same process."""
    done = await sandbox.run(SEARCH + "\nexpected = 'secret-of-the-test4242'\nprint(f(1, 2))")
    assert done.stdout == "4242\n"


async def test_the_right_answer_passes(sandbox: Sandbox) -> None:
    (verdict,) = await run_tests(sandbox, "def f(a, b): return a * b", [TEST], entry_point="f")
    assert verdict.passed, verdict
    assert verdict.status == "passed"
    assert verdict.message == ""


async def test_verdicts_say_what_failed(sandbox: Sandbox) -> None:
    program = "def f(x):\n    if x == 2: return 1 / 0\n    return x + 1"
    tests = ["assert f(1) == 2", "assert f(1) == 3, 'no'", "f(2)", "f('a')", "syntax error", "g(1)"]
    passed, wrong, zero, kind, syntax, missing = await run_tests(sandbox, program, tests)
    assert passed.passed
    assert wrong.status == "failed"
    assert wrong.message == "AssertionError: no\n    assert f(1) == 3, 'no'"
    assert wrong.calls == ("f(1) returned 2",)
    assert zero.status == "error"
    assert zero.message.startswith("ZeroDivisionError: division by zero")
    assert 'File "program.py", line 2' in zero.traceback
    assert zero.calls == ("f(2) raised ZeroDivisionError: division by zero",)
    assert kind.message.startswith("TypeError")
    assert syntax.message.startswith("SyntaxError")
    assert missing.message.startswith("NameError: name 'g' is not defined")


async def test_a_program_that_ends_or_hangs_is_told_as_what_it_is(sandbox: Sandbox) -> None:
    limits = Limits(wall_seconds=2, output_kb=64, memory_mb=256)
    programs = {
        "timeout": "def f():\n    while True: pass",
        "output-limit": "def f():\n    while True: print('x' * 1000)",
        "killed": "import ctypes\ndef f(): ctypes.string_at(0)",
        "error": "import nothing_of_this_name",
    }
    for status, program in programs.items():
        (verdict,) = await run_tests(sandbox, program, ["f()"], limits=limits)
        assert verdict.status == status, verdict
    assert verdict.message == "the program ended: ModuleNotFoundError: No module named 'nothing_of_this_name'"


async def test_tests_see_values_as_if_they_were_in_one_process(sandbox: Sandbox) -> None:
    program = """
import collections, decimal, fractions
class Pair:
    def __init__(self, a, b): self.a, self.b = a, b
    def sum(self): return self.a + self.b
def same(x): return x
def sums(pairs): return [pair.sum() for pair in pairs]
def fill(items, table, seen):
    items.append(3); items.sort(); table['k'] = [1]; seen.discard(1)
def counted(x): return collections.Counter(x)
def lazy(x): return (y for y in x)
class Own(ValueError): pass
def refuse(): raise Own('no')
"""
    tests = [
        "for x in (1, -2**70, 1.5, float('inf'), 'ä\\ud800', b'x', None, True, [1, (2, {3})], {1: {'a': (1,)}}, 1j):\n"
        "    assert same(x) == x and type(same(x)) is type(x)",
        "from fractions import Fraction\nfrom decimal import Decimal\n"
        "for x in (Fraction(1, 3), Decimal('0.10'), range(3), frozenset({1})):\n"
        "    assert same(x) == x and type(same(x)) is type(x)",
        "x = same(float('nan'))\nassert x != x",
        "assert same(10**5000) == 10**5000 and same([10**5000]) == [10**5000]",
        "items, table, seen = [4, 1], {}, {1, 2}\nfill(items, table, seen)\n"
        "assert items == [1, 3, 4] and table == {'k': [1]} and seen == {2}",
        "assert sums([Pair(1, 2), Pair(3, b=4)]) == [3, 7]\nassert Pair(1, 2).a == 1 and Pair(1, 2).sum() == 3",
        "assert counted('aab') == {'a': 2, 'b': 1}",
        "assert lazy([1]) != [1]",
        "try:\n    refuse()\nexcept ValueError as error:\n    assert str(error) == 'no'\nelse:\n    assert False",
    ]
    for verdict in await run_tests(sandbox, program, tests):
        assert verdict.passed, verdict


async def test_setup_defines_what_is_not_asked_of_the_program(sandbox: Sandbox) -> None:
    program = "def helper(x): return 'forged'\ndef f(x): return x + 1"
    setup = "def helper(x):\n    return x * 2\ndef f(x):\n    '''Adds one.'''"
    (verdict,) = await run_tests(sandbox, program, ["assert f(helper(2)) == 5"], entry_point="f", setup=setup)
    assert verdict.passed, verdict


async def test_each_test_has_the_program_anew(sandbox: Sandbox) -> None:
    program = "n = 0\ndef f():\n    global n\n    n += 1\n    return n"
    for verdict in await run_tests(sandbox, program, ["assert f() == 1 and f() == 2"] * 3):
        assert verdict.passed
