"""What games need of the loop: optimisers of their own, shared weights, memory, hooks, measures of whole sets."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny
from fastgen.data import Dataset
from fastgen.training import CheckpointError, Objective, Player, Recipe, Trainer, describe
from fastgen.training import checkpoint as checkpoints
from trainers import GAME, assert_same, lines, new_run

for package in ("safetensors", "tqdm"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")

PLAIN = Recipe(epochs=3, batch_size=10, lr=0.02, ema=0.8, clip=0, seed=3, save_every=1)


class Remembering(tiny.GameObjective):
    """A judge whose weights are clipped, an equilibrium that is kept (BEGAN's k), a pool of images (CycleGAN's)."""

    def __init__(self, model: tiny.Game) -> None:
        super().__init__(model)
        self.k, self.pool, self.calls = 0.5, [], []

    def judging(self, values: Tensor, labels: Tensor | None, progress: float) -> dict[str, Tensor]:
        losses = super().judging(values, labels, progress)
        self.k += 0.01 * losses["real"].mean().item()
        self.pool = [*self.pool, values[:1].float()][-3:]
        return {"loss": losses["loss"] * self.k + sum(self.pool).mean(), "real": losses["real"]}

    def after_move(self, player: Player, step: int) -> None:
        self.calls.append((player.name, step))
        if player.name == "judge":
            with torch.no_grad():
                for parameter in player.parameters:
                    parameter.clamp_(-0.05, 0.05)

    def end_of_round(self, step: int) -> None:
        self.calls.append(("round", step))
        self.k *= 0.99

    def state_dict(self) -> dict[str, Any]:
        return {"k": self.k, "pool": self.pool}

    def check_state(self, state: dict[str, Any]) -> None:
        if not isinstance(state.get("k"), float):
            raise ValueError(f"k: expected a number, got {state.get('k')!r}")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.k, self.pool = state["k"], state["pool"]


KEPT = dataclasses.replace(GAME, precision="float32")


def remembering(run: Any = None, recipe: Recipe = KEPT) -> Trainer:
    torch.manual_seed(recipe.seed)
    model = tiny.Game()
    return Trainer(model, recipe, run, Remembering(model))


@pytest.mark.parametrize("stop", [1, 2, 5, 8, 11])
def test_what_an_objective_remembers_is_resumed_unbroken(tmp_path: Path, stop: int) -> None:
    data, run = tiny.images(), new_run(tmp_path / "run")
    stopped = remembering(run)
    move = stopped.objective.end_of_round

    def asked(step: int) -> None:
        move(step)
        if step + 1 >= stop:
            stopped.ask_to_stop()

    stopped.objective.end_of_round = asked
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(data, data)
    resumed = remembering(run)
    resumed.resume()
    assert resumed.objective.k == stopped.objective.k != 0.5
    resumed.fit(data, data)
    unbroken = remembering(new_run(tmp_path / "unbroken"))
    unbroken.fit(data, data)
    assert_same(resumed, unbroken)
    assert resumed.objective.k == unbroken.objective.k
    assert all(map(torch.equal, resumed.objective.pool, unbroken.objective.pool))
    assert lines(run) == lines(unbroken.run)


def test_state_that_is_not_the_objectives_is_refused(tmp_path: Path) -> None:
    data, run = tiny.images(), new_run(tmp_path / "run")
    remembering(run, dataclasses.replace(KEPT, epochs=1)).fit(data, data)
    kept = checkpoints.load(run.checkpoints, with_state=True)
    kept.state["processes"][0]["objective"]["k"] = "half"
    checkpoints.save(run.checkpoints, ("last",), kept.weights, kept.state)
    with pytest.raises(CheckpointError, match="k: expected a number, got 'half'"):
        remembering(run).resume()
    kept.state["processes"][0]["objective"] = {"k": 1.0}
    checkpoints.save(run.checkpoints, ("last",), kept.weights, kept.state)
    model = tiny.Game()
    plain = Trainer(model, KEPT, run, tiny.GameObjective(model))
    with pytest.raises(CheckpointError, match="objective: expected nothing, got k"):
        plain.resume()
    del kept.state["processes"][0]["objective"]  # as it was before objectives remembered anything
    checkpoints.save(run.checkpoints, ("last",), kept.weights, kept.state)
    plain.resume()
    assert plain.position.epoch == 1


def test_hooks_come_after_a_move_and_at_the_end_of_a_round() -> None:
    trained = remembering(recipe=dataclasses.replace(KEPT, epochs=1, ema=0.0))
    trained.fit(tiny.images(), tiny.images())
    judge, forger, ended = (partial(lambda name, step: (name, step), name) for name in ("judge", "forger", "round"))
    expected = [judge(0), judge(1), forger(1), ended(1), judge(2), judge(3), forger(3), ended(3)]
    assert trained.objective.calls == expected
    assert max(parameter.abs().max() for parameter in trained.model.judge.parameters()) <= 0.05
    assert max(parameter.abs().max() for parameter in trained.model.forger.parameters()) > 0.05


class Shared(nn.Module):
    """An encoder that two players move: one by how its code is decoded, one by how far it is from the origin."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(16, 3), nn.Linear(3, 16)

    def error(self, values: Tensor, *_: object) -> dict[str, Tensor]:
        x = values.flatten(1).float() - 1
        return {"loss": (self.decoder(self.encoder(x)) - x).square().sum(1)}

    def size(self, values: Tensor, *_: object) -> dict[str, Tensor]:
        return {"loss": self.encoder(values.flatten(1).float() - 1).square().sum(1)}

    def losses(self, values: Tensor, labels: Tensor | None = None, progress: float = 1.0) -> dict[str, Tensor]:
        return {"error": self.error(values)["loss"]}

    def objective(self) -> Objective:
        """What a trainer takes of a model that offers it."""
        return SharedObjective(self)


