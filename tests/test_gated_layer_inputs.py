"""gated_layer inside of a layer: inputs that are one, dropout of its own, classes, and what has no gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastgen.models.gated_pixelcnn import GatedLayer
from ops import assert_runs, ops_run
from parity import channels_last

OP = torch.ops.fastgen.gated_layer.default


def one_by_one(layer: GatedLayer, v: Tensor, h: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    with pytest.MonkeyPatch.context() as patch, ops_run() as ran:
        patch.setattr(GatedLayer, "_is_one_op", lambda *_: False)
        found = layer(v, h, labels)
    assert "gated_layer" not in ran
    return found


@pytest.mark.parametrize("made", [lambda h: h, torch.tanh], ids=["the same", "of the other"])
def test_second_order_where_an_input_is_another_or_made_of_it(made: Callable[[Tensor], Tensor]) -> None:
    layer, h = GatedLayer(16, 16, 3, "B", 1, None), channels_last(torch.randn(2, 16, 4, 5)).requires_grad_()
    layer.link.bias = layer.vertical.bias
    leaves = [h, *dict.fromkeys(layer.parameters())]
    found = []
    for f in (lambda v, h: layer(v, h, None), lambda v, h: one_by_one(layer, v, h)):
        loss = torch.stack([y.square().mean() for y in f(made(h), h)]).sum()
        once = torch.autograd.grad(loss, leaves, create_graph=True)
        twice = torch.autograd.grad(torch.stack([g.square().sum() for g in once]).sum(), leaves)
        found.append([*once, *twice])
    torch.testing.assert_close(*found)


def test_a_dropout_that_drops_or_is_another_layer_runs() -> None:
    layer, h = GatedLayer(16, 16, 3, "B", 1, None, False, 0.5).eval(), channels_last(torch.randn(2, 16, 4, 5))
    with torch.no_grad():
        with assert_runs(OP, backward=False):
            torch.testing.assert_close(layer(h, h, None), one_by_one(layer, h, h))
        layer.dropout.train()  # alone: Monte Carlo dropout
        assert not torch.equal(layer(h, h, None)[1], layer(h, h, None)[1])
        for other in (nn.Tanh(), nn.Identity()):
            layer.dropout = other
            for mode in (False, True):
                torch.testing.assert_close(layer.train(mode)(h, h, None), one_by_one(layer, h, h))


def test_one_class_for_all_images() -> None:
    layer, h = GatedLayer(16, 16, 3, "B", 1, 5), channels_last(torch.randn(3, 16, 4, 5))
    nn.init.normal_(layer.class_vertical.weight)
    nn.init.normal_(layer.class_horizontal.weight)
    for labels, runs in ((torch.tensor([2]), False), (torch.tensor([2, 0, 4]), True)):
        with ops_run() as ran:
            found = layer(h, h, labels)
        assert ("gated_layer" in ran) == runs
        torch.testing.assert_close(found, one_by_one(layer, h, h, labels))


def test_what_the_upper_stack_does_not_read_has_no_gradient() -> None:
    layer, h = GatedLayer(16, 16, 3, "B", 1, None), channels_last(torch.randn(2, 16, 4, 5)).requires_grad_()
    v = h.detach().requires_grad_()
    leaves = {"v": v, "h": h, **dict(layer.named_parameters())}
    with assert_runs(OP):
        grads = torch.autograd.grad(layer(v, h, None)[0].sum(), list(leaves.values()), allow_unused=True)
    got = {name for name, grad in zip(leaves, grads, strict=True) if grad is not None}
    assert got == {"v", "vertical.weight", "vertical.bias"}
