"""Layers that convolve in bfloat16, in chains and in what ``fuse`` makes, and convolutions of the whole image."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

import fastgen
from fastgen.nn import Conv2dChain
from fastgen.ops import _conv2d_product as conv2d_product
from fastgen.ops import conv2d_weight
from fastgen.ops._dtypes import multiplies, pairs_pay
from fastgen.ops._layouts import is_channels_last
from ops import Layouts, assert_runs, ops_run
from parity import assert_same_layout, channels_last, contiguous

OP, WEIGHT = torch.ops.fastgen.conv2d_bfloat16.default, torch.ops.fastgen.conv2d_weight.default
IMAGE = torch.ops.fastgen.conv2d_image.default
needs_pairs = pytest.mark.skipif(not pairs_pay(), reason="chosen on CPUs that multiply pairs of bfloat16")


def critic() -> nn.Sequential:
    """Of 32×32 images: to 16, 8, 4 and 1."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.2, True), nn.Conv2d(16, 32, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(32, 48, 4, 2, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU(), nn.Conv2d(48, 1, 4, 1, 0),
    )  # fmt: skip


class Doubled(nn.Module):
    """A parametrization to float64."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.double()


@contextmanager
def products() -> Iterator[list[int]]:
    """A 1 for each convolution inside that is computed as a product."""
    made: list[int] = []
    with mock.patch.object(conv2d_product, "conv2d_product", side_effect=conv2d_product.conv2d_product) as called:
        yield made
    made += [1] * called.call_count


def gradients(model: nn.Module, x: Tensor, lower: bool = True, image: bool = True) -> list[Tensor]:
    """The result, perhaps the gradient to the image, and those to the parameters."""
    leaf = x.clone().requires_grad_(image)
    with torch.autocast("cpu", torch.bfloat16, enabled=lower):
        y = model(leaf)
    return [y, *torch.autograd.grad(y.float().sin().sum(), [*[leaf] * image, *model.parameters()])]


def assert_as_close(found: list[Tensor], eager: list[Tensor], exact: list[Tensor]) -> None:
    """Each is about as far from what float64 says as torch's are, as a vector, and of the same dtype."""
    for i, (one, other, truth) in enumerate(zip(found, eager, exact, strict=True)):
        assert one.dtype == other.dtype
        ours, theirs = ((each.double() - truth).norm().item() for each in (one, other))
        assert ours <= 1.5 * theirs + 2e-3 * truth.norm().item(), (i, ours, theirs)


def by_chain(model: nn.Sequential) -> nn.Module:
    return Conv2dChain(*copy.deepcopy(model))


def by_fuse(model: nn.Sequential) -> nn.Module:
    model = copy.deepcopy(model)
    assert fastgen.fuse(model).swapped
    return model


@needs_pairs
@pytest.mark.parametrize("made", [by_chain, by_fuse])
@pytest.mark.parametrize("lower", [True, False])
def test_they_compute_what_the_layers_do(made: Any, lower: bool) -> None:
    """Under autocast, parameters in float32 or not, and of bfloat16 alone; a result has the layout that torch's has."""
    plain = critic()
    for halves in (False, True) if lower else (True,):
        dtype = torch.bfloat16 if halves else torch.float32
        model, eager, exact = made(plain).to(dtype), copy.deepcopy(plain).to(dtype), copy.deepcopy(plain).double()
        for layout in (contiguous, channels_last):
            x = layout(torch.randn(8, 3, 32, 32)).to(dtype)
            image = layout is channels_last  # else its gradient would have the other layout
            with assert_runs(OP, WEIGHT, backward=False):
                found = gradients(model, x, lower, image)
            expected = gradients(eager, x, lower, image)
            assert_as_close(found, expected, gradients(exact, x.double(), False, image))
            for one, other in zip(found[: 1 + image], expected, strict=False):
                assert_same_layout(one, other)
            ends, other = model[:4], eager[:4]
            with torch.autocast("cpu", torch.bfloat16, enabled=lower):
                assert ends(x).stride() == other(x).stride()
                with torch.no_grad(), assert_runs(IMAGE, OP, backward=False):
                    found, expected = [model(x)], [eager(x)]
                    assert_same_layout(*found, *expected)
                    assert_as_close(found, expected, [exact(x.double())])
    torch.testing.assert_close(dict(model.named_buffers()), dict(eager.named_buffers()), atol=2e-2, rtol=2e-2)


