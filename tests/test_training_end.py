"""What ends a run before its last epoch, and how long it is told to take: patience, minutes, the pace."""

import dataclasses
from pathlib import Path

import pytest
import torch

import tiny
from fastgen.training import checkpoint as checkpoints
from fastgen.training import evaluate, evaluation, pace
from fastgen.training.stopping import TIME_IS_UP, Stopped
from trainers import GAME, RECIPE, assert_same, game, lines, new_run, trainer

for package in ("safetensors", "tqdm"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")

STILL = dataclasses.replace(RECIPE, epochs=9, lr=1e-30, warmup=0, schedule="constant", patience=3)
"""Nothing moves, so that no epoch is better than the first."""


def test_patience_ends_training_and_counts_on_when_resumed(tmp_path: Path) -> None:
    data, run = tiny.images(), new_run(tmp_path / "run")
    trainer(run, dataclasses.replace(STILL, epochs=3)).fit(data, data)
    resumed = trainer(run, STILL)
    resumed.resume()
    assert (resumed.position.epoch, resumed.position.stale) == (3, 2)
    resumed.fit(data, data)
    assert resumed.is_stale
    assert [line["epoch"] for line in lines(run)] == [1, 2, 3, 4]
    resumed.fit(data, data)
    assert resumed.position.epoch == 4, "there is nothing more to do"
    patient = trainer(run, dataclasses.replace(STILL, patience=0, epochs=6))
    patient.resume()
    patient.fit(data, data)
    assert (patient.position.epoch, patient.position.stale) == (6, 5)


def test_a_better_epoch_starts_the_count_again() -> None:
    data = tiny.images()
    trained = trainer(recipe=dataclasses.replace(RECIPE, patience=1, schedule="constant", lr=0.01))
    trained.fit(data, data)
    assert (trained.position.epoch, trained.position.stale) == (4, 0)


def test_a_best_one_within_an_epoch_starts_the_count_again(tmp_path: Path) -> None:
    data, run = tiny.images(), new_run(tmp_path / "run")
    trainer(run, dataclasses.replace(STILL, epochs=3)).fit(data, data)
    hurried = trainer(run, dataclasses.replace(STILL, lr=0.1, max_minutes=1e-9))
    hurried.resume()
    with pytest.raises(Stopped):
        hurried.fit(data, data)
    resumed = trainer(run, STILL)
    resumed.resume("best")
    assert (resumed.position.batch, resumed.position.stale) == (1, 0)


def test_a_checkpoint_from_before_epochs_were_counted_is_resumed(tmp_path: Path) -> None:
    data, run = tiny.images(), new_run(tmp_path / "run")
    trainer(run, dataclasses.replace(RECIPE, epochs=2)).fit(data, data)
    kept = checkpoints.load(run.checkpoints, with_state=True)
    del kept.state["position"]["stale"]
    checkpoints.save(run.checkpoints, ("last",), kept.weights, kept.state)
    resumed = trainer(run)
    resumed.resume()
    assert (resumed.position.epoch, resumed.position.stale) == (2, 0)


@pytest.mark.parametrize("make", [trainer, game])
def test_time_that_is_up_leaves_a_best_one_and_is_resumed_unbroken(tmp_path: Path, make: object) -> None:
    recipe, data, run = {trainer: RECIPE, game: GAME}[make], tiny.images(), new_run(tmp_path / "run")
    stopped = make(run, dataclasses.replace(recipe, max_minutes=1e-9))
    with pytest.raises(Stopped) as stop:
        stopped.fit(data, data)
    assert stop.value.number == TIME_IS_UP
    assert (stopped.position.epoch, stopped.position.step, lines(run) if run.metrics() else []) == (0, 1, [])
    best = checkpoints.load(run.checkpoints, "best").weights["ema"]
    assert all(torch.equal(tensor, best[key]) for key, tensor in stopped.ema.state_dict().items())
    held = evaluate(stopped.ema, data, recipe.batch_size, lambda *a: stopped.objective.evaluate(stopped.ema, *a), 3)
    assert stopped.position.best == held.means[held.first]
    resumed = make(run)
    resumed.resume()
    resumed.fit(data, data)
    unbroken = make(new_run(tmp_path / "unbroken"))
    unbroken.fit(data, data)
    assert_same(resumed, unbroken)
    assert lines(run) == lines(unbroken.run)


@pytest.mark.parametrize("make", [trainer, game])
def test_the_pace_is_measured_beside_the_run(make: object) -> None:
    data, one = tiny.images(), make()
    random = torch.get_rng_state()
    found = pace.measure(one.objective, one.recipe, one.device, data)
    assert torch.equal(random, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in one.model.parameters())
    assert found.training > 0
    assert found.epoch(100, 10) == (100 * found.training, 10 * found.evaluating)
    one.fit(data, data)
    other = make()
    other.fit(data, data)
    assert_same(one, other)


def test_evaluation_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bar:
        def __init__(self, **given: object) -> None:
            seen.update(given)

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None:
            seen["closed"] = True

        def update(self, count: int) -> None:
            updates.append(count)

    seen, updates = {}, []
    monkeypatch.setattr(evaluation, "require", lambda name: type("tqdm", (), {"tqdm": Bar}))
    trained, data = trainer(), tiny.images()
    evaluate(trained.model, data, 12, title="held out")
    assert (seen["total"], seen["desc"], seen["unit"], seen["closed"]) == (len(data), "held out", "image", True)
    assert sum(updates) == len(data)
    assert max(updates) == 12
    updates.clear()
    evaluate(trained.model, data, 12)
    assert updates == []
