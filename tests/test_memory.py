"""Memory: ops keep none of it, and commands do not give it back to the system in every step."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from fastgen import cli, sampling
from fastgen._memory import keep_freed_memory
from fastgen.models import PixelCNN
from op_arguments import ARGUMENTS

GLIBC = hasattr(ctypes.CDLL(None), "mallinfo2")
needs_glibc = pytest.mark.skipif(not GLIBC, reason="asks glibc, 2.33 or later, how much is in use")


NAMES = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class Info(ctypes.Structure):
    """``struct mallinfo2``."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in NAMES)


def in_use() -> int:
    """Bytes that are allocated now and not freed, of the main thread's arena and mapped ones."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Info
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd


def kept(call: Callable[[], object], calls: int = 500) -> float:
    """Bytes that a call leaves behind, at the least over three times so many."""
    found = []
    for _ in range(3):
        for _ in range(50):
            call()
        before = in_use()
        for _ in range(calls):
            call()
        found.append((in_use() - before) / calls)
    return min(found)


@needs_glibc
def test_what_is_kept_is_seen() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    assert kept(lambda: libc.malloc(ctypes.c_size_t(32))) >= 32


@needs_glibc
@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_op_keeps_nothing(name: str) -> None:
    """Not even the 48 bytes that torch's own reading of a str leaves behind: a step calls ops a hundred times."""
    arguments = ARGUMENTS[name][0](torch.float32)
    op = getattr(torch.ops.fastgen, name).default
    torch.set_deterministic_debug_mode("default")  # it warns at what some references do
    with torch.no_grad():
        assert kept(lambda: op(*arguments)) < 8


@needs_glibc
def test_ops_of_a_cpu_alone_keep_nothing() -> None:
    x, weight, bias = torch.randn(2, 3, 4, 4), torch.randn(3, 5, 4, 4), torch.randn(5)
    ops = torch.ops.fastgen
    assert kept(lambda: ops.conv_transpose2d_products.default(x, weight, bias, [2, 2], [1, 1], [0, 0])) < 8
    image = ops.conv_transpose2d_image.default
    assert kept(lambda: image(x, weight, bias, [2, 2], [1, 1], [0, 0], "tanh", 0.0)) < 8
    vectors = (None, None, torch.zeros(3), torch.ones(3))
    assert kept(lambda: ops.batch_norm_running.default(x, *vectors, 0.1, "relu", 0.0, True)) < 8
    assert kept(lambda: ops.batch_norm_train.default(x, None, None, 0.1, "relu", 0.0)) < 8


@needs_glibc
def test_sampling_keeps_nothing() -> None:
    """Neither drawing nor compiling; of Python's own dictionaries some grow for a while."""
    model = PixelCNN(channels=2, layers=1, image_size=4)
    assert kept(lambda: model.sample(1, seed=0), 100) < 64
    assert kept(lambda: sampling.compile(model, (1, 4, 4), model.distribution, "[-1, 1]"), 10) < 4096


FAULTS = """
import resource, sys
from fastgen._memory import keep_freed_memory
from fastgen.models import PixelCNN
done = len(sys.argv) > 1 and keep_freed_memory()
def once():
    blocks = [bytearray(3 << 20) for _ in range(8)]
for _ in range(4):
    once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    once()
print(done, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10)
"""


@needs_glibc
def test_what_is_freed_is_there_the_next_time() -> None:
    def found(*arguments: str, **environment: str) -> tuple[bool, int]:
        command = [sys.executable, "-c", FAULTS, *arguments]
        said = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True).stdout
        done, pages = said.split()
        return done == "True", int(pages)

    assert found()[1] > 3000, "glibc has begun to keep what is freed: this is not needed any more"
    done, pages = found("keep")
    assert done
    assert pages < 300
    assert not found("keep", MALLOC_TRIM_THRESHOLD_="131072")[0], "chosen by the user"


def test_commands_ask_for_it_and_benchmarks_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: asked.append(sys.argv[1]))
    for command in ("--version", "bench"):
        monkeypatch.setattr(cli, "main", lambda: 0)
        monkeypatch.setattr("fastgen.training.distributed.leave", lambda code: None)
        monkeypatch.setattr("sys.argv", ["fastgen", command])
        with pytest.raises(SystemExit):
            cli.command()
    assert asked == ["--version"]


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgen._memory.ctypes.CDLL", lambda name: object())
    assert keep_freed_memory() is False
