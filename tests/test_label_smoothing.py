"""Label smoothing: what training minimises, by hand; every likelihood is that of a model without it."""

from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from autoregressive import build, labels_for, random_values
from fastgen import measures, models
from fastgen.distributions import Bernoulli, Categorical
from fastgen.models import AutoregressiveModel, GatedPixelCNN, MultiScale
from fastgen.training import Recipe, Trainer, describe


def log_probs(model: AutoregressiveModel, params: Tensor) -> Tensor:
    """Those of every level, (L, N, C, H, W)."""
    N, _, H, W = params.shape
    every = [torch.full((N, model.in_channels, H, W), level) for level in range(model.levels)]
    return torch.stack([model.distribution.log_prob(params, values) for values in every])


def by_hand(model: AutoregressiveModel, values: Tensor, labels: Tensor | None, smoothing: float) -> Tensor:
    """−Σ q log p for every value, where q is (1 − ε)·[u = v] + ε / L."""
    log_p = log_probs(model, model(model.to_input(values), *([] if labels is None else [labels])))
    q = torch.nn.functional.one_hot(values, model.levels).movedim(-1, 0).double() * (1 - smoothing)
    return -((q + smoothing / model.levels) * log_p).sum(0)


@pytest.mark.parametrize("distribution", [Bernoulli(), Categorical(5)])
def test_a_cross_entropy_with_smoothed_labels(distribution: Any) -> None:
    params = torch.randn(2, distribution.param_channels(3), 4, 1, dtype=torch.float64, requires_grad=True)
    values = torch.randint(distribution.levels, (2, 3, 4, 1))
    assert torch.equal(distribution.cross_entropy(params, values, 0), -distribution.log_prob(params, values))
    uniform = distribution.cross_entropy(params, values, 1)
    assert torch.equal(uniform, distribution.cross_entropy(params, (values + 1) % distribution.levels, 1))
    assert torch.autograd.gradcheck(lambda p: distribution.cross_entropy(p, values, 0.3), params)
    with pytest.raises(ValueError, match=r"smoothing: expected a finite number from 0 to 1, got 1\.5"):
        distribution.cross_entropy(params, values, 1.5)
    with pytest.raises(ValueError, match="values: expected"):
        distribution.cross_entropy(params, values + distribution.levels, 0.1)


@pytest.mark.parametrize("kind", ["pixelcnn", "pixelcnn-rgb", "gated-pixelcnn-rgb-binary", "row-lstm-rgb"])
def test_training_alone_is_by_smoothed_labels(kind: str) -> None:
    model = build(kind, label_smoothing=0.2).double()
    values, labels = random_values(model, 3, 4, 5), labels_for(model, 3)
    exact = -model.log_prob(values, labels)
    losses = model.train().losses(values, labels)
    assert list(losses) == list(model.measures) == ["smoothed_cross_entropy", "nats"]
    wanted = by_hand(model, values, labels, 0.2).sum((1, 2, 3))
    torch.testing.assert_close(losses["smoothed_cross_entropy"], wanted)
    torch.testing.assert_close(losses["nats"], exact)
    assert not losses["nats"].requires_grad
    assert (losses["nats"] - wanted).abs().max() > 0.1
    (evaluated,) = model.eval().losses(values, labels).items()
    assert evaluated[0] == "nats"
    assert torch.equal(evaluated[1], exact)
    assert not measures.of(model)["smoothed_cross_entropy"].unit, "nobody takes it for nats"
    assert type(model)(**model.config).label_smoothing == 0.2


def test_what_is_told_counts_nothing() -> None:
    """Every scale has it; of the pixels of a larger image those that the smaller one tells are left out."""
    torch.manual_seed(0)
    model = MultiScale(levels=3, channels=4, layers=1, map_layers=1, image_size=4, label_smoothing=0.3).double()
    values = torch.randint(3, (2, 1, 4, 4))
    losses = model.train().losses(values)
    assert list(losses) == list(model.measures) == ["smoothed_cross_entropy", "nats", "nats_2x2", "nats_4x4"]
    small = values[:, :, ::2, ::2]
    first, second = (stage for stage in model.stages)
    wanted = by_hand(first, small, None, 0.3).sum((1, 2, 3))  # type: ignore[arg-type]
    rest = by_hand(second, values, first.to_input(small), 0.3)  # type: ignore[arg-type, operator]
    rest[:, :, ::2, ::2] = 0
    torch.testing.assert_close(losses["smoothed_cross_entropy"], wanted + rest.sum((1, 2, 3)))
    torch.testing.assert_close(losses["nats"], -model.log_prob(values))
    assert list(model.eval().losses(values)) == ["nats", "nats_2x2", "nats_4x4"]


def test_an_epoch_tells_nats_of_the_labels_as_they_are() -> None:
    data, seen = tiny.images(), []
    recipe = Recipe(epochs=1, batch_size=12, ema=0.0)
    model = GatedPixelCNN(1, 3, 4, 1, label_smoothing=0.5)
    Trainer(model, recipe).fit(data, data, seen.append)
    (record,) = seen
    assert record["train_smoothed_cross_entropy"] > 0
    assert not [key for key in record if key.startswith("held_out_smoothed")]
    nats = model.eval().losses(*next(iter(data.batches(len(data), torch.device("cpu")))))["nats"].mean()
    assert record["held_out_nats"] == pytest.approx(nats.item())
    assert f"train {record['train_nats']:.2f}   held out {record['held_out_nats']:.2f}" in describe(record, 1)


PIXEL_MODELS = ["pixelcnn", "gated-pixelcnn", "pixelcnn++", "pixelsnail", "image-gpt", "row-lstm", "diagonal-bilstm"]


@pytest.mark.parametrize("name", PIXEL_MODELS)
def test_levels_in_order_have_no_labels_to_smooth(name: str) -> None:
    message = "label_smoothing: expected 0 with the distribution logistic-mixture, whose levels have an order, got 0.1"
    with pytest.raises(ValueError, match=message):
        models.build(name, in_channels=1, levels=4, distribution="logistic-mixture", label_smoothing=0.1)
    for wrong in (-0.1, 1.5):
        with pytest.raises(ValueError, match="label_smoothing: expected a finite number from 0 to 1, got"):
            models.build(name, in_channels=1, distribution="categorical", label_smoothing=wrong)
