"""Layers that run as one op where they are as they were made: what is wrong with a part is told by that part."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgen.models.gated_pixelcnn import GatedLayer
from fastgen.models.pixelcnn import ResidualBlock
from fastgen.nn import RowLSTM
from ops import ops_run
from parity import channels_last, contiguous

#: Of each: how it is made, which channels it reads, its parts, and how it is called.
LAYERS: dict[str, tuple[Callable[[], nn.Module], int, tuple[str, ...], Callable[[nn.Module, Tensor], Any]]] = {
    "residual_block": (lambda: ResidualBlock(16, 1), 32, ("down", "context", "up"), lambda layer, x: layer(x)),
    "gated_layer": (
        lambda: GatedLayer(16, 16, 3, "B", 1, None),
        16,
        ("vertical", "link", "horizontal", "out"),
        lambda layer, x: layer(x, x, None)[1],
    ),
    "row_lstm_layer": (lambda: RowLSTM(16), 32, ("input_to_state", "up"), lambda layer, x: layer(x)),
}


def bias(changed: Callable[[Tensor], Tensor]) -> Callable[[Any], None]:
    def change(part: Any) -> None:
        part.bias = nn.Parameter(changed(part.bias.detach()), requires_grad=False)

    return change


def colors(groups: Any) -> Callable[[Any], None]:
    def change(part: Any) -> None:
        if hasattr(part, "color_groups"):
            part.color_groups = groups

    return change


WRONG: dict[str, Callable[[Any], None]] = {
    "a bias in float64": bias(Tensor.double),
    "a bias of one number": bias(lambda b: b[:1]),
    "a sparse bias": bias(Tensor.to_sparse),
    "three colours": colors(3),
    "no colours": colors(0),
    "True for one colour": colors(True),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("op", LAYERS)
def test_what_is_wrong_is_told_as_by_the_parts(op: str, wrong: str) -> None:
    make, channels, parts, call = LAYERS[op]
    x = channels_last(torch.randn(2, channels, 4, 5))
    with ops_run() as ran, torch.no_grad():
        call(make(), x)
    assert op in ran
    for changed in [[part] for part in parts] if "bias" in wrong else [list(parts)]:
        layer, found = make(), []
        for part in changed:
            WRONG[wrong](getattr(layer, part))
        for image in (x, contiguous(x)):  # which has its parts run one by one
            try:
                with torch.no_grad():
                    found.append(("", call(layer, image)))
            except Exception as error:
                found.append((type(error).__name__, str(error)))
        torch.testing.assert_close(found[0][1], found[1][1]) if not found[0][0] else None
        assert found[0][0] == found[1][0]
        if found[0][0]:
            assert found[0][1] == found[1][1]
