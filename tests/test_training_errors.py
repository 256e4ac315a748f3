"""What goes wrong in training is said in full, and nothing that was good is lost."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny
from fastgen.data import Dataset
from fastgen.training import NonFiniteError, Trainer
from fastgen.training import checkpoint as checkpoints
from fastgen.training.checks import check_batch, check_losses
from trainers import GAME, RECIPE, game, new_run, trainer

pytest.importorskip("safetensors", reason="safetensors comes with fastgen[train]")
pytest.importorskip("tqdm", reason="tqdm comes with fastgen[train]")


def breaking(
    trained: Trainer, step: int, how: Callable[[dict[str, Tensor]], dict[str, Tensor]], player: int = 0
) -> None:
    """Let the losses of a player become what ``how`` makes of them, after ``step`` steps."""
    terms = trained.players[player].terms
    original = terms.losses

    def losses(values: Tensor, labels: Tensor | None, progress: float) -> dict[str, Tensor]:
        found = original(values, labels, progress)
        return how(found) if trained.position.step >= step else found

    terms.losses = losses


def stopped(trained: Trainer) -> str:
    data = tiny.images()
    with pytest.raises(NonFiniteError) as raised:
        trained.fit(data, data)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    trained = trainer(run, kind=tiny.Coder)
    breaking(trained, 6, lambda found: found | {"penalty": found["penalty"] * math.inf})
    message = stopped(trained)
    assert message.startswith("step 7 (epoch 2): penalty is inf (nats "), message
    for said in ("last finite loss was ", " nats in step 6, gradient norm ", "; largest activations: decode ",
                 "; largest gradients: ", "; largest weights: ", "; good in this folder: best.safetensors, last.sa",
                 "; try a smaller lr, a longer warmup or a smaller clip"):  # fmt: skip
        assert said in message, said
    kept = checkpoints.load(run.checkpoints, with_state=True)
    assert kept.state["position"]["step"] == 6
    assert all(tensor.isfinite().all() for tensor in kept.weights["model"].values())
    resumed = trainer(run, kind=tiny.Coder)
    resumed.resume()
    resumed.fit(tiny.images(), tiny.images())
    assert resumed.position.epoch == RECIPE.epochs


def test_a_gradient_that_is_not_finite(tmp_path: Path) -> None:
    trained = trainer(new_run(tmp_path / "run"))
    code = trained.model.code
    breaking(trained, 6, lambda found: {"nats": found["nats"] + (code.sum() - code.sum()).sqrt()})
    message = stopped(trained)
    assert message.startswith("step 7 (epoch 2): all losses are finite (nats "), message
    assert "gradient norm nan" in message
    assert "largest gradients: code nan, logits." in message
    assert all(parameter.isfinite().all() for parameter in trained.model.parameters()), "the broken step was taken"


@pytest.mark.parametrize("save_every", [0, 1])
def test_weights_that_are_not_finite_replace_no_good_ones(tmp_path: Path, save_every: int) -> None:
    """With clip 0 no gradient is looked at; the weights are, before they are kept."""
    run = new_run(tmp_path / "run")
    trained = trainer(run, dataclasses.replace(RECIPE, clip=0.0, save_every=save_every, ema=0.0))
    code = trained.model.code
    at = 5 if save_every else 15  # the last of an epoch, of four steps
    breaking(trained, at, lambda found: {"nats": found["nats"] + (code.sum() - code.sum()).sqrt()})
    message = stopped(trained)
    wanted = "the weight code is not finite" if save_every else "held-out nats is nan"
    assert message.startswith(f"step {at + 1}: {wanted}; the last finite loss was "), message
    assert all(tensor.isfinite().all() for tensor in checkpoints.load(run.checkpoints).weights["model"].values())


def test_the_player_is_named() -> None:
    trained = game()
    breaking(trained, 3, lambda found: {"loss": found["loss"].log() * math.nan}, player=1)
    message = stopped(trained)
    assert message.startswith("step 4 (epoch 1): loss is nan for the player forger; gradient norm nan; "), message
    assert "largest activations: " in message
    assert "no checkpoint was asked for; try precision float32, a smaller lr" in message


def test_the_first_step_blames_no_optimiser() -> None:
    trained = trainer()
    breaking(trained, 0, lambda found: {"nats": found["nats"] / 0})
    assert "there was no finite loss before it" in (message := stopped(trained))
    assert message.endswith("it is the first step, so look at the model and the data, not at the optimiser")


def test_float16_that_overflows_at_every_scale() -> None:
    trained = trainer(recipe=dataclasses.replace(RECIPE, precision="float16", epochs=100))
    code = trained.model.code
    breaking(trained, 0, lambda found: {"nats": found["nats"] + (code.sum() - code.sum()).sqrt()})
    message = stopped(trained)
    step = int(message.removeprefix("step ").partition(" ")[0])
    assert step > 20, "a scaler may skip steps while it looks for its scale"
    assert "try precision float32 or bfloat16" in message


class Reader(tiny.Tiny):
    """Says what it reads."""

    levels, in_channels, classes = 3, 1, 10


VALUES, LABELS = torch.zeros(4, 1, 4, 4, dtype=torch.int64), torch.arange(4)


@pytest.mark.parametrize(
    ("values", "labels", "message"),
    [
        (VALUES[0], LABELS, r"expected images of shape \(N, 1, H, W\), got \(1, 4, 4\)"),
        (VALUES.expand(4, 3, 4, 4), LABELS, r"expected images of shape \(N, 1, H, W\), got \(4, 3, 4, 4\)"),
        (VALUES + 3, LABELS, r"first batch: values: expected integers in \[0, 3\), got 3 to 3"),
        (VALUES - 1, LABELS, r"values: expected integers in \[0, 3\), got -1 to -1"),
        (VALUES / 2, LABELS, "values: expected integers, got torch.float32"),
        (VALUES, LABELS + 7, r"labels: expected integers in \[0, 10\), got 7 to 10"),
        (VALUES, LABELS / 2, "labels: expected integers, got torch.float32"),
        (VALUES, None, r"expected labels in \[0, 10\), since the model has classes, got none"),
    ],
)
def test_a_batch_that_the_model_does_not_read(values: Tensor, labels: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_batch(Reader(), values, labels)
    check_batch(Reader(), VALUES, LABELS)
    check_batch(tiny.Tiny(), VALUES, None)


def test_data_that_the_model_does_not_read() -> None:
    data = tiny.images()
    labels = torch.arange(40) % 11
    trained = trainer(kind=Reader)
    with pytest.raises(ValueError, match=r"train: labels: expected integers in \[0, 10\), got 0 to 10"):
        trained.fit(dataclasses.replace(data, labels=labels, classes=11), data)
    more = Dataset(data.values, labels % 10, 256, 10, "grey")
    message = r"held_out: expected images of 3 levels, integers in \[0, 3\), .* got grey, of 256 .*; quantise them to 3"
    with pytest.raises(ValueError, match=message):
        trained.fit(dataclasses.replace(data, labels=labels % 10, classes=10), more)
    assert trained.position.step == 0


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({}, "expected a dict of one or more tensors, got {}"),
        (torch.zeros(3), "expected a dict of one or more tensors"),
        ({"nats": torch.zeros(3), "kl": torch.tensor(1.0)}, r"expected kl of shape \(3,\), .* got \(\), torch.float32"),
        ({"nats": torch.zeros(3).bfloat16()}, "expected nats .* float32 .*, got .*bfloat16"),
        ({"nats": torch.zeros(3), "right": torch.zeros(3).double()}, "expected right .*, got .*float64"),
    ],
)
def test_losses_of_another_form(losses: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"losses of model: {message}"):
        check_losses(losses, 3, "model")
    trained = trainer(recipe=dataclasses.replace(GAME, accumulate=1))
    breaking(trained, 0, lambda _: losses)
    with pytest.raises(ValueError, match="losses of model"):
        trained.fit(tiny.images(), tiny.images())
