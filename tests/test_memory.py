"""Memory: ops keep none of it, and commands do not give it back to the system in every step."""

import ctypes
import mmap
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from fastgen import cli, keep_freed_memory, sampling
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
import fastgen
size, number = int(sys.argv[1]) << 20, int(sys.argv[2])
done = len(sys.argv) > 3 and fastgen.keep_freed_memory()
def once():
    blocks = [bytearray(size) for _ in range(number)]
for _ in range(4):
    once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    once()
print(done, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10)
"""


def faults(megabytes: int, number: int, *arguments: str) -> tuple[bool, int]:
    """Whether it was done, and pages that one round of so many blocks waited for."""
    command = [sys.executable, "-c", FAULTS, str(megabytes), str(number), *arguments]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    done, pages = said.split()
    return done == "True", int(pages)


@needs_glibc
@pytest.mark.parametrize(("megabytes", "number"), [(3, 8), (50, 2)])
def test_what_is_freed_is_there_the_next_time(megabytes: int, number: int) -> None:
    """Of blocks below what glibc maps apart at most, 32 MB, and above."""
    plain = megabytes * number * 2**20 // mmap.PAGESIZE
    assert faults(megabytes, number)[1] > plain // 2, "glibc has begun to keep it: this is not needed any more"
    done, pages = faults(megabytes, number, "keep")
    assert done
    assert pages < plain // 20


@needs_glibc
@pytest.mark.parametrize("name", ["TRIM_THRESHOLD", "MMAP_THRESHOLD", "MMAP_MAX", "TOP_PAD"])
def test_what_the_user_has_chosen_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MALLOC_{name}_", "131072")
    assert keep_freed_memory() is False
    monkeypatch.delenv(f"MALLOC_{name}_")
    monkeypatch.setenv("GLIBC_TUNABLES", f"glibc.malloc.{name.lower()}=131072")
    assert keep_freed_memory() is False


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


@needs_glibc
def test_with_an_allocator_before_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    glibc, asked = ctypes.CDLL("libc.so.6"), []

    def load(name: str | None) -> SimpleNamespace:
        return SimpleNamespace(
            malloc=glibc.malloc if name else first, gnu_get_libc_version=None, mallopt=lambda *a: asked.append(a) or 1
        )

    monkeypatch.setattr("fastgen._memory.ctypes.CDLL", load)
    first = glibc.calloc
    assert keep_freed_memory() is False
    assert not asked
    first = glibc.malloc
    assert keep_freed_memory() is True
    assert asked == [(-1, 2**30), (-4, 0)]