class SharedObjective(Objective):
    def players(self) -> list[Player]:
        m = self.model
        return [
            Player("decoding", [*m.parameters()], m.error, per_dimension=False, optimizer="sgd", betas=(0.9, 0.0)),
            Player("pulling", [*m.encoder.parameters()], m.size, per_dimension=False, optimizer="rmsprop", lr=0.001,
                   betas=(0.0, 0.8), weight_decay=0.1, clip=0.5),
        ]  # fmt: skip


def test_players_share_weights_each_with_its_own_optimiser(tmp_path: Path) -> None:
    """Step for step what a loop by hand does, and resumed as if it had never stopped."""
    torch.manual_seed(0)
    model, data, run = Shared(), tiny.images(), new_run(tmp_path / "run")
    by_hand = Shared()
    by_hand.load_state_dict(model.state_dict())
    trained = Trainer(model, dataclasses.replace(PLAIN, epochs=2, ema=0.0), run)
    assert isinstance(trained.objective, SharedObjective)
    seen = []
    batches, step = [], trained._step
    trained._step = lambda values, *rest: (batches.append(values), step(values, *rest))
    trained.fit(data, data, seen.append)

    first = torch.optim.SGD(by_hand.parameters(), lr=0.02, momentum=0.9)
    second = torch.optim.RMSprop(by_hand.encoder.parameters(), lr=0.001, alpha=0.8, weight_decay=0.1)
    for values in batches:
        for optimizer, losses, clip in ((first, by_hand.error, 0), (second, by_hand.size, 0.5)):
            optimizer.zero_grad()
            losses(values)["loss"].mean().backward()
            if clip:
                nn.utils.clip_grad_norm_(by_hand.encoder.parameters(), clip)
            optimizer.step()
    torch.testing.assert_close(model.state_dict(), by_hand.state_dict())

    resumed = Trainer(Shared(), dataclasses.replace(PLAIN, ema=0.0), run)
    resumed.resume()
    trained_on = Trainer(model, dataclasses.replace(PLAIN, ema=0.0), run)
    trained_on.resume()
    for one in (resumed, trained_on):
        one.run = None
        one.fit(data, data)
    assert_same(resumed, trained_on)


def test_a_player_that_no_recipe_takes() -> None:
    model = tiny.Game()
    objective = tiny.GameObjective(model)
    judge, forger = objective.players()
    twice = [*model.judge.parameters(), model.judge[0].weight]
    for changes, message in [
        ({"optimizer": "lion"}, "player judge: optimizer: expected adam"),
        ({"betas": (0.5, 1.0)}, "player judge: betas: expected"),
        ({"clip": -1.0}, "player judge: clip: expected"),
        ({"weight_decay": "x"}, "player judge: weight_decay: expected"),
        ({"parameters": twice}, "player judge: expected no parameter twice"),
    ]:
        objective.players = partial(list, [dataclasses.replace(judge, **changes), forger])
        with pytest.raises(ValueError, match=message):
            Trainer(model, GAME, None, objective)


def test_the_last_images_of_an_epoch_are_left_out() -> None:
    data, seen = tiny.images(40), []
    recipe = dataclasses.replace(PLAIN, batch_size=12, drop_last=True, epochs=2)
    trained = Trainer(Shared(), recipe)
    step = trained._step
    trained._step = lambda values, *rest: (seen.append(values), step(values, *rest))
    trained.fit(data, data)
    assert [len(values) for values in seen] == [12] * 6
    assert not torch.equal(torch.cat(seen[:3]), torch.cat(seen[3:]))
    assert trained.position.step == 6
    with pytest.raises(ValueError, match="batch_size: expected at most 9, the images, with drop_last, got 12"):
        Trainer(Shared(), recipe).fit(tiny.images(9), data)
    assert [dataclasses.replace(recipe, drop_last=drop).batches(40) for drop in (True, False)] == [3, 4]


class Measured(Objective):
    """A number of the whole set, which rises: the first epoch is the best by it, the last by the mean error."""

    best = "distance"

    def measure_set(self, model: Any, held_out: Dataset) -> dict[str, float]:
        assert not model.training
        self.seen = [*getattr(self, "seen", []), torch.rand(()).item()]
        return {"distance": float(len(self.seen)), "images": len(held_out)}


def test_a_number_of_the_whole_set_chooses_the_best_epoch(tmp_path: Path) -> None:
    data, run, records = tiny.images(), new_run(tmp_path / "run"), []
    torch.manual_seed(0)
    model = Shared()
    trained = Trainer(model, PLAIN, run, Measured(model, "distance"))
    random = torch.get_rng_state()
    trained.fit(data, data, records.append)
    assert torch.equal(random, torch.get_rng_state()), "this model draws nothing, and measures draw from their own"
    assert len(set(trained.objective.seen)) == 1, "the same after every epoch"
    assert [record["held_out_distance"] for record in records] == [1.0, 2.0, 3.0]
    assert records[0]["held_out_error"] > records[-1]["held_out_error"]
    assert (trained.position.best, trained.position.loss) == (1.0, "distance")
    assert checkpoints.load(run.checkpoints, "best", with_state=True).state["position"]["epoch"] == 1
    assert "held out distance 2   " in describe(records[1], 3)
    with pytest.raises(ValueError, match="best: expected one of error, distance, images, which were measured, got fid"):
        Trainer(model, PLAIN, None, Measured(model, "fid")).fit(data, data)
