"""Checkpoints: whatever happens while one is written, the last good one loads; what is broken is named."""

import errno
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import pytest
import torch

import tiny
from fastgen import _files
from fastgen.training import CheckpointError
from fastgen.training import checkpoint as checkpoints

pytest.importorskip("safetensors", reason="safetensors comes with fastgen[train]")


def save(folder: Path, step: int, names: tuple[str, ...] = ("last",)) -> None:
    """A checkpoint whose two halves both say which step they are of."""
    weights = {role: {"w": torch.full((500, 3), float(step)), "n": torch.tensor(step)} for role in ("model", "ema")}
    checkpoints.save(folder, names, weights, {"step": step, "moments": torch.full((50,), float(step))})


def step_of(folder: Path, name: str = "last") -> int:
    loaded = checkpoints.load(folder, name, with_state=True)
    steps = {loaded.state["step"], *loaded.state["moments"].int().tolist()}
    for part in loaded.weights.values():
        steps |= {part["n"].item(), *part["w"].int().flatten().tolist()}
    assert len(steps) == 1, "the halves of a checkpoint belong to different steps"
    return steps.pop()


def states(folder: Path) -> list[Path]:
    return list(folder.glob("state-*.pt"))


def test_reads_back_and_drops_what_is_no_longer_used(tmp_path: Path) -> None:
    save(tmp_path, 1, ("last", "best"))
    assert len(states(tmp_path)) == 1
    save(tmp_path, 2)
    assert (step_of(tmp_path), step_of(tmp_path, "best"), len(states(tmp_path))) == (2, 1, 2)
    save(tmp_path, 3)
    assert (step_of(tmp_path), step_of(tmp_path, "best"), len(states(tmp_path))) == (3, 1, 2)
    (tmp_path / "last.safetensors").write_bytes((tmp_path / "best.safetensors").read_bytes())
    assert step_of(tmp_path) == 1


def test_files_need_no_fastgen_to_be_read(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    weights = {"model": {"bfloat16": torch.ones(2, 3, dtype=torch.bfloat16).T, "scalar": torch.tensor(True)}}
    checkpoints.save(tmp_path, ("last",), weights, {"nested": {"list": [1, 2.5, None, "x"]}})
    read = load_file(tmp_path / "last.safetensors")
    assert all(torch.equal(read[f"model.{key}"], tensor) for key, tensor in weights["model"].items())
    assert torch.load(states(tmp_path)[0], weights_only=True) == {"nested": {"list": [1, 2.5, None, "x"]}}
    assert checkpoints.load(tmp_path, with_state=True).state == {"nested": {"list": [1, 2.5, None, "x"]}}


@contextmanager
def interrupt_at(line: int) -> Iterator[list[int]]:
    """Raise KeyboardInterrupt before the ``line``-th line that saving runs, as Ctrl-C would; yields how many ran."""
    ran = [0]

    def trace(frame: FrameType, event: str, _: object) -> Callable | None:
        if frame.f_code.co_filename not in (checkpoints.__file__, _files.__file__):
            return None
        if event == "line":
            ran[0] += 1
            if ran[0] == line:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield ran
    finally:
        sys.settrace(before)


def test_ctrl_c_at_every_line_of_saving(tmp_path: Path) -> None:
    save(tmp_path, 0, ("last", "best"))
    outcomes = set()
    for line in itertools.count(1):
        before = step_of(tmp_path), step_of(tmp_path, "best")
        with suppress(KeyboardInterrupt), interrupt_at(line) as ran:
            save(tmp_path, line, ("last", "best"))
        now = step_of(tmp_path), step_of(tmp_path, "best")
        assert all(step in (old, line) for step, old in zip(now, before, strict=True))
        outcomes.add(tuple(step == line for step in now))
        if ran[0] < line:
            break
    assert outcomes == {(False, False), (True, True)}, "one step makes a checkpoint current under both names"
    assert now == (line, line)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".pt"}, "temporary files are left"
    assert len(states(tmp_path)) == 1


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 6])
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, k: int) -> None:
    """The k-th call of saving fails as on a full disk."""
    original, calls = getattr(os, call), itertools.count(1)

    def failing(*args: object) -> None:
        if next(calls) == k:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(*args)

    save(tmp_path, 1, ("last", "best"))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        if call == "replace" and k > 3:
            save(tmp_path, 2, ("last", "best"))
            return
        message = (
            r"cannot be written: No space left on device; good in this folder: best\.safetensors, last\.safetensors"
        )
        with pytest.raises(CheckpointError, match=message):
            save(tmp_path, 2, ("last", "best"))
    assert step_of(tmp_path) in (1, 2)
    assert step_of(tmp_path, "best") in (1, 2)
    assert not list(tmp_path.glob(".*")), "temporary files are left"


@pytest.mark.parametrize("limit", [0, 100, 5000])
def test_disk_that_takes_no_more_bytes(tmp_path: Path, limit: int) -> None:
    """The system itself refuses to write beyond ``limit`` bytes of a file."""
    resource = pytest.importorskip("resource", reason="limits of file sizes are POSIX")
    save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(
            CheckpointError, match="cannot be written: File too large; good in this folder: last"
        ) as raised:
            save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path) in str(raised.value)
    assert step_of(tmp_path) == 1
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".pt"}, "temporary files are left"


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def emptied(data: bytes) -> bytes:
    return b""


def flipped(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


def other(data: bytes) -> bytes:
    return b"not a checkpoint at all"


@pytest.mark.parametrize("damage", [truncated, emptied, flipped, other])
@pytest.mark.parametrize("half", ["last.safetensors", "state"])
def test_corrupted_files_are_named_and_the_good_one_too(tmp_path: Path, damage: Callable, half: str) -> None:
    save(tmp_path, 1, ("best",))
    (kept,) = states(tmp_path)
    save(tmp_path, 2, ("last",))
    path = tmp_path / half if half != "state" else next(state for state in states(tmp_path) if state != kept)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=f"{path}: corrupted.*; good in this folder: best.safetensors$"):
        checkpoints.load(tmp_path, with_state=True)
    assert step_of(tmp_path, "best") == 1
    kept.unlink()
    with pytest.raises(CheckpointError, match=f"{path}: corrupted.*; good in this folder: no checkpoint$"):
        checkpoints.load(tmp_path, with_state=True)
    save(tmp_path, 3, ("last", "best"))
    assert step_of(tmp_path) == step_of(tmp_path, "best") == 3


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"last\.safetensors: cannot be read: No such file.*no checkpoint"):
        checkpoints.load(tmp_path)
    from safetensors.torch import save_file

    save_file({"w": torch.ones(1)}, tmp_path / "last.safetensors")
    with pytest.raises(CheckpointError, match=r"last\.safetensors: expected a checkpoint of fastgen"):
        checkpoints.load(tmp_path)
    save_file({"w": torch.ones(1)}, tmp_path / "last.safetensors", {"format": "fastgen-1", "state": "state-0.pt"})
    with pytest.raises(CheckpointError, match=r"last\.safetensors: corrupted: expected state and sha256 in its meta"):
        checkpoints.load(tmp_path)


def test_restore_names_the_weight_that_differs(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, ("last",), {"model": tiny.Tiny(hidden=5).state_dict()}, {})
    loaded = checkpoints.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds another model: expected model\.code \(1, 6\), got \(1, 5\)"):
        loaded.restore(tiny.Tiny(), "model")
    with pytest.raises(CheckpointError, match=r"holds another model: expected model\.bias \(2,\), got none"):
        loaded.restore(torch.nn.Linear(2, 2), "model")
    loaded.restore(tiny.Tiny(hidden=5), "model")
