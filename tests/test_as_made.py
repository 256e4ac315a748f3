"""Layers that run as one op where they are as they were made: what is wrong with a part is told by that part."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgen.models.gated_pixelcnn import GatedLayer
from fastgen.models.pixelcnn import ResidualBlock
from fastgen.nn import MaskedConv2d, RowLSTM
from fastgen.nn._as_made import first_layer, last_layers
from ops import ops_run
from parity import channels_last, contiguous


class Head(nn.Module):
    """What a model ends with."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.output = MaskedConv2d(32, 16, 1, activation="relu"), MaskedConv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return last_layers(self.hidden, self.output, x)


#: Of each: how it is made, which channels it reads, its parts, and how it is called.
LAYERS: dict[str, tuple[Callable[[], nn.Module], int, tuple[str, ...], Callable[[nn.Module, Tensor], Any]]] = {
    "residual_block": (lambda: ResidualBlock(16, 1), 32, ("down", "context", "up"), lambda layer, x: layer(x)),
    "gated_layer": (
        lambda: GatedLayer(16, 16, 3, "B", 1, None),
        16,
        ("vertical", "link", "horizontal", "out"),
        lambda layer, x: layer(x, x, None)[1],
    ),
    "pixel_head": (Head, 32, ("hidden", "output"), lambda layer, x: layer(x)),
    "row_lstm_layer": (lambda: RowLSTM(16), 32, ("input_to_state", "up"), lambda layer, x: layer(x)),
}


def bias(changed: Callable[[Tensor], Tensor]) -> Callable[[Any], None]:
    def change(part: Any) -> None:
        part.bias = nn.Parameter(changed(part.bias.detach()), requires_grad=False)

    return change


def colors(groups: Any, order: str = "contiguous") -> Callable[[Any], None]:
    def change(part: Any) -> None:
        if hasattr(part, "color_groups"):
            part.color_groups, part.groups_order = groups, order

    return change


WRONG: dict[str, Callable[[Any], None]] = {
    "a bias in float64": bias(Tensor.double),
    "a bias of one number": bias(lambda b: b[:1]),
    "a sparse bias": bias(Tensor.to_sparse),
    "three colours": colors(3),
    "no colours": colors(0),
    "True for one colour": colors(True),
    "two colours as no integer": colors(2.0),
    "colours in another order": colors(2, "sorted"),
}


def told(call: Callable[[], Any]) -> tuple[type, str]:
    """What is raised."""
    with torch.no_grad(), pytest.raises(Exception) as raised:  # noqa: PT011  which one, the parts say
        call()
    return raised.type, str(raised.value)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("op", LAYERS)
def test_what_is_wrong_is_told_as_by_the_parts(op: str, wrong: str) -> None:
    make, channels, parts, call = LAYERS[op]
    x = channels_last(torch.randn(2, channels, 4, 5))
    with ops_run() as ran, torch.no_grad():
        call(make(), x)
    assert op in ran
    found: list[tuple[type, str]] = []
    for changed in [[part] for part in parts] if "bias" in wrong else [list(parts)]:
        layer = make()
        for part in changed:
            WRONG[wrong](getattr(layer, part))
        for image in (x, contiguous(x)):  # the second has its parts run one by one
            found.append(told(lambda layer=layer, image=image: call(layer, image)))
        assert found[-1] == found[-2]


def test_halves_are_channels_last() -> None:
    """In which convolutions of halves are faster on a CPU, with instructions for them and without."""
    layer = MaskedConv2d(1, 16, 7, mask="A")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        seen = first_layer(layer, torch.rand(2, 1, 8, 8))
    assert seen.dtype == torch.bfloat16
    assert seen.is_contiguous(memory_format=torch.channels_last)
