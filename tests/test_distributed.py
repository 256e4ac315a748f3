"""Two processes on gloo, as torchrun starts them, are one process with the same batches, to rounding."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastgen.training import CheckpointError, Run
from fastgen.training import checkpoint as checkpoints
from parity import assert_parity
from processes import SIGNALLED, build, images
from trainers import lines, new_run

pytest.importorskip("safetensors", reason="safetensors comes with fastgen[train]")
pytest.importorskip("tqdm", reason="tqdm comes with fastgen[train]")

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def torchrun(*arguments: object) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [*TORCHRUN, str(HERE / "processes.py"), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes, by name."""
    folder = tmp_path_factory.mktemp("two")
    torchrun("begin", folder)
    return folder


@pytest.mark.parametrize("what", ["coder", "game", "told", "gan", "began", "infogan", "aae", "pixels", "codes"])
def test_two_processes_are_one(tmp_path: Path, two: Path, what: str) -> None:
    data, held_out = images(what)
    alone = build(what, new_run(tmp_path / "alone"))
    alone.fit(data, held_out)
    exact = build(what, new_run(tmp_path / "exact"), torch.float64)
    exact.fit(data, held_out)

    together = checkpoints.load(two / what / "checkpoints")
    for role, module, true in [("model", alone.model, exact.model), ("ema", alone.ema, exact.ema)]:
        assert_parity(flat(together.weights[role]), flat(module.state_dict()), flat(true.state_dict()))
    folders = (two / what, tmp_path / "alone", tmp_path / "exact")
    for one, other, true in zip(*(lines(Run(folder)) for folder in folders), strict=True):
        assert one.keys() == other.keys()
        assert (one["epoch"], one["step"]) == (other["epoch"], other["step"])
        losses = [key for key in one if key.startswith(("train_", "held_out_"))]
        numbers = [torch.tensor([line[key] for key in losses], dtype=torch.float64) for line in (one, other, true)]
        assert_parity(numbers[0].float(), numbers[1].float(), numbers[2])


def flat(weights: dict[str, Tensor]) -> Tensor:
    return torch.cat([weights[key].flatten() for key in sorted(weights)])


@pytest.fixture(scope="module")
def resumed(two: Path) -> Path:
    """The same folder, when those runs that were stopped are at their end."""
    torchrun("resume", two)
    return two


@pytest.mark.parametrize(("stopped", "unbroken"), [("stopped", "game"), ("signalled", "coder")])
def test_two_processes_resumed_are_unbroken(resumed: Path, stopped: str, unbroken: str) -> None:
    one, other = (checkpoints.load(resumed / name / "checkpoints") for name in (stopped, unbroken))
    for role, part in one.weights.items():
        assert all(torch.equal(tensor, other.weights[role][key]) for key, tensor in part.items())
    assert lines(Run(resumed / stopped)) == lines(Run(resumed / unbroken))


def test_a_signal_to_one_process_stops_both_after_the_same_step(resumed: Path) -> None:
    for rank in range(2):
        assert (resumed / f"signalled/stopped{rank}.txt").read_text() == f"{signal.SIGTERM.value} {SIGNALLED}"
        assert (resumed / f"signalled/resumed{rank}.txt").read_text() == f"{SIGNALLED}", "steps were lost"


def test_random_numbers_of_two_processes(resumed: Path) -> None:
    one, other = (checkpoints.load(resumed / name / "checkpoints", with_state=True) for name in ("stopped", "game"))
    mine, theirs = ([process["random"]["torch"] for process in loaded.state["processes"]] for loaded in (one, other))
    assert all(map(torch.equal, mine, theirs))
    assert not torch.equal(*mine), "two processes draw the same noise"
    with pytest.raises(CheckpointError, match="expected 2 processes, as it is of, got 1"):
        build("game", Run(resumed / "stopped")).resume()


def test_failures_in_two_processes(two: Path) -> None:
    first, second = ((two / f"failures{rank}.txt").read_text().splitlines() for rank in range(2))
    uneven = "ValueError batch_size: expected a multiple of 4, 2 processes times accumulate 2, got 10"
    short = (
        "ValueError train: expected an image of every batch for each process and part of a step, since batch norms"
        " share batches, got a last batch of 1 among 2; drop_last leaves it out, and without sync_batch_norm each"
        " process has statistics of its own"
    )
    few = (
        "ValueError train: expected an image of every batch for each process and part of a step, since VQVAE shares"
        " batches, got a last batch of 1 among 2; drop_last leaves it out"
    )
    assert first == [uneven, "OSError no space", short, few]
    elsewhere = "ElsewhereError process 1: stopped, since the first process failed: OSError: no space"
    assert second == [uneven, elsewhere, short, few]
