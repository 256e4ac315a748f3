"""Dropout of the pixel models: where it is, what it leaves out in training, and that nothing else knows of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from autoregressive import build, labels_for, random_values
from fastgen import models, sampling
from fastgen.models import MultiScale
from fastgen.models.gated_pixelcnn import GatedLayer
from fastgen.models.pixelcnn import ResidualBlock
from fastgen.nn import DiagonalLSTM, RowLSTM
from fastgen.sampling import NaiveSampler

KINDS = ["pixelcnn", "gated-pixelcnn-classes", "row-lstm", "diagonal-bilstm-rgb"]
LAYERS: dict[str, tuple[Callable[[float], nn.Module], str, int]] = {
    "pixelcnn": (lambda p: ResidualBlock(4, 1, p), "up", 8),
    "gated-pixelcnn": (lambda p: GatedLayer(4, 4, 3, "B", 1, None, dropout=p), "out", 4),
    "row-lstm": (lambda p: RowLSTM(4, dropout=p), "up", 8),
    "diagonal-bilstm": (lambda p: DiagonalLSTM(4, dropout=p), "up", 8),
}
"""A layer, its last convolution, and the channels it reads."""


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_drops_what_its_last_convolution_reads(kind: str) -> None:
    """Each feature for itself; those that stay are larger, so that the mean is what evaluation computes."""
    make, last, channels = LAYERS[kind]
    torch.manual_seed(0)
    layer, seen = make(0.5), {}
    x = torch.randn(2, channels, 5, 4)
    called = (lambda: layer(x, x, None)[1]) if kind.startswith("gated") else lambda: layer(x)
    layer.dropout.register_forward_hook(lambda _, given, y: seen.update(given=given[0], dropped=y))
    getattr(layer, last).register_forward_pre_hook(lambda _, given: seen.update(read=given[0]))
    with torch.no_grad():
        exact = layer.eval() and called()
        assert torch.equal(seen["read"], seen["given"])
        draws = torch.stack([layer.train() and called() for _ in range(200)])
    kept = seen["dropped"] != 0
    assert seen["read"] is seen["dropped"]
    assert torch.equal(seen["dropped"], torch.where(kept, 2 * seen["given"], 0.0))
    dropped = kept.logical_not() & (seen["given"] != 0)
    assert (kept.any(1) & dropped.any(1)).any(), "features of one pixel differ"
    spread = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - exact).abs() <= 6 * spread + 1e-6).all()
    assert (spread > 0).any()


@pytest.mark.parametrize("kind", KINDS)
def test_without_it_training_computes_what_evaluation_does(kind: str) -> None:
    """And draws no random numbers; with it, evaluation is the same, weights have the same names, training differs."""
    model = build(kind)
    dropping = build(kind, dropout=0.5)
    dropping.load_state_dict(model.state_dict())
    values, labels = random_values(model, 3, 5, 4), labels_for(model, 3)
    with torch.no_grad():
        exact, before = model.eval().log_prob(values, labels), torch.get_rng_state()
        assert torch.equal(model.train().log_prob(values, labels), exact)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(dropping.eval().log_prob(values, labels), exact)
        assert not torch.equal(dropping.train().log_prob(values, labels), exact)
    assert type(model)(**{k: v for k, v in model.config.items() if k != "dropout"}).dropout == 0, (
        "as older runs have it"
    )
    assert dropping.config["dropout"] == 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_a_sampler_draws_without_it(kind: str) -> None:
    """The plan is that of the same weights without dropout, whatever mode the model is in."""
    model, dropping = build(kind), build(kind, dropout=0.5).train()
    dropping.load_state_dict(model.state_dict())
    shape, labels = (model.in_channels, 4, 5), labels_for(model, 2)
    uniforms = torch.rand(2, *shape)
    plain, compiled = (sampling.compile(each, shape) for each in (model.eval(), dropping))
    assert all(map(torch.equal, compiled.plan.encode(), plain.plan.encode()))
    drawn = compiled.sample(uniforms=uniforms, labels=labels)
    assert torch.equal(drawn, plain.sample(uniforms=uniforms, labels=labels))
    assert torch.equal(drawn, NaiveSampler(dropping, shape).sample(uniforms=uniforms, labels=labels))
    assert dropping.training


@pytest.mark.parametrize("base", ["gated-pixelcnn", "pixelcnn", "row-lstm", "diagonal-bilstm"])
def test_every_scale_has_it(base: Any) -> None:
    model = MultiScale(base=base, channels=4, layers=1, map_layers=1, image_size=4, dropout=0.3)
    drops = [{m.p for m in stage.modules() if isinstance(m, nn.Dropout)} - {0} for stage in model.stages]
    assert drops == [{0.3}] * 2
    assert model.config["dropout"] == 0.3


@pytest.mark.parametrize("kind", ["pixelcnn", "gated-pixelcnn", "row-lstm", "multi-scale"])
def test_what_it_cannot_be(kind: str) -> None:
    for wrong in (-0.1, 1.5, "half"):
        with pytest.raises((ValueError, TypeError), match="dropout: expected a"):
            models.build(kind, dropout=wrong)
