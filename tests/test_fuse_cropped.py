"""fuse: masks that are none of the op's, but leave whole rows or columns without a tap: the live taps are convolved."""

import copy
import io
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastgen
from fastgen import sampling
from fastgen.distributions import Bernoulli
from fastgen.fusing import worth
from fastgen.fusing.cropped_conv import CroppedConv
from fusable import assert_same_results, twins


class Stack(nn.Conv2d):
    """A convolution that keeps its image's size, with the mask of a vertical or horizontal stack, or a raster's."""

    def __init__(
        self, kind: str, i: int, o: int, kernel: tuple[int, int], dilation: int = 1, **options: object
    ) -> None:
        padding = tuple(dilation * (k // 2) for k in kernel)
        super().__init__(i, o, kernel, padding=options.pop("padding", padding), dilation=dilation, **options)
        (KH, KW), mask = kernel, torch.zeros(kernel)
        mask[: KH // 2 + (kind == "V with its row")] = 1
        if kind in ("A", "B", "H"):
            mask[KH // 2, : KW // 2 + (kind != "A")] = 1
        self.register_buffer("mask", mask.expand_as(self.weight).clone())


class ByData(Stack):
    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


class ByProduct(Stack):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)


MASKS = {  # kind, kernel, dilation, and what runs
    "rows above": ("V", (3, 3), 1, "conv2d of 1 × 3 of 3 × 3 taps"),
    "rows above of seven": ("V", (7, 5), 1, "conv2d of 3 × 5 of 7 × 5 taps"),
    "its row, too": ("V with its row", (7, 5), 1, "conv2d of 4 × 5 of 7 × 5 taps"),
    "rows above, dilated": ("V", (5, 3), 3, "conv2d of 2 × 3 of 5 × 3 taps"),
    "to the left, dilated": ("H", (1, 7), 2, "conv2d of 1 × 4 of 1 × 7 taps"),
    "A, one row": ("A", (1, 3), 2, "conv2d of 1 × 1 of 1 × 3 taps"),
    "A, dilated": ("A", (3, 3), 2, "conv2d of 2 × 3 of 3 × 3 taps, masked"),
    "B, dilated": ("B", (5, 5), 2, "conv2d of 3 × 5 of 5 × 5 taps, masked"),
}
SIZES = [(2, 4, 6, 5), (2, 4, 1, 1), (3, 4, 13, 2)]


@pytest.mark.parametrize("style", [ByData, ByProduct])
@pytest.mark.parametrize("mask", MASKS)
def test_masks(mask: str, style: type[Stack]) -> None:
    kind, kernel, dilation, now = MASKS[mask]
    fused, plain, exact, report = twins(style(kind, 4, 6, kernel, dilation))
    assert [entry.now for entry in report.swapped] == [now], str(report)
    assert ("gradients of dead taps are exactly zero" in report.swapped[0].note) == (style is ByData)
    for model in (fused, plain, exact):  # with the mask in the data they are not zero until it is fused
        model.weight.register_hook(lambda grad, mask=model.mask: grad * mask.to(grad.dtype))
    for size in SIZES:
        assert_same_results(fused, plain, exact, lambda size=size: torch.randn(size))


def test_equal_on_whole_numbers() -> None:
    """Sums of products of small whole numbers are exact in any order: results and gradients are equal to the bit."""
    for kind, kernel, dilation, _ in MASKS.values():
        layer = ByProduct(kind, 4, 6, kernel, dilation, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.randint(-4, 5, layer.weight.shape))
        plain = copy.deepcopy(layer)
        fastgen.fuse(layer)
        x = torch.randint(-4, 5, (2, 4, 7, 6)).float().requires_grad_()
        answers = [torch.autograd.grad(m(x).square().sum(), [x, m.weight]) for m in (layer, plain)]
        assert torch.equal(layer(x), plain(x))
        assert all(map(torch.equal, *answers))


def test_dead_taps() -> None:
    """Their gradients are zero, and a mask that was written into the weight is written."""
    layer = ByData("B", 4, 6, (5, 5), 2)
    fastgen.fuse(layer)
    dead = layer.mask == 0
    assert layer.weight[dead].ne(0).any()
    layer(torch.randn(2, 4, 6, 6)).square().sum().backward()
    assert layer.weight[dead].eq(0).all()
    assert layer.weight.grad[dead].eq(0).all()
    assert layer.weight.grad[~dead].ne(0).all()


def test_same_padding_and_colours() -> None:
    """A dilated mask with colours, padded by name."""
    layer = ByProduct("A", 6, 6, (3, 3), 2, padding="same")
    layer.mask.copy_(fastgen.ops.masked_conv2d_mask(layer.weight.detach(), "A", "none", 3))
    fused, plain, exact, report = twins(layer)
    assert report.swapped[0].now == "conv2d of 2 × 3 of 3 × 3 taps, masked"
    assert_same_results(fused, plain, exact, lambda: torch.randn(2, 6, 7, 5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_and_memory_format(dtype: torch.dtype) -> None:
    layer = ByProduct("V", 4, 6, (3, 3)).to(dtype, memory_format=torch.channels_last)
    plain = copy.deepcopy(layer)
    fastgen.fuse(layer)
    x = torch.randint(-2, 3, (2, 4, 5, 6)).to(dtype)
    for each in (x, x.to(memory_format=torch.channels_last)):
        y, expected = layer(each), plain(each)
        assert y.dtype == dtype
        assert y.stride() == expected.stride()
        torch.testing.assert_close(y, expected)


LEFT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "too many taps": (
        lambda: ByProduct("H", 4, 6, (1, 3), 2),
        r"dilation \[2, 2\], and the op has \[1, 1\]; its live taps span 1 × 2 of 1 × 3, too many to gain",
    ),
    "too many rows": (lambda: ByProduct("V with its row", 4, 6, (3, 3)), "span 2 × 3 of 3 × 3, too many to gain"),
    "no tap": (lambda: ByProduct("V", 4, 6, (1, 3)), "no tap of it lives"),
    "padding": (lambda: ByProduct("B", 4, 6, (3, 3), 2, padding=1), r"padding \[1, 1\], and the op has \[2, 2\], with"),
    "stride": (lambda: ByProduct("V", 4, 6, (3, 3), stride=2), r"stride \[2, 2\]"),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_left(case: str) -> None:
    make, reason = LEFT[case]
    report = fastgen.fuse(make())
    assert report.swapped == []
    assert re.search(reason, report.left[0].reason), str(report)


def test_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 9,216 weights and 2^24 multiplications on; 40% of the taps dead, or a third if dilated; and two of them."""
    monkeypatch.undo()
    assert [worth.pays_to_crop(*taps, False) for taps in ((15, 25), (6, 9), (1, 3))] == [True, False, True]
    assert [worth.pays_to_crop(*taps, True) for taps in ((6, 9), (7, 9), (2, 3))] == [True, False, False]
    small, large = ByProduct("V", 31, 32, (3, 3)), ByProduct("V", 32, 32, (3, 3))
    assert "below 9216 weights" in fastgen.fuse(small).left[0].reason
    assert fastgen.fuse(large).swapped
    assert not worth.pays_cropped(torch.empty(1, 32, 42, 43), large.weight)
    assert worth.pays_cropped(torch.empty(1, 32, 43, 43), large.weight)


def test_a_mask_that_is_changed_afterwards() -> None:
    for kind, dilation in (("V", 1), ("B", 2)):
        layer = ByProduct(kind, 4, 6, (3, 3), dilation)
        plain = copy.deepcopy(layer)
        fastgen.fuse(layer)
        x = torch.randn(2, 4, 6, 5)
        layer(x)
        for module in (layer, plain):
            module.mask.numpy()[:, :, 2] = 1
        with pytest.warns(UserWarning, match="the mask of a fused ByProduct was changed"):
            assert torch.equal(layer(x), plain(x))
    for module in (layer, plain):  # within the box of a mask with zeros there, what it holds is what is multiplied
        module.mask.numpy()[:, :, 2] = 0
        module.mask.numpy()[:3, :, 1, 0] = 0
    torch.testing.assert_close(layer(x), plain(x))


def test_undo_copies_and_export() -> None:
    layer = ByProduct("V with its row", 4, 6, (5, 3))
    x = torch.randn(2, 4, 6, 5)
    expected, keys = layer(x), list(layer.state_dict())
    report = fastgen.fuse(layer)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    for each in (layer, copy.deepcopy(layer), torch.load(buffer, weights_only=False)):
        assert isinstance(each, CroppedConv)
        assert list(each.state_dict()) == keys
        torch.testing.assert_close(each(x), expected)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.testing.assert_close(program.module()(x[:1]), expected[:1])
    report.undo()
    assert type(layer) is ByProduct
    assert torch.equal(layer(x), expected)


def test_a_fused_model_is_sampled() -> None:
    model = nn.Sequential(ByProduct("V", 1, 4, (3, 3)), nn.ReLU(), ByProduct("B", 4, 1, (3, 3), 2))
    plain = copy.deepcopy(model)
    assert len(fastgen.fuse(model).swapped) == 2
    draws = [
        sampling.compile(each, shape=(1, 6, 5), distribution=Bernoulli(), to_input="[-1, 1]").sample(3, seed=1)
        for each in (model, plain)
    ]
    assert torch.equal(*draws)


def test_double_backward() -> None:
    """It is torch's own convolution, which has gradients of every order."""
    layer = ByProduct("V", 2, 2, (3, 3)).double()
    fastgen.fuse(layer)
    x = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: F.elu(layer(x)), x)
