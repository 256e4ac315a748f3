"""A resumed run is the run that was never stopped, bit for bit: one player or two, whatever the recipe."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import tiny
from fastgen.training import CheckpointError, Run
from fastgen.training import checkpoint as checkpoints
from trainers import CONFIG, GAME, RECIPE, assert_same, game, lines, new_run, trainer

pytest.importorskip("safetensors", reason="safetensors comes with fastgen[train]")
pytest.importorskip("tqdm", reason="tqdm comes with fastgen[train]")


@pytest.mark.parametrize("make", [trainer, game])
@pytest.mark.parametrize("stop", [1, 2, 3, 4, 7, 9, 12, 14, 16])
def test_resumed_is_unbroken(tmp_path: Path, stop: int, make: Callable) -> None:
    """Stopped after any step, in the middle of an epoch or not, and resumed: the same weights and metrics, exactly."""
    data = tiny.images()
    recipe = dataclasses.replace(RECIPE if make is trainer else GAME, flip=True)
    unbroken = make(new_run(tmp_path / "unbroken"), recipe)
    unbroken.fit(data, data)

    run = new_run(tmp_path / "stopped")
    stopped = make(run, recipe)
    compute = stopped.players[-1].gradient

    def interrupted(*arguments: object) -> object:
        if stopped.position.step >= stop:
            raise KeyboardInterrupt
        return compute(*arguments)

    stopped.players[-1].gradient = interrupted
    with suppress(KeyboardInterrupt):  # after the last step there is none to be stopped in
        stopped.fit(data, data)
    torch.rand(stop)  # a new process has other random numbers behind it
    resumed = make(run, recipe)
    if run.has_checkpoint:
        resumed.resume()
    resumed.fit(data, data)
    assert_same(resumed, unbroken)
    assert lines(run) == lines(unbroken.run)
    best, wanted = (checkpoints.load(one.checkpoints, "best") for one in (run, unbroken.run))
    assert all(torch.equal(tensor, wanted.weights["ema"][key]) for key, tensor in best.weights["ema"].items())


def test_the_scaler_goes_on(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, precision="float16")
    data, run = tiny.images(), new_run(tmp_path / "run")
    trained = trainer(run, dataclasses.replace(recipe, epochs=2))
    trained.fit(data, data)
    resumed = trainer(run, recipe)
    resumed.resume()
    assert resumed.players[0].scaler.state_dict() == trained.players[0].scaler.state_dict()
    assert resumed.players[0].scaler.state_dict()["_growth_tracker"] == 8, "it counts the steps"


def test_an_epoch_is_kept_whatever_on_epoch_does(tmp_path: Path) -> None:
    def failing(record: dict) -> None:
        if record["epoch"] == 2:
            raise OSError("no picture")

    data, run = tiny.images(), new_run(tmp_path / "run")
    with pytest.raises(OSError, match="no picture"):
        trainer(run).fit(data, data, failing)
    resumed = trainer(run)
    resumed.resume()
    assert resumed.position.epoch == 2
    resumed.fit(data, data)
    unbroken = trainer(new_run(tmp_path / "unbroken"))
    unbroken.fit(data, data)
    assert lines(run) == lines(unbroken.run)
    assert_same(resumed, unbroken)


def test_going_back_to_the_best_epoch_lists_no_epoch_twice(tmp_path: Path) -> None:
    data, run = tiny.images(), new_run(tmp_path / "run")
    trainer(run).fit(data, data)
    with open(tmp_path / "run/metrics.jsonl", "a") as file:
        file.write('{"epoch": 5, "st')  # killed while writing
    again = trainer(run)
    again.resume("best")
    best = again.position.epoch
    assert len(lines(run)) == best
    again.fit(data, data)
    assert [line["epoch"] for line in lines(run)] == [1, 2, 3, 4]


CHILD = """
import sys
from pathlib import Path
import tiny
from fastgen.training import Run
from test_training_resume import LONG
from trainers import game
run = Run(Path(sys.argv[1]))
training = game(run, LONG)
if run.has_checkpoint:
    training.resume()
print("ready", flush=True)
training.fit(tiny.images(), tiny.images())
"""
LONG = dataclasses.replace(GAME, epochs=120)  # seconds: far from over when a kill comes


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_is_unbroken(tmp_path: Path) -> None:
    data, run = tiny.images(), new_run(tmp_path / "run")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    for delay in torch.rand(2).tolist():
        command = [sys.executable, "-c", CHILD, str(run.folder)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            assert child.stdout.readline() == b"ready\n"
            time.sleep(delay / 4)
            child.send_signal(signal.SIGKILL)
    resumed = game(run, LONG)
    if run.has_checkpoint:
        resumed.resume()
    assert resumed.position.epoch < LONG.epochs, "the kills came too late to test anything"
    resumed.fit(data, data)
    unbroken = game(new_run(tmp_path / "unbroken"), LONG)
    unbroken.fit(data, data)
    assert_same(resumed, unbroken)
    assert lines(run) == lines(unbroken.run)
    assert not list(tmp_path.rglob("*.tmp"))


def test_resuming_another_model_names_the_weight(tmp_path: Path) -> None:
    run, data = new_run(tmp_path / "run"), tiny.images()
    trainer(run).fit(data, data)
    other = trainer(run, kind=lambda: tiny.Tiny(hidden=7))
    message = r"last\.safetensors: holds another model: expected model\.code \(1, 7\), got \(1, 6\)"
    with pytest.raises(CheckpointError, match=message):
        other.resume()
    with pytest.raises(ValueError, match="run: expected the run to resume, got None"):
        trainer().resume()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "written by a version of fastgen that kept other state"),
        ({"processes": [{}, {}]}, "expected 2 processes, as it is of, got 1"),
        ({"players": {"judge": {}}}, "expected the players model, got judge"),
    ],
)
def test_states_that_cannot_be_resumed(tmp_path: Path, change: dict, message: str) -> None:
    run, data = new_run(tmp_path / "run"), tiny.images()
    trained = trainer(run, dataclasses.replace(RECIPE, epochs=1))
    trained.fit(data, data)
    kept = checkpoints.load(run.checkpoints, with_state=True)
    checkpoints.save(run.checkpoints, ("last",), kept.weights, kept.state | change)
    with pytest.raises(CheckpointError, match=message):
        trainer(run).resume()


def test_a_run_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=f"{tmp_path}: expected a new or empty folder$"):
        Run(tmp_path).create({})
    with pytest.raises(FileNotFoundError, match=r"expected the folder of a run, with a config\.json"):
        Run(tmp_path).config()


@pytest.mark.parametrize("text", ["{", "\xff", "{}", "[]", "1"])
def test_broken_config(tmp_path: Path, text: str) -> None:
    run = Run(tmp_path)
    (tmp_path / "config.json").write_text(text, encoding="latin1")
    with pytest.raises(ValueError, match=r"config\.json: corrupted"):
        run.config()
    for part, keys in CONFIG.items():
        for key in keys:
            run.write_config(CONFIG | {part: {other: value for other, value in keys.items() if other != key}})
            with pytest.raises(ValueError, match=rf"config\.json: corrupted: expected {part} with {key}"):
                run.config()


@pytest.mark.parametrize("line", ["garbage", "\xff", "{}", "1"])
def test_broken_metrics(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n' + line + '\n{"epoch": 3}\n', encoding="latin1")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: corrupted"):
        Run(tmp_path).rewind(3)
