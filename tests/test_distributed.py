"""Two processes on gloo are one process with the same batches: losses and weights, to rounding."""

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from fastgen.training import CheckpointError, Recipe, Run, Trainer
from fastgen.training import checkpoint as checkpoints
from parity import assert_parity
from trainers import lines, new_run

pytest.importorskip("safetensors", reason="safetensors comes with fastgen[train]")
pytest.importorskip("tqdm", reason="tqdm comes with fastgen[train]")

CODER = Recipe(
    epochs=2, batch_size=12, accumulate=2, optimizer="sgd", lr=0.5, warmup=3, schedule="linear", ema=0.8, seed=3
)
PLAYED = dataclasses.replace(CODER, lr=0.05, schedule="constant", clip=0.5, save_every=1)
IMAGES = 37
"""The last batch of an epoch has one image: the second process has none."""


def build(what: str, run: Run | None, dtype: torch.dtype = torch.float32, **changes: Any) -> Trainer:
    """A trainer without randomness inside of its model."""
    torch.manual_seed(3)
    if what == "coder":
        return Trainer(tiny.Coder().to(dtype), dataclasses.replace(CODER, **changes), run)
    model = tiny.Game(noise=False).to(dtype)
    return Trainer(model, dataclasses.replace(PLAYED, **changes), run, tiny.GameObjective(model))


CHILD = """
import os, sys
from pathlib import Path
import torch
import tiny
from fastgen.training import Run, distributed
from test_distributed import IMAGES, build
what, folder, stop = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
with distributed.processes(torch.device("cpu")):
    training = build(what, Run(folder), epochs=stop)
    if training.run.has_checkpoint:
        training.resume()
    training.fit(tiny.images(IMAGES), tiny.images())
"""


def two(*arguments: object, code: str = CHILD) -> list[subprocess.CompletedProcess]:
    """Run ``code`` as torchrun would run it in two processes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": paths}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    children = [
        subprocess.Popen(
            command,
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    done = []
    for child in children:
        out, err = child.communicate(timeout=300)
        done.append(subprocess.CompletedProcess(command, child.returncode, out, err))
    return done


def succeed(what: str, folder: Path, epochs: int) -> None:
    folder.mkdir(exist_ok=True)
    for child in two(what, folder, epochs):
        assert child.returncode == 0, child.stderr


@pytest.mark.parametrize("what", ["coder", "game"])
def test_two_processes_are_one(tmp_path: Path, what: str) -> None:
    succeed(what, tmp_path / "two", 2)
    data = tiny.images(IMAGES)
    alone = build(what, new_run(tmp_path / "alone"))
    alone.fit(data, tiny.images())
    exact = build(what, new_run(tmp_path / "exact"), torch.float64)
    exact.fit(data, tiny.images())

    together = checkpoints.load(tmp_path / "two/checkpoints")
    for role, module, true in [("model", alone.model, exact.model), ("ema", alone.ema, exact.ema)]:
        assert_parity(flat(together.weights[role]), flat(module.state_dict()), flat(true.state_dict()))
    for one, other, true in zip(*(lines(Run(tmp_path / name)) for name in ("two", "alone", "exact")), strict=True):
        assert one.keys() == other.keys()
        assert (one["epoch"], one["step"]) == (other["epoch"], other["step"])
        losses = [key for key in one if key.startswith(("train_", "held_out_"))]
        numbers = [torch.tensor([line[key] for key in losses], dtype=torch.float64) for line in (one, other, true)]
        assert_parity(numbers[0].float(), numbers[1].float(), numbers[2])


def flat(weights: dict[str, Tensor]) -> Tensor:
    return torch.cat([weights[key].flatten() for key in sorted(weights)])


def test_two_processes_resumed_are_unbroken(tmp_path: Path) -> None:
    succeed("game", tmp_path / "unbroken", 2)
    succeed("game", tmp_path / "stopped", 1)
    succeed("game", tmp_path / "stopped", 2)
    one, other = (
        checkpoints.load(tmp_path / name / "checkpoints", with_state=True) for name in ("stopped", "unbroken")
    )
    for role, part in one.weights.items():
        assert all(torch.equal(tensor, other.weights[role][key]) for key, tensor in part.items())
    assert lines(Run(tmp_path / "stopped")) == lines(Run(tmp_path / "unbroken"))
    randoms = [process["random"]["torch"] for process in one.state["processes"]]
    assert not torch.equal(*randoms), "two processes draw the same noise"
    assert all(
        torch.equal(process["random"]["torch"], same["random"]["torch"])
        for process, same in zip(one.state["processes"], other.state["processes"], strict=True)
    )
    with pytest.raises(CheckpointError, match="expected 2 processes, as it is of, got 1"):
        build("game", Run(tmp_path / "stopped")).resume()


REFUSED = """
import sys
from pathlib import Path
import torch
import tiny
from fastgen.training import ElsewhereError, Run, distributed
from test_distributed import build
with distributed.processes(torch.device("cpu")):
    try:
        build("coder", None, batch_size=10)
    except ValueError as error:
        print(error)
    def fail():
        raise OSError("no space")
    try:
        distributed.first_only(fail)
    except (OSError, ElsewhereError) as error:
        print(type(error).__name__, error)
"""


def test_failures_in_two_processes() -> None:
    first, second = two(code=REFUSED)
    uneven = "batch_size: expected a multiple of 4, 2 processes times accumulate 2, got 10\n"
    assert first.stdout == uneven + "OSError no space\n", first.stderr
    said = "ElsewhereError process 1: stopped, since the first process failed: OSError: no space\n"
    assert second.stdout == uneven + said, second.stderr
