"""The loop: it learns, it reports, and every option does what it says."""

import dataclasses
import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny
from fastgen.training import Evaluation, Recipe, Trainer, describe, evaluate
from parity import assert_parity
from trainers import CONFIG, GAME, RECIPE, game, gradients, lines, new_run, trainer

pytest.importorskip("safetensors", reason="safetensors comes with fastgen[train]")
pytest.importorskip("tqdm", reason="tqdm comes with fastgen[train]")


def test_learns_and_reports(tmp_path: Path) -> None:
    run, data, seen = new_run(tmp_path / "run"), tiny.images(), []
    trained = trainer(run, dataclasses.replace(RECIPE, epochs=12))
    before = evaluate(trained.model, data)
    trained.fit(data, data, seen.append)
    after = evaluate(trained.ema, data)
    assert after.nats < before.nats - 3
    assert [line["epoch"] for line in lines(run)] == list(range(1, 13))
    assert json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1]) == seen[-1]
    assert seen[-1]["held_out_nats"] == after.nats
    assert seen[-1]["held_out_bits_per_dim"] == pytest.approx(after.nats / 16 / math.log(2))
    assert seen[-1]["step"] == 12 * math.ceil(40 / 12)
    assert run.config() == CONFIG
    assert describe(seen[-1], 12).startswith(f"epoch 12/12   train {seen[-1]['train_nats']:.2f}   held out")


def test_every_loss_is_recorded_and_averaged_over_examples(tmp_path: Path) -> None:
    seen: list = []
    frozen = dataclasses.replace(RECIPE, epochs=1, optimizer="sgd", lr=1e-30, ema=0.0)
    trained, data = trainer(recipe=frozen, kind=tiny.Coder), tiny.images()
    trained.fit(data, data, seen.append)
    names = [key for key in seen[0] if key.startswith(("train", "held"))]
    wanted = ["train_nats", "train_penalty", "held_out_nats", "held_out_nats_error", "held_out_bits_per_dim"]
    assert names == [*wanted, "held_out_penalty", "held_out_seconds"]
    every = trained.model.losses(data.values.long())
    assert seen[0]["held_out_penalty"] == pytest.approx(every["penalty"].mean().item())
    nats = seen[0]["train_nats"] - seen[0]["train_penalty"]
    assert nats == pytest.approx((every["nats"] - every["penalty"]).mean().item())
    assert 0 < seen[0]["train_penalty"] < seen[0]["held_out_penalty"], "progress rises from 0 to below 1 in training"


def test_likelihood_is_nats_per_image_with_its_standard_error() -> None:
    data, model = tiny.images(), tiny.Tiny()
    likelihood = evaluate(model, data, batch_size=7)
    every = model.eval().losses(data.values.long())["nats"].double()
    assert likelihood.nats == pytest.approx(every.mean().item())
    assert likelihood.nats_error == pytest.approx((every.var() / 40).sqrt().item())
    assert likelihood.bits_per_dim == pytest.approx(every.mean().item() / 16 / math.log(2))
    assert (likelihood.images, likelihood.dims) == (40, 16)
    said = str(Evaluation({"error": 0.25, "nats": 2.0}, {"error": 0.1, "nats": 0.5}, 9, 4))
    assert said == "error 0.25 ± 0.1, 2.00 ± 0.50 nats = 0.7213 ± 0.1803 bits/dim"


