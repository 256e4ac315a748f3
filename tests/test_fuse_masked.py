"""fuse: which masked convolutions are found, however they are written, and which are left and why."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import fastgen
from fastgen.ops import masked_conv2d_mask
from fusable import ByData, ByProduct, Masked, MaskWeight, assert_same_results, parametrized, twins


class Style(Masked):
    """A masked convolution whose forward is given."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor], **options: object) -> None:
        super().__init__("B", 4, 6, 3, padding=1)
        self.function = function
        for name, value in options.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def conv(self: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, self.bias, padding=1)


def no_grad_in_place(self: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        self.weight.mul_(self.mask)
    return conv(self, x, self.weight)


def new_data(self: nn.Module, x: Tensor) -> Tensor:
    self.weight.data = self.weight.data * self.mask
    return conv(self, x, self.weight)


class Around(nn.Module):
    """The mask in a module around the convolution."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.conv = nn.Conv2d(4, 6, 5, padding=2)
        self.register_buffer("taps", masked_conv2d_mask(self.conv.weight.detach(), "A")[0, 0])

    def forward(self, x: Tensor) -> Tensor:
        if self.in_place:
            self.conv.weight.data.mul_(self.taps)
            return self.conv(x)
        return F.conv2d(x, self.conv.weight * self.taps, self.conv.bias, padding="same")


class Bare(nn.Module):
    """Neither a convolution nor a buffer: a parameter and an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(6, 4, 3, 5))
        self.live = masked_conv2d_mask(self.kernel.detach(), "B").bool()

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel * self.live, padding=(1, 2))


STYLES = {
    "data": lambda: ByData("A", 4, 6, 7, padding=3),
    "product": lambda: ByProduct("B", 4, 6, 3, padding=1),
    "one by one": lambda: ByProduct("B", 4, 6, (1, 1)),
    "parametrized": lambda: parametrized("B", 4, 6, 5, padding=2),
    "_conv_forward": lambda: Style(lambda s, x: s._conv_forward(x, s.mask * s.weight, s.bias)),
    "no_grad": lambda: Style(no_grad_in_place),
    "new data": lambda: Style(new_data),
    "mask in another dtype": lambda: Style(lambda s, x: conv(s, x, s.weight * s.mask.to(s.weight.dtype))),
    "around, in place": lambda: Around(True),
    "around": lambda: Around(False),
    "bare": Bare,
}


@pytest.mark.parametrize("style", STYLES)
def test_styles(style: str) -> None:
    torch.manual_seed(3)
    fused, plain, exact, report = twins(STYLES[style]())
    assert [entry.now[:20] for entry in report.swapped] == ["masked_conv2d, mask "], str(report)
    assert report.left == []
    for model in (fused, plain, exact):
        hide_dead_taps(model)
    assert_same_results(fused, plain, exact, lambda: torch.randn(2, 4, 6, 5))


