"""The loop: it learns, it stops on non-finite numbers, and a resumed run is the run that was never stopped."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tiny
from fastgen.training import CheckpointError, NonFiniteError, Recipe, Run, Trainer, evaluate
from fastgen.training import checkpoint as checkpoints

pytest.importorskip("safetensors", reason="safetensors comes with fastgen[train]")
pytest.importorskip("tqdm", reason="tqdm comes with fastgen[train]")

RECIPE = Recipe(epochs=4, batch_size=12, lr=0.1, warmup=3, schedule="cosine", ema=0.8, clip=0.5, seed=3, save_every=2)


def trainer(run: Run | None = None, recipe: Recipe = RECIPE, nats=tiny.nats) -> Trainer:
    torch.manual_seed(recipe.seed)
    return Trainer(tiny.Tiny(), nats, recipe, run)


def weights(trained: Trainer) -> dict[str, Tensor]:
    return {
        f"{role}.{key}": tensor
        for role, module in (("model", trained.model), ("ema", trained.ema))
        for key, tensor in module.state_dict().items()
    }


def lines(run: Run) -> list[dict]:
    """metrics.jsonl without what differs from run to run: the clock."""
    kept = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in kept]


def test_learns_and_reports(tmp_path: Path) -> None:
    run, data, seen = Run(tmp_path / "run").create(CONFIG), tiny.images(), []
    trained = trainer(run, dataclasses.replace(RECIPE, epochs=12))
    before = evaluate(trained.model, tiny.nats, data)
    trained.fit(data, data, seen.append)
    after = evaluate(trained.ema, tiny.nats, data)
    assert after.nats < before.nats - 3
    assert [line["epoch"] for line in lines(run)] == list(range(1, 13))
    assert json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1]) == seen[-1]
    assert seen[-1]["held_out_nats"] == after.nats
    assert seen[-1]["step"] == 12 * math.ceil(40 / 12)
    assert run.config() == CONFIG


def test_likelihood_is_nats_per_image_with_its_standard_error() -> None:
    data, model = tiny.images(), tiny.Tiny()
    likelihood = evaluate(model, tiny.nats, data, batch_size=7)
    every = tiny.nats(model.eval(), data.values.long(), None).double()
    assert likelihood.nats == pytest.approx(every.mean().item())
    assert likelihood.nats_error == pytest.approx((every.var() / 40).sqrt().item())
    assert likelihood.bits_per_dim == pytest.approx(every.mean().item() / 16 / math.log(2))
    assert (likelihood.images, likelihood.dims) == (40, 16)


def test_evaluating_leaves_every_module_in_its_mode() -> None:
    def failing(*_: object) -> Tensor:
        raise KeyboardInterrupt

    model = tiny.Tiny().train()
    model.logits.eval()
    evaluate(model, tiny.nats, tiny.images())
    assert (model.training, model.logits.training) == (True, False)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, failing, tiny.images())
    assert (model.training, model.logits.training) == (True, False)


def test_what_is_not_a_number_is_null(tmp_path: Path) -> None:
    run, data, seen = Run(tmp_path / "run").create(CONFIG), tiny.images(), []
    trainer(run, dataclasses.replace(RECIPE, epochs=1)).fit(data, data.subset(1), seen.append)
    run.rewind(1)
    (line,) = lines(run)
    assert line["held_out_nats_error"] is None
    assert math.isnan(seen[0]["held_out_nats_error"])
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_config({"lr": math.inf})


def test_schedule_and_average() -> None:
    recipe = Recipe(lr=2.0, warmup=3)
    assert [recipe.lr_at(step, 10) for step in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]
    recipe = Recipe(lr=2.0, schedule="cosine")
    assert [recipe.lr_at(step, 4) for step in (0, 2)] == [2.0, pytest.approx(1.0)]
    assert Recipe(ema=0.5).ema_at(1) == 2 / 11
    assert Recipe(ema=0.5).ema_at(100) == 0.5
    trained = trainer(recipe=dataclasses.replace(RECIPE, ema=0.0))
    trained.fit(tiny.images(), tiny.images())
    assert all(torch.equal(a, b) for a, b in zip(trained.ema.parameters(), trained.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("epochs", -1), ("epochs", 1.5), ("batch_size", 0), ("batch_size", 8.0), ("lr", 0.0), ("lr", math.nan)),
        *(("ema", 1.0), ("clip", -1.0), ("clip", math.inf), ("weight_decay", math.nan), ("weight_decay", math.inf)),
        *(("schedule", "linear"), ("seed", -1), ("seed", 2**63), ("seed", 0.5)),
    ],
)
def test_recipes_that_cannot_be(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field}: expected .*, got '?{value}"):
        dataclasses.replace(RECIPE, **{field: value})


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 7, 9, 12, 14, 16])
def test_resumed_is_unbroken(tmp_path: Path, stop: int) -> None:
    """Stopped after any step, in the middle of an epoch or not, and resumed: the same weights and metrics, exactly."""
    data = tiny.images()
    unbroken = trainer(Run(tmp_path / "unbroken").create({}))
    unbroken.fit(data, data)

    def interrupted(model: nn.Module, values: Tensor, labels: Tensor | None) -> Tensor:
        if model.training and stopped.position.step == stop:
            raise KeyboardInterrupt
        return tiny.nats(model, values, labels)

    run = Run(tmp_path / "stopped").create({})
    stopped = trainer(run, nats=interrupted)
    try:
        stopped.fit(data, data)
    except KeyboardInterrupt:
        torch.rand(stop)  # a new process has other random numbers behind it
    resumed = trainer(run)
    if stop >= 2:  # the first checkpoint
        resumed.resume()
    resumed.fit(data, data)
    assert weights(resumed).keys() == weights(unbroken).keys()
    assert all(torch.equal(tensor, weights(unbroken)[key]) for key, tensor in weights(resumed).items())
    assert lines(run) == lines(unbroken.run)
    best, wanted = (checkpoints.load(one.checkpoints, "best") for one in (run, unbroken.run))
    assert all(torch.equal(tensor, wanted.weights["ema"][key]) for key, tensor in best.weights["ema"].items())


def test_an_epoch_is_kept_whatever_on_epoch_does(tmp_path: Path) -> None:
    def failing(record: dict) -> None:
        if record["epoch"] == 2:
            raise OSError("no picture")

    data, run = tiny.images(), Run(tmp_path / "run").create({})
    with pytest.raises(OSError, match="no picture"):
        trainer(run).fit(data, data, failing)
    resumed = trainer(run)
    resumed.resume()
    assert resumed.position.epoch == 2
    resumed.fit(data, data)
    unbroken = trainer(Run(tmp_path / "unbroken").create({}))
    unbroken.fit(data, data)
    assert lines(run) == lines(unbroken.run)
    assert all(torch.equal(tensor, weights(unbroken)[key]) for key, tensor in weights(resumed).items())


def test_going_back_to_the_best_epoch_lists_no_epoch_twice(tmp_path: Path) -> None:
    data, run = tiny.images(), Run(tmp_path / "run").create({})
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
import sys, torch, tiny
from pathlib import Path
from fastgen.training import Run, Trainer
from test_training import RECIPE, trainer
run = Run(Path(sys.argv[1]))
training = trainer(run, RECIPE.__class__(**{**RECIPE.__dict__, "epochs": 60, "save_every": 1}))
if any(run.checkpoints.glob("last.safetensors")):
    training.resume()
print("ready", flush=True)
training.fit(tiny.images(), tiny.images())
"""