@needs_pairs
def test_one_layout_from_the_first_on() -> None:
    """What is before such a layer answers in its layout, also of one colour, whose layout an image does not tell."""
    for colors in (1, 3):
        model = Conv2dChain(*critic())
        model[0] = nn.Conv2d(colors, 16, 4, 2, 1)
        convolve = conv2d_weight.conv2d_bfloat16
        watched = mock.patch.object(conv2d_weight, "conv2d_bfloat16", side_effect=convolve)
        with watched as called, torch.autocast("cpu", torch.bfloat16):
            model(torch.randn(8, colors, 32, 32))
        assert [is_channels_last(call.args[0]) for call in called.call_args_list] == [True, True]
    with torch.autocast("cpu", torch.bfloat16):
        for after in (nn.Conv2d(16, 16, 3, 1, 1), nn.Flatten(), nn.Conv2d(16, 16, 4, 4, 1, dilation=2)):
            first, x = nn.Conv2d(3, 16, 4, 2, 1), torch.randn(8, 3, 32, 32)
            with Layouts() as layouts:
                Conv2dChain(first, nn.ReLU(), after)(x)
            assert not any(layouts.seen)


@needs_pairs
def test_the_gradient_of_an_image_in_planes_is_in_planes() -> None:
    plain, x = critic(), torch.randn(8, 3, 32, 32)
    found, expected = (gradients(model, x)[1] for model in (by_chain(plain), plain))
    assert_same_layout(found, expected)


@needs_pairs
def test_a_parametrization_is_made_once() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(*(spectral_norm(each) if isinstance(each, nn.Conv2d) else each for each in critic()))
    model, x = by_chain(plain), torch.randn(8, 3, 32, 32)
    with assert_runs(OP, WEIGHT, backward=False):
        found = gradients(model, x, image=False)
    expected = gradients(plain, x, image=False)
    for one, other in zip(found, expected, strict=True):
        assert (one.double() - other.double()).norm() <= 0.05 * other.double().norm() + 1e-3
    for one, other in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-2, rtol=2e-2)


@needs_pairs
def test_what_they_do_not_take() -> None:
    """Other geometries are torch's, bit for bit; a LeakyReLU that is written over is no part of them."""
    x = channels_last(torch.randn(8, 16, 16, 16))
    for conv in (
        nn.Conv2d(16, 16, 4, 1, 1), nn.Conv2d(16, 16, 4, 2, "valid"), nn.Conv2d(16, 16, 4, 2, 1, dilation=2),
        nn.Conv2d(16, 16, 4, 2, 1, groups=2), nn.Conv2d(16, 8, 4, 2, 1),
        nn.Conv2d(16, 16, 4, 2, 1, padding_mode="reflect"),
    ):  # fmt: skip
        plain = nn.Sequential(conv, nn.ReLU())
        with torch.autocast("cpu", torch.bfloat16), ops_run() as ran:
            found, expected = Conv2dChain(*plain)(x), plain(x)
        assert not ran
        assert torch.equal(found, expected)
    planes, halves = contiguous(x), nn.Conv2d(16, 16, 4, 2, 1)
    frozen = copy.deepcopy(halves).requires_grad_(False)
    for conv, image in ((halves, planes), (frozen, x), (frozen, planes.requires_grad_())):
        with torch.autocast("cpu", torch.bfloat16), ops_run() as ran:
            assert torch.equal(Conv2dChain(conv)(image), conv(image))
        assert not ran
    odd, pixels = nn.Conv2d(17, 16, 4, 2, 1), torch.randn(8, 17, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), ops_run() as ran:
        assert torch.equal(Conv2dChain(odd)(pixels), odd(pixels))
        assert not ran
        Conv2dChain(halves)(planes)  # without gradients in any layout
    assert ran == {"conv2d_bfloat16"}
    over = nn.Sequential(nn.Conv2d(16, 32, 4, 2, 1), nn.LeakyReLU(0.2), nn.ReLU6(inplace=True))
    with assert_runs(OP, WEIGHT, backward=False):
        found = gradients(Conv2dChain(*over), x)
    assert_as_close(found, gradients(over, x), gradients(copy.deepcopy(over).double(), x.double(), False))
    with pytest.raises(RuntimeError, match="type"):  # as torch's, of float32 parameters without autocast
        Conv2dChain(*over)(x.bfloat16())


@needs_pairs
def test_a_weight_that_is_changed_before_the_gradients() -> None:
    """An optimiser may step between two backwards, as of torch's layer, which keeps what autocast rounded."""
    model, x = Conv2dChain(nn.Conv2d(16, 32, 4, 2, 1)), channels_last(torch.randn(8, 16, 16, 16)).requires_grad_()
    with assert_runs(OP, backward=False), torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    (before,) = torch.autograd.grad(y.float().sum(), x, retain_graph=True)
    with torch.no_grad():
        model[0].weight.mul_(2)  # type: ignore[operator]
    assert torch.equal(torch.autograd.grad(y.float().sum(), x, retain_graph=True)[0], before)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y.float().sum(), x, create_graph=True)


