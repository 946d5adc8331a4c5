"""The threads of the compiled kernels: whoever calls, on however many, a product is the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from reason.runtime.native.kernels import Int8Weight, Kernels, make_kernels

ROOT = Path(__file__).parents[2]

FORKS = """
import ctypes, os, sys, threading, time
import torch
from reason.runtime.native.kernels import Kernels, make_kernels

kernels = make_kernels(amx=False)
x, weight = torch.ones(41, 128, dtype=torch.bfloat16), Kernels.pack_int8(torch.ones(96, 128))
kernels.set_threads(3)
kernels.linear_int8(x, weight)
child = os.fork()
if child == 0:
    other = threading.Thread(target=int)
    other.start()
    other.join()
    if int(sys.argv[1]):
        kernels.linear_int8(x, weight)
    ctypes.CDLL(None).exit(7)  # with the destructors of the thread, without those of Python
deadline = time.monotonic() + 60
pid = status = 0
while not pid and time.monotonic() < deadline:
    time.sleep(0.01)
    pid, status = os.waitpid(child, os.WNOHANG)
if not pid:
    os.kill(child, 9)
    os.waitpid(child, 0)
os._exit(os.waitstatus_to_exitcode(status) if pid else 124)
"""  # by a process of its own: other libraries of this one have destructors that a forked process cannot run


@pytest.fixture
def kernels() -> Iterator[Kernels]:
    found = make_kernels(amx=False)
    if found is None:
        pytest.skip("no compiled kernels on this machine")
    yield found
    found.set_threads(torch.get_num_threads())


@pytest.fixture
def product(kernels: Kernels) -> tuple[torch.Tensor, Int8Weight, torch.Tensor]:
    """Inputs, weights, and their product by one thread; its two parts meet in the middle."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(41, 128, generator=generator).to(torch.bfloat16)
    weight = Kernels.pack_int8(torch.randn(96, 128, generator=generator))
    kernels.set_threads(1)
    return x, weight, kernels.linear_int8(x, weight)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_results_do_not_hang_on_the_number_of_threads(
    kernels: Kernels, product: tuple[torch.Tensor, Int8Weight, torch.Tensor], count: int
) -> None:
    x, weight, expected = product
    kernels.set_threads(count)
    for pause in (0.0, 0.0, 0.01):  # after which the others are asleep
        time.sleep(pause)
        assert torch.equal(kernels.linear_int8(x, weight), expected)
    for rows in (1, 2, 40):  # fewer than threads, too
        assert torch.equal(kernels.linear_int8(x[:rows], weight), expected[:rows])


def test_callers_do_not_meet_each_other(
    kernels: Kernels, product: tuple[torch.Tensor, Int8Weight, torch.Tensor]
) -> None:
    """Each calling thread has a team of its own, also while another changes how many threads there are."""
    x, weight, expected = product
    wrong: list[int] = []

    def call(number: int) -> None:
        for i in range(200):
            if number == 0:
                kernels.set_threads(1 + i % 3)
            if not torch.equal(kernels.linear_int8(x, weight), expected):
                wrong.append(number)

    callers = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    assert not any(caller.is_alive() for caller in callers)
    assert wrong == []


def test_threads_end_with_their_caller(
    kernels: Kernels, product: tuple[torch.Tensor, Int8Weight, torch.Tensor]
) -> None:
    x, weight, _ = product
    kernels.set_threads(4)
    before = len(os.listdir("/proc/self/task"))
    for _ in range(3):
        caller = threading.Thread(target=kernels.linear_int8, args=(x, weight))
        caller.start()
        caller.join(timeout=60)
    deadline = time.monotonic() + 30
    while len(os.listdir("/proc/self/task")) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/task")) <= before


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(
    kernels: Kernels, product: tuple[torch.Tensor, Int8Weight, torch.Tensor]
) -> None:
    x, weight, expected = product
    kernels.set_threads(3)
    kernels.linear_int8(x, weight)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if torch.equal(kernels.linear_int8(x, weight), expected) else 2
        finally:  # never back into pytest
            os._exit(code)
    assert exit_code(child) == 0


@pytest.mark.parametrize("computes", [False, True])
def test_a_forked_process_ends(kernels: Kernels, computes: bool) -> None:
    """Its exit must not wait for the parent's threads, nor for one that has come in the place of such a thread."""
    forks = [sys.executable, "-c", FORKS, str(int(computes))]
    found = subprocess.run(forks, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert found.returncode == 7, found.stderr


def exit_code(child: int) -> int:
    """A child process's; 124 where it does not end."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 124