def test_killed_at_random_moments_and_resumed_is_unbroken(tmp_path: Path) -> None:
    data, run = tiny.images(), Run(tmp_path / "run").create({})
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    for delay in torch.rand(2).tolist():
        command = [sys.executable, "-c", CHILD, str(run.folder)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            assert child.stdout.readline() == b"ready\n"
            time.sleep(delay / 2)
            child.send_signal(signal.SIGKILL)
    recipe = dataclasses.replace(RECIPE, epochs=60)
    resumed = trainer(run, recipe)
    if (run.checkpoints / "last.safetensors").exists():
        resumed.resume()
    assert resumed.position.epoch < 60, "the kills came too late to test anything"
    resumed.fit(data, data)
    unbroken = trainer(Run(tmp_path / "unbroken").create({}), recipe)
    unbroken.fit(data, data)
    assert all(torch.equal(tensor, weights(unbroken)[key]) for key, tensor in weights(resumed).items())
    assert lines(run) == lines(unbroken.run)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_non_finite_numbers_stop_with_a_diagnosis(tmp_path: Path, where: str) -> None:
    def failing(model: nn.Module, values: Tensor, labels: Tensor | None) -> Tensor:
        nats = tiny.nats(model, values, labels)
        if model.training and training.position.step == 6:
            return nats * math.nan if where == "loss" else nats + (model.code.sum() - model.code.sum()).sqrt()
        return nats

    run, data = Run(tmp_path / "run").create({}), tiny.images()
    training = trainer(run, nats=failing)
    with pytest.raises(NonFiniteError, match=r"step 7 \(epoch 2\): loss .* last finite loss was .* nats in step 6"):
        training.fit(data, data)
    kept = checkpoints.load(run.checkpoints, with_state=True)
    assert kept.state["position"]["step"] == 6
    assert all(tensor.isfinite().all() for tensor in kept.weights["model"].values())


def test_a_run_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=f"{tmp_path}: expected a new or empty folder; --resume"):
        Run(tmp_path).create({})
    with pytest.raises(FileNotFoundError, match=r"expected the folder of a run, with a config\.json"):
        Run(tmp_path).config()


CONFIG = {
    "model": {"name": "m", "config": {}},
    "data": {"shape": [1, 4, 4], "levels": 3},
    "options": {"data": "x", "held_out": "test"},
}


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


def test_resuming_another_model_names_the_weight(tmp_path: Path) -> None:
    run, data = Run(tmp_path / "run").create({}), tiny.images()
    trainer(run).fit(data, data)
    other = Trainer(tiny.Tiny(hidden=7), tiny.nats, RECIPE, run)
    message = r"last\.safetensors: holds another model: expected model\.code \(1, 7\), got \(1, 6\)"
    with pytest.raises(CheckpointError, match=message):
        other.resume()