def test_evaluating_leaves_modules_in_their_modes_and_random_numbers_alone() -> None:
    def failing(*_: object) -> dict[str, Tensor]:
        raise KeyboardInterrupt

    def noisy(values: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        return {"noise": torch.rand(len(values))}

    model, data = tiny.Tiny().train(), tiny.images()
    model.logits.eval()
    before = torch.get_rng_state()
    found = [evaluate(model, data, 16, noisy, seed).means["noise"] for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert (model.training, model.logits.training) == (True, False)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, data, measures=failing)
    assert (model.training, model.logits.training) == (True, False)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_not_a_number_is_null(tmp_path: Path) -> None:
    run, data, seen = new_run(tmp_path / "run"), tiny.images(), []
    trainer(run, dataclasses.replace(RECIPE, epochs=1)).fit(data, data.subset(1), seen.append)
    run.rewind(1)
    (line,) = lines(run)
    assert line["held_out_nats_error"] is None
    assert math.isnan(seen[0]["held_out_nats_error"])
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_config({"lr": math.inf})


def test_schedule_and_average() -> None:
    recipe = Recipe(lr=2.0, warmup=3)
    assert [recipe.lr * recipe.lr_factor(step, 10) for step in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]
    recipe = Recipe(lr=2.0, schedule="cosine")
    assert [recipe.lr * recipe.lr_factor(step, 4) for step in (0, 2)] == [2.0, pytest.approx(1.0)]
    assert [2.0 * Recipe(schedule="linear").lr_factor(step, 4) for step in range(4)] == [2.0, 1.5, 1.0, 0.5]
    steps = [2.0 * Recipe(schedule="step").lr_factor(step, 8) for step in (0, 3, 4, 5, 6, 7)]
    assert steps == pytest.approx([2.0, 2.0, 0.2, 0.2, 0.02, 0.02])
    decaying = Recipe(lr_decay=0.5, schedule="linear")
    assert [decaying.lr_factor(step, 4) for step in range(4)] == [1.0, 0.75 / 2, 0.5 / 4, 0.25 / 8]
    assert Recipe(ema=0.5).ema_at(1) == 2 / 11
    assert Recipe(ema=0.5).ema_at(100) == 0.5
    trained = trainer(recipe=dataclasses.replace(RECIPE, ema=0.0))
    assert trained.ema is trained.model


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("epochs", -1), ("epochs", 1.5), ("batch_size", 0), ("batch_size", 8.0), ("lr", 0.0), ("lr", math.nan)),
        *(("ema", 1.0), ("clip", -1.0), ("clip", math.inf), ("weight_decay", math.nan), ("weight_decay", math.inf)),
        *(("schedule", "square"), ("optimizer", "lion"), ("precision", "int8"), ("accumulate", 0), ("accumulate", 0.5)),
        *(("seed", -1), ("seed", 2**63), ("seed", 0.5), ("lr_decay", 0.0), ("lr_decay", 1.5)),
    ],
)
def test_recipes_that_cannot_be(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field}: expected .*, got '?{value}"):
        dataclasses.replace(RECIPE, **{field: value})


def test_betas_and_parts_that_cannot_be() -> None:
    for betas in ((0.5,), (0.5, 1.0), (-0.1, 0.9)):
        with pytest.raises(ValueError, match=r"betas: expected two in \[0, 1\), got"):
            Recipe(betas=betas)
    with pytest.raises(ValueError, match="batch_size: expected a multiple of 5, 1 processes times accumulate 5, got"):
        trainer(recipe=dataclasses.replace(RECIPE, accumulate=5))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
def test_optimisers_are_those_of_torch(optimizer: str) -> None:
    recipe = Recipe(optimizer=optimizer, lr=0.02, betas=(0.5, 0.9), weight_decay=0.1)
    kinds = {
        "adam": partial(torch.optim.Adam, betas=(0.5, 0.9)),
        "adamw": partial(torch.optim.AdamW, betas=(0.5, 0.9)),
        "sgd": partial(torch.optim.SGD, momentum=0.5),
        "rmsprop": partial(torch.optim.RMSprop, alpha=0.9),
    }
    start, step = torch.randn(50), torch.randn(4, 50)

    def moved(make: partial, dtype: torch.dtype) -> Tensor:
        weight = torch.nn.Parameter(start.to(dtype))
        made = make([weight])
        for gradient in step:
            weight.grad = gradient.to(dtype)
            made.step()
        return weight.detach()

    plain = partial(kinds[optimizer], lr=0.02, weight_decay=0.1)
    mine = moved(partial(recipe.make_optimizer), torch.float32)
    assert_parity(mine, moved(plain, torch.float32), moved(plain, torch.float64))


@pytest.mark.parametrize("parts", [2, 3, 12])
def test_accumulated_is_one_big_batch(parts: int) -> None:
    """The gradient of a step in parts is that of the whole, also where the parts differ in size."""
    values = tiny.images().values[:11].long()
    recipe = dataclasses.replace(RECIPE, clip=0.0)
    whole = trainer(recipe=recipe, kind=tiny.Coder)
    exact = trainer(recipe=recipe, kind=tiny.Coder)
    exact.model.double()
    mine = gradients(trainer(recipe=dataclasses.replace(recipe, accumulate=parts), kind=tiny.Coder), values)
    for one, eager, true in zip(mine, gradients(whole, values), gradients(exact, values), strict=True):
        assert_parity(one, eager, true)


