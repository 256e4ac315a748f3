"""row_lstm_layer inside of a layer and of a model: when it is all of the layer, and when its parts run one by one."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoregressive import assert_same_without
from fastgen.models import RowLSTM
from fastgen.nn import RowLSTM as Layer
from ops import assert_raises, assert_runs, ops_run
from parity import channels_last, contiguous

OP = torch.ops.fastgen.row_lstm_layer.default


def one_by_one(layer: Layer, x: Tensor, added: Tensor | None = None) -> Tensor:
    with pytest.MonkeyPatch.context() as patch, ops_run() as ran:
        patch.setattr(Layer, "_is_as_made", lambda _: False)
        found: Tensor = layer(x, added)
    assert "row_lstm_layer" not in ran
    return found


def randomised(*options: Any) -> Layer:
    layer = Layer(*options)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.4)
    return layer


def test_a_layer_is_one_op_unless_somebody_looks_between() -> None:
    """Whatever its parts have become, a layer computes what they do."""
    layer, x = randomised(8), channels_last(torch.randn(3, 16, 5, 6)).requires_grad_()
    added = torch.randn(3, 32, 1, 1)
    for more in (None, added):
        with assert_runs(OP):
            found = layer(x, more)
            found.sum().backward()
        torch.testing.assert_close(found, one_by_one(layer, x, more))
    for more in (added[:1], added[:, :, 0, 0][0, :, None, None], added.expand(3, 32, 5, 6)):
        with ops_run() as ran:
            torch.testing.assert_close(layer(x, more), one_by_one(layer, x, more))
        assert "row_lstm_layer" not in ran
    seen: list[Any] = []
    handle = layer.input_to_state.register_forward_hook(lambda *args: seen.append(args[2].shape))
    with ops_run() as ran:
        layer(x)
    assert seen == [(3, 32, 5, 6)]
    assert "row_lstm_layer" not in ran
    handle.remove()
    for change in (
        lambda: setattr(layer.dropout, "p", 0.5),
        lambda: setattr(layer, "dropout", nn.Tanh()),
        lambda: setattr(layer, "dropout", nn.Dropout(0.0)) or setattr(layer, "residual", False),
        lambda: setattr(layer, "residual", True) or nn.utils.parametrizations.weight_norm(layer.up),
        lambda: nn.utils.parametrize.remove_parametrizations(layer.up, "weight") and setattr(layer.up, "mask", "A"),
        lambda: setattr(layer.up, "mask", "B") or setattr(layer.input_to_state, "activation", "relu"),
        lambda: setattr(layer.input_to_state, "activation", "none") or setattr(layer.up, "color_groups", 2),
    ):
        change()
        with ops_run() as ran:
            found = layer(x)
        if not getattr(layer.dropout, "p", 0.0):
            torch.testing.assert_close(found, one_by_one(layer, x))
        assert "row_lstm_layer" not in ran


def test_a_layer_of_other_gates_or_states_is_not_one_op() -> None:
    x = channels_last(torch.randn(3, 16, 5, 6))

    class Doubled(Layer):
        def _gates(self, x: Tensor) -> list[Tensor]:
            return [2 * self.input_to_state(x)]

    doubled, assigned = Doubled(8), randomised(8)
    assigned._gates = lambda x: [3 * assigned.input_to_state(x)]  # type: ignore[method-assign]
    for layer in (doubled, assigned):
        torch.testing.assert_close(layer(x), layer(contiguous(x)))
    for name in ("hidden", "cell"):
        layer = randomised(8)
        setattr(layer, name, nn.Parameter(torch.ones(2, 8)))
        with pytest.raises(ValueError, match="zip"):
            layer(x)
    layer = randomised(8)
    layer.state_to_state.append(nn.Parameter(torch.ones(32, 8, 3)))
    with pytest.raises(ValueError, match="zip"):
        layer(x)
    layer, seen = randomised(8), []

    class Counted(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            seen.append(weight.shape)
            return weight

    nn.utils.parametrize.register_parametrization(layer.state_to_state, "0", Counted())
    for image in (x, contiguous(x)):
        seen.clear()
        layer(image)
        assert len(seen) == 1


def test_what_is_wrong_is_told_as_without_the_op() -> None:
    layer, x = randomised(8), channels_last(torch.randn(3, 16, 5, 6))
    wrong = randomised(8)
    wrong.up.bias = nn.Parameter(wrong.up.bias.double())
    assert_raises(
        [
            (lambda: layer(None), TypeError, "x: expected a tensor"),
            (lambda: layer(x.numpy()), TypeError, "x: expected a tensor"),
            (lambda: wrong(x), TypeError, "bias: expected .* got torch.float64"),
        ]
    )


@pytest.mark.parametrize(("colors", "classes"), [(1, None), (3, 5)])
def test_a_model_runs_it_and_is_the_same_without(colors: int, classes: int | None) -> None:
    model = RowLSTM(colors, channels=12, layers=2, image_size=6, classes=classes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 8)
    assert_same_without(OP, model)


def test_a_vectorized_layer_compiles() -> None:
    layer, x = randomised(8).requires_grad_(False), channels_last(torch.randn(3, 16, 5, 6))
    compiled = torch.compile(torch.func.vmap(layer), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(torch.stack([x, -x])), torch.stack([layer(x), layer(-x)]))


def test_a_vectorized_model_runs_its_layers() -> None:
    model, x = RowLSTM(1, channels=8, layers=1), torch.rand(3, 2, 1, 5, 5)
    with torch.no_grad():
        found = torch.func.vmap(model)(x)
        torch.testing.assert_close(found.flatten(0, 1), model(x.flatten(0, 1)))