@pytest.mark.parametrize("lower", [pytest.param(True, marks=needs_pairs), False])
def test_batches_of_gradients(lower: bool) -> None:
    """``is_grads_batched``, by tensors whose layout nobody may ask."""
    plain = nn.Sequential(nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU())
    x = channels_last(torch.randn(8, 16, 16, 16)).requires_grad_()
    found = []
    for model in (Conv2dChain(*plain), plain):
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            y = model(x)
        ups = torch.ones(3, *y.shape, dtype=y.dtype) * torch.arange(3)[:, None, None, None, None].to(y.dtype)
        found.append(torch.autograd.grad(y, (x, *model.parameters()), ups, is_grads_batched=True))
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() <= 0.03 * other.norm()


@needs_pairs
def test_what_a_parametrization_makes_of_another_dtype() -> None:
    """Is refused as by torch."""
    plain = nn.Sequential(nn.Conv2d(16, 32, 4, 2, 1))
    nn.utils.parametrize.register_parametrization(plain[0], "weight", Doubled(), unsafe=True)
    x = channels_last(torch.randn(8, 16, 16, 16))
    refusal = "should be the same" if multiplies(torch.bfloat16) else "expected scalar type BFloat16"
    for model in (plain, Conv2dChain(*plain)):
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match=refusal):
            model(x)


@pytest.mark.parametrize("lower", [pytest.param(True, marks=needs_pairs), False])
def test_weights_in_channels_last_tell_the_layout(lower: bool) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU())
    plain, x = plain.to(memory_format=torch.channels_last), torch.randn(8, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16, enabled=lower):
        assert_same_layout(Conv2dChain(*plain)(x), plain(x))


# ---- the whole image at once


@pytest.mark.parametrize("lower", [False, True])
def test_a_convolution_of_the_whole_image_is_a_product(lower: bool) -> None:
    for plain in (
        nn.Conv2d(24, 5, (4, 3)),
        nn.Conv2d(24, 1, (4, 3), 2, bias=False),
        spectral_norm(nn.Conv2d(24, 7, (4, 3))),
    ):
        plain.eval()
        model, exact = Conv2dChain(plain, nn.Tanh()), nn.Sequential(copy.deepcopy(plain), nn.Tanh()).double()
        eager = nn.Sequential(plain, nn.Tanh())
        for layout in (contiguous, channels_last):
            x = layout(torch.randn(8, 24, 4, 3))
            with products() as made:
                found = gradients(model, x, lower)
            assert made == [1]
            expected = gradients(eager, x, lower)
            assert found[0].shape == (8, plain.out_channels, 1, 1)
            assert_as_close(found, expected, gradients(exact, x.double(), False))
            for one, other in zip(found[:2], expected, strict=False):
                assert_same_layout(one, other)
    assert Conv2dChain(plain)(torch.randn(0, 24, 4, 3)).shape == (0, 7, 1, 1)
    few = x[:2].clone(memory_format=torch.channels_last)  # whose copy is smaller than the weight's
    assert_as_close(gradients(model, few, lower), gradients(eager, few, lower), gradients(exact, few.double(), False))


def test_others_are_no_products() -> None:
    x = torch.randn(6, 24, 4, 4)
    for conv in (
        nn.Conv2d(24, 5, 3), nn.Conv2d(24, 5, (4, 3)), nn.Conv2d(24, 5, 4, padding=1),
        nn.Conv2d(24, 5, 4, padding="valid"), nn.Conv2d(24, 6, 4, groups=2), nn.Conv2d(24, 5, 2, dilation=3),
    ):  # fmt: skip
        with products() as made:
            assert torch.equal(Conv2dChain(conv)(x), conv(x))
        assert not made
    conv = nn.Conv2d(24, 5, 4)
    for dtype in (torch.float64, torch.float16):
        with products() as made:
            Conv2dChain(copy.deepcopy(conv).to(dtype))(x.to(dtype))
        assert not made
    with products() as made:
        Conv2dChain(nn.Conv2d(24, 5, 1))(x[:, :, :1, :1])
        torch.vmap(Conv2dChain(conv))(torch.stack([x, x]))
    assert not made
    with pytest.raises(RuntimeError):
        Conv2dChain(conv)(x[:, :23])
    conv.weight = nn.Parameter(torch.randn(5, 24, 3, 2))  # of another kernel than it was made for
    assert torch.equal(Conv2dChain(conv)(x), conv(x))
    conv.weight = nn.Parameter(torch.randn(5, 24, 2, 8))
    with pytest.raises(RuntimeError, match="Kernel size"):
        Conv2dChain(conv)(x)
    conv.weight, conv.bias = nn.Parameter(torch.randn(5, 24, 4, 4)), nn.Parameter(torch.randn(1))
    with pytest.raises(RuntimeError, match="5 elements"):
        Conv2dChain(conv)(x)
    conv.bias = None
    Conv2dChain(conv)(x).detach_()  # no view


def test_a_product_is_exported_as_a_convolution() -> None:
    model, x = Conv2dChain(nn.Conv2d(24, 5, 4)), torch.randn(2, 24, 4, 4)
    N = torch.export.Dim("N", min=2)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: N},))
    assert any("conv2d" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), model(x))
