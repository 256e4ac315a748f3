"""Malformed arguments of modules: constructors and forwards say which argument was wrong, before torch does."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fastgen.nn import (
    ConvTranspose2dBatchNorm,
    ConvTranspose2dChain,
    DiscretizedLogisticMixture,
    GatedActivation,
    GatedResidualBlock,
    GaussianRSample,
    MaskedConv2d,
)
from malformed import assert_clear, sweep

PLACED = {"device": "cpu", "dtype": torch.float32}
COLORS = {"color_groups": 1, "groups_order": "contiguous"}
UP = {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "stride": 2, "padding": (1, 1), "output_padding": 1}
NORM = {"eps": 1e-5, "momentum": 0.1, "affine": True, "track_running_stats": True}
IMAGES = torch.ones(2, 4, 5, 6)
PARAMETERS = ("weight", "bn_weight")  # of the module itself, which x does not fit
OPTIONAL = {"device", "dtype", "momentum", "residual", "generator", "activation", "channels_last"}


def constructors() -> list[tuple[Callable[..., Any], dict[str, Any]]]:
    conv, bn = nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4)
    masked = {"kernel_size": 3, "mask": "B", "bias": True, **COLORS, **PLACED}
    return [
        (MaskedConv2d, {"in_channels": 2, "out_channels": 4, "activation": "gated", **masked}),
        (MaskedConv2d, {"in_channels": 2, "out_channels": 4, **masked, "kernel_size": (3, 1)}),
        (GatedResidualBlock, {"channels": 2, **masked}),
        (ConvTranspose2dBatchNorm,
         {**UP, "bias": False, "activation": "leaky_relu", "negative_slope": 0.1, **NORM, **PLACED}),
        (ConvTranspose2dBatchNorm.from_modules,
         {"conv": conv, "bn": bn, "activation": "leaky_relu", "negative_slope": 0.1}),
        (lambda layers: ConvTranspose2dChain(layers, bn), {"layers": conv}),
        (DiscretizedLogisticMixture, {"mixtures": 2, "levels": 256}),
    ]  # fmt: skip


def forwards() -> list[tuple[Callable[..., Any], dict[str, Any]]]:
    mixture = DiscretizedLogisticMixture(2, 256)
    up = ConvTranspose2dBatchNorm(4, 4, 3, activation="relu")
    values = torch.ones(2, 1, 3, 4, dtype=torch.int64)
    mean = torch.ones(2, 3)
    return [
        (MaskedConv2d(4, 4, 3), {"x": IMAGES, "residual": IMAGES}),
        (MaskedConv2d(4, 4, 3, "A", activation="gated", color_groups=2), {"x": IMAGES}),
        (GatedResidualBlock(4, 3), {"x": IMAGES}),
        (GatedActivation(), {"x": torch.ones(2, 4, 3)}),
        (up, {"x": IMAGES, "deferred": False, "channels_last": False}),
        (up.eval(), {"x": IMAGES}),
        (ConvTranspose2dChain(up, nn.ConvTranspose2d(4, 2, 2)), {"x": IMAGES}),
        (mixture, {"params": torch.ones(2, 6, 3, 4), "values": values}),
        (mixture.param_channels, {"channels": 1}),
        (GaussianRSample(), {"mu": mean, "logvar": mean, "generator": torch.Generator()}),
    ]


@pytest.mark.parametrize("cases", [constructors, forwards], ids=lambda cases: cases.__name__)
def test_modules_say_which_argument_is_wrong(
    cases: Callable[[], list[tuple[Callable[..., Any], dict[str, Any]]]],
) -> None:
    outcomes = []
    for call, arguments in cases():
        outcomes += sweep(call, arguments, optional=OPTIONAL, names=PARAMETERS)
    assert len(outcomes) > 500
    assert_clear(outcomes)


def test_sizes_of_numpy_are_sizes() -> None:
    """And what is kept of them is Python's: ``extra_repr``, a copy and ``torch.compile`` see plain numbers."""
    two, three, four = np.int64(2), np.int32(3), np.uint8(4)
    pairs = [
        (MaskedConv2d(two, four, three, "A", np.True_, "gated", color_groups=two),
         MaskedConv2d(2, 4, 3, "A", True, "gated", color_groups=2)),
        (GatedResidualBlock(four, (three, three)), GatedResidualBlock(4, 3)),
        (ConvTranspose2dBatchNorm(two, four, three, two, (two, two), eps=np.float32(0.5)),
         ConvTranspose2dBatchNorm(2, 4, 3, 2, (2, 2), eps=0.5)),
        (DiscretizedLogisticMixture(two, np.int64(256)), DiscretizedLogisticMixture(2, 256)),
    ]  # fmt: skip
    for of_numpy, plain in pairs:
        assert repr(of_numpy) == repr(plain)
        assert "np." not in repr(of_numpy)
        shapes = [{name: value.shape for name, value in one.state_dict().items()} for one in (of_numpy, plain)]
        assert shapes[0] == shapes[1]
    assert pairs[3][0].param_channels(np.int64(1)) == 6


def test_parameters_are_placed_by_name() -> None:
    layer = MaskedConv2d(2, 4, 3, device="meta", dtype=torch.float64)
    assert (layer.weight.device.type, layer.weight.dtype) == ("meta", torch.float64)
    for given, expected in (
        ({"dtype": torch.int64}, "dtype: expected float32, float64, float16, bfloat16 or None, got torch.int64"),
        ({"device": "gpu"}, "device: expected one that torch knows, got 'gpu'"),
    ):
        for make in (MaskedConv2d, ConvTranspose2dBatchNorm):
            with pytest.raises((TypeError, ValueError), match=expected):
                make(2, 4, 3, **given)


def test_a_generator_lies_where_the_noise_is_drawn() -> None:
    mean = torch.zeros(2, 3, device="meta")
    with pytest.raises(ValueError, match="generator: expected the device of mu, meta, got cpu"):
        GaussianRSample()(mean, mean, torch.Generator())
