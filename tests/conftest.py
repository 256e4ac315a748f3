"""What every test shares: seeds, poisoned memory, Ctrl-C, and the devices of this machine."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fastgen.ops import _dtypes
from fastgen.ops._registry import OPS
from simt.shim import Shim, build
from sizes import fuse_at_every_size

#: Triton decides when it is imported whether it interprets. ``test_triton.py`` runs these files in such a process.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if INTERPRETED:
    from interpreter import quicken

    quicken()
collect_ignore = [] if INTERPRETED else ["test_interpreter_triton.py"]
collect_ignore_glob = [] if INTERPRETED or torch.cuda.is_available() else ["test_*_triton.py"]

DEVICES = ["cpu"] + [pytest.param("cuda", marks=pytest.mark.gpu)] * torch.cuda.is_available()

_dtypes._HAS_AMX = False  # with it torch computes bfloat16, and the tests are of what computes it elsewhere

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as shells start what runs behind them; tests send it
    signal.signal(signal.SIGINT, signal.default_int_handler)


#: As many threads as torch likes have the tests of compiled code: of ops, and of samplers. All others have one: threads
#: that wait for each other in oneDNN spin, on a busy machine until the other one's turn comes, for 20 times as long as
#: a small model takes to learn.
THREADS, THREADED = torch.get_num_threads(), (*OPS, "sampling", "compile")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Threads of a test, of its fixtures, and of the processes that it starts."""
    threaded = item.path.stem.removeprefix("test_").startswith(THREADED)
    torch.set_num_threads(THREADS if threaded else 1)
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())


def pytest_report_header() -> str:
    where = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else "none here: the tests of CUDA kernels need one"
    )
    return f"torch {torch.__version__}, {THREADS} threads, CUDA device: {where}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first: of several processes (pytest -n 2) none is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _repeatable(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Seed every test, fill memory that torch hands out uninitialised with NaN, and print for 80 columns anywhere.

    What can be made again is kept where the test's process keeps its files, and made by few steps.
    """
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FASTGEN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    torch.manual_seed(0)
    torch.set_deterministic_debug_mode("warn")  # without the compiler, which use_deterministic_algorithms imports
    yield
    torch.set_deterministic_debug_mode("default")
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()  # a function that a compiler has left out for one test is left out for others


@pytest.fixture(autouse=True)
def _fused_at_every_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused modules run the ops on small tensors, too, so that tests test them; unless it is sizes that are tested."""
    if request.path.name.startswith("test_fuse") and request.path.name != "test_fuse_sizes.py":
        fuse_at_every_size(monkeypatch.setattr)


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shim]:
    """The machine on which CUDA C++ kernels run without a GPU."""
    kernels = Shim(build(tmp_path_factory.mktemp("simt")))
    yield kernels
    kernels.close()


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Feature classifiers of small data that are trained in a moment."""
    monkeypatch.setattr("fastgen.quality.training.STEPS", 30)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder without runs/, which the repository's may have."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)])
def triton_device(request: pytest.FixtureRequest) -> str:
    """Where Triton kernels run in this process: on CPU tensors when interpreted, else on the GPU."""
    return request.param


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param