def hide_dead_taps(model: nn.Module) -> None:
    """Their gradients stay out of the comparison: with the mask in the data they are not zero until it is fused."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            first = parameter.shape[-1] == 7 or "taps" in dict(model.named_buffers())
            taps = masked_conv2d_mask(parameter.detach(), "A" if first else "B")
            parameter.register_hook(lambda grad, taps=taps: grad * taps)


@pytest.mark.parametrize("type", ["A", "B"])
@pytest.mark.parametrize("groups", [2, 3, 6])
@pytest.mark.parametrize("order", ["contiguous", "interleaved"])
def test_masks_of_colours(type: str, groups: int, order: str) -> None:
    layer = ByProduct(type, 6, 12, 3, padding=1)
    layer.mask.copy_(masked_conv2d_mask(layer.weight.detach(), type, "none", groups, order))
    fused, plain, exact, report = twins(layer)
    assert f"mask {type}, {groups} {order} colours" in report.swapped[0].now
    assert_same_results(fused, plain, exact, lambda: torch.randn(2, 6, 4, 5))


def test_the_report_says_what_differs() -> None:
    note = fastgen.fuse(ByData("A", 1, 2, 3, padding=1)).swapped[0].note
    assert "gradients of dead taps are exactly zero" in note
    assert fastgen.fuse(ByProduct("A", 1, 2, 3, padding=1)).swapped[0].note == ""


def gated_colours() -> nn.Module:
    layer = ByProduct("B", 6, 12, 3, padding=1)
    layer.mask.copy_(masked_conv2d_mask(layer.weight.detach(), "B", "gated", 3))
    return layer


def other_mask(change: Callable[[Tensor], object]) -> nn.Module:
    layer = ByProduct("B", 4, 6, 3, padding=1)
    change(layer.mask)
    return layer


def two_parametrizations() -> nn.Module:
    layer = parametrizations.weight_norm(nn.Conv2d(4, 6, 3, padding=1))
    return parametrize.register_parametrization(layer, "weight", MaskWeight(Masked("B", 4, 6, 3).mask))


LEFT = {
    "no mask": (lambda: Style(lambda s, x: conv(s, x, s.weight)), "no mask is multiplied into its weight"),
    "another mask": (lambda: other_mask(lambda m: m[0, 0, 2].fill_(1)), "not one of fastgen.ops.masked_conv2d_mask's"),
    "not zeros and ones": (lambda: other_mask(lambda m: m.mul_(0.5)), "not made of zeros and ones"),
    "gated": (gated_colours, "each half of the outputs into 3 colours"),
    "stride": (lambda: Style(lambda s, x: F.conv2d(x, s.weight * s.mask, s.bias, 2, 1)), r"stride \[2, 2\]"),
    "padding": (lambda: Style(lambda s, x: F.conv2d(x, s.weight * s.mask)), r"padding \[0, 0\]"),
    "dilation": (
        lambda: Style(lambda s, x: F.conv2d(x, s.weight * s.mask, padding=1, dilation=2)),
        r"dilation \[2, 2\]",
    ),
    "another padding mode": (
        lambda: Style(lambda s, x: s._conv_forward(x, s.weight * s.mask, s.bias), padding_mode="circular"),
        "also calls aten",
    ),
    "more than that": (lambda: Style(lambda s, x: conv(s, x, s.weight * s.mask) + 1), "does not end in a convolution"),
    "something on the way": (lambda: Style(lambda s, x: conv(s, 2 * x, s.weight * s.mask)), "also calls aten.mul"),
    "mode": (
        lambda: Style(lambda s, x: conv(s, x, s.weight * s.mask) if s.training else x),
        "does not end in a convolution but in input",
    ),
    "no gradient": (
        lambda: Style(lambda s, x: conv(s, x, s.weight.detach() * s.mask)),
        "gradient of the weight differs",
    ),
    "random": (lambda: Style(lambda s, x: conv(s, x + torch.rand(1), s.weight * s.mask)), "draws random numbers"),
    "two arguments": (lambda: Style(lambda s, x: s.missing), "cannot be tried on an image"),
    "weight norm too": (two_parametrizations, "its forward also calls aten._weight_norm"),
    "a forward of its own": (
        lambda: setattr(layer := ByProduct("B", 4, 6, 3, padding=1), "forward", lambda x: x) or layer,
        "forward of its own",
    ),
    "no values": (lambda: ByProduct("B", 4, 6, 3, padding=1, device="meta"), "meta device"),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_left(case: str) -> None:
    make, reason = LEFT[case]
    model = make()
    before = type(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = fastgen.fuse(model)
    assert report.swapped == []
    (left,) = report.left
    assert re.search(reason, left.reason), left.reason
    assert type(model) is before
    if case != "no values":
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_weight_that_is_shared_with_a_layer_without_mask() -> None:
    model = nn.Sequential(ByData("B", 4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
    model[1].weight = model[0].weight
    left = {each.path: each.reason for each in fastgen.fuse(model).left}
    assert left.keys() == {"0", "1"}
    assert "its weight is also that of 1" in left["0"]
    assert left["1"].startswith("it has no mask and is not transposed")


def test_one_layer_in_two_places() -> None:
    layer = ByProduct("B", 4, 4, 3, padding=1)
    fused, plain, exact, report = twins(nn.Sequential(layer, nn.ReLU(), layer))
    assert [entry.path for entry in report.swapped] == ["0, 1"]
    assert fused[0] is fused[2]
    assert_same_results(fused, plain, exact, lambda: torch.randn(2, 4, 5, 5))


@pytest.mark.parametrize("view", [Tensor.detach, Tensor.numpy], ids=["torch", "numpy"])
def test_a_mask_that_is_changed_afterwards(view: Callable[[Tensor], Any]) -> None:
    """It runs as it did before, and says so; and again fused once the mask is as it was. NumPy counts no versions."""
    layer = ByProduct("B", 4, 6, 3, padding=1)
    before = copy.deepcopy(layer)
    fastgen.fuse(layer)
    x = torch.randn(2, 4, 5, 5)
    layer(x)
    for module in (layer, before):
        view(module.mask)[:, :, 0] = 0
    with pytest.warns(UserWarning, match="the mask of a fused ByProduct was changed"):
        assert torch.equal(layer(x), before(x))
    view(layer.mask)[:, :, 0] = 1
    assert not torch.equal(layer(x), before(x))


def test_an_attribute_that_is_changed_afterwards() -> None:
    layer = ByData("B", 4, 4, 3, padding=1)
    fastgen.fuse(layer)
    layer.stride = (2, 2)
    assert layer(torch.randn(1, 4, 6, 6)).shape == (1, 4, 3, 3)
    counting = Style(lambda s, x: setattr(s, "calls", 1) or conv(s, x, s.weight * s.mask))
    assert [left.reason for left in fastgen.fuse(counting).left] == ["its forward writes self.calls"]


def test_other_changes_afterwards() -> None:
    layer = parametrized("B", 4, 6, 3, padding=1)
    fastgen.fuse(layer)
    parametrize.register_parametrization(layer, "weight", MaskWeight(torch.zeros(6, 4, 3, 3)))
    assert torch.equal(layer(torch.randn(1, 4, 3, 3)), layer.bias.view(1, 6, 1, 1).expand(1, 6, 3, 3))
    pruned, plain = ByProduct("B", 4, 6, 3, padding=1), ByProduct("B", 4, 6, 3, padding=1)
    plain.load_state_dict(pruned.state_dict())
    fastgen.fuse(pruned)
    for module in (pruned, plain):
        prune.l1_unstructured(module, "weight", 0.5)
    x = torch.randn(4, 4, 3, 3)
    torch.testing.assert_close(pruned(x), plain(x))
    assert torch.equal(pruned(x[0]), plain(x[0]))  # an image without a batch runs as before
    assert torch.equal(pruned(x=x), plain(x=x))  # and so does a call by keyword