@pytest.mark.parametrize("change", [{"precision": "bfloat16"}, {"precision": "float16"}, {"channels_last": True}])
def test_precision_and_memory_format_change_little(change: dict) -> None:
    data, found = tiny.images(), []
    for recipe in (RECIPE, dataclasses.replace(RECIPE, **change)):
        seen: list = []
        trained = trainer(recipe=recipe, kind=tiny.Coder)
        trained.fit(data, data, seen.append)
        found.append((seen[-1]["held_out_nats"], trained.model.encode.weight))
    (plain, weight), (changed, other) = found
    assert plain == pytest.approx(changed, abs=0.2)
    assert other.dtype == torch.float32
    if "precision" in change:
        assert not torch.equal(weight, other), "the precision was not used"


def test_float16_scales_its_loss() -> None:
    recipe = dataclasses.replace(RECIPE, precision="float16")
    trained = trainer(recipe=recipe, kind=tiny.Coder)
    (player,) = trained.players
    values = tiny.images().values.long()
    player.gradient(values, None, 40, 40, 0.0)
    player.move(1.0)
    assert player.scaler.get_scale() == 2.0**16
    player.scaler.update(2.0**40)  # the gradient overflows, but not the loss
    before = trained.model.encode.weight.detach().clone()
    watched = player.gradient(values, None, 40, 40, 0.0)
    assert watched.sums.isfinite().all()
    assert not watched.norm.isfinite()
    player.move(1.0)
    assert torch.equal(trained.model.encode.weight, before), "a step with an overflowing gradient is skipped"
    assert player.scaler.get_scale() == 2.0**39


def test_compiled_losses_are_the_same() -> None:
    data, found = tiny.images(), []
    for compile in (False, True):
        recipe = Recipe(epochs=2, batch_size=16, lr=0.1, compile=compile, seed=3)
        seen: list = []
        trainer(recipe=recipe, kind=tiny.Coder).fit(data, data, seen.append)
        found.append(seen[-1]["held_out_nats"])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_deterministic_refuses_what_is_not_and_only_inside() -> None:
    class Loose(tiny.Tiny):
        def losses(self, *arguments: object) -> dict[str, Tensor]:
            assert torch.are_deterministic_algorithms_enabled()
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
            return super().losses(*arguments)

    data = tiny.images()
    trainer(recipe=dataclasses.replace(RECIPE, deterministic=True, epochs=1), kind=Loose).fit(data, data)
    assert torch.is_deterministic_algorithms_warn_only_enabled(), "the mode around it is not put back"


def test_players_take_their_turns_and_keep_to_their_own() -> None:
    trained, data, moves = game(recipe=dataclasses.replace(GAME, epochs=1, ema=0.0)), tiny.images(), []
    judge, forger = trained.players

    def spied(player: object, factor: float, original: object) -> None:
        before = [p.detach().clone() for p in trained.model.parameters()]
        original(factor)
        pairs = zip(trained.model.named_parameters(), before, strict=True)
        moves.append({name.partition(".")[0] for (name, now), then in pairs if not torch.equal(now, then)})

    for player in trained.players:
        player.move = partial(spied, player, original=player.move)
    seen: list = []
    trained.fit(data, data, seen.append)
    assert moves == [{"judge"}, {"judge"}, {"forger"}, {"judge"}, {"judge"}, {"forger"}]
    assert {"train_judge_loss", "train_judge_real", "train_forger_loss", "held_out_squared_error"} <= seen[0].keys()
    assert "held_out_bits_per_dim" not in seen[0]
    assert forger.optimizer.param_groups[0]["lr"] == 0.005
    assert judge.optimizer.param_groups[0]["lr"] == 0.01


def test_a_game_is_learnt() -> None:
    data, seen = tiny.images(), []
    trainer = game(recipe=dataclasses.replace(GAME, epochs=20, accumulate=1))
    untrained = evaluate(trainer.model, data).means["squared_error"]
    trainer.fit(data, data, seen.append)
    assert seen[-1]["held_out_squared_error"] < 0.75 * untrained


def test_players_that_cannot_play() -> None:
    model = tiny.Game()
    objective = tiny.GameObjective(model)
    first, second = objective.players()
    for changes, message in [
        ({"name": "judge"}, "of different names, got"),
        ({"parameters": 2 * [*model.forger.parameters()]}, "player forger: expected no parameter twice"),
        ({"steps": 0}, "player forger: expected parameters to move, and 1 step or more, got 4 parameters and 0 steps"),
        ({"parameters": []}, "got 0 parameters and 1 steps"),
    ]:
        objective.players = partial(list, [first, dataclasses.replace(second, **changes)])
        with pytest.raises(ValueError, match=message):
            Trainer(model, GAME, None, objective)
