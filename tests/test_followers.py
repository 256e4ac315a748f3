"""Activations that a convolution takes along, in chains and in what ``fuse`` makes."""

import copy
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import fastgen
from fastgen.nn import Conv2dChain
from fastgen.nn._records import convolution_of
from fastgen.ops.conv_transpose2d import _REMEMBERED, REMEMBERED, swift
from ops import assert_runs, ops_run

NAMES = torch.ops.fastgen
# What convolves, an image, and the op that runs.
CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Any]] = {
    "an image": (lambda: nn.Conv2d(1, 32, 4, 2, 1), (4, 1, 28, 28), NAMES.conv2d_image),
    "halved": (lambda: nn.Conv2d(16, 32, 4, 2, 1), (8, 16, 16, 16), NAMES.winograd_to_small),
    "doubled": (lambda: nn.ConvTranspose2d(32, 16, 4, 2, 1), (8, 32, 8, 8), NAMES.winograd_to_large),
    "products": (lambda: nn.ConvTranspose2d(64, 32, 4, 2, 1), (4, 64, 7, 7), NAMES.conv_transpose2d_products),
    "one pixel": (lambda: nn.ConvTranspose2d(64, 32, 4), (4, 64, 1, 1), None),
    "to an image": (lambda: nn.ConvTranspose2d(64, 4, 4, 2, 1), (4, 64, 8, 8), NAMES.conv_transpose2d_image),
}
ACTIVATIONS = {
    "relu": nn.ReLU(), "in place": nn.ReLU(inplace=True), "leaky": nn.LeakyReLU(0.2), "tanh": nn.Tanh(),
    "leaky, in place": nn.LeakyReLU(0.2, inplace=True),
}  # fmt: skip


def made(plain: nn.Sequential) -> list[nn.Module]:
    """A chain of the same weights, and what ``fuse`` makes, which leaves a first convolution by itself as it is."""
    chain, fused = Conv2dChain(*copy.deepcopy(plain)), copy.deepcopy(plain)
    swapped = fastgen.fuse(fused).swapped
    assert bool(swapped) == (plain[0].weight.shape[1] > 1)  # type: ignore[operator]
    return [chain, fused][isinstance(plain[0], nn.ConvTranspose2d) : 1 + bool(swapped)]


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    leaf = x.clone().requires_grad_()
    y = model(leaf)
    return [y, *torch.autograd.grad(y.sin().sum(), [leaf, *model.parameters()])]


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_op_activates(name: str, activation: str) -> None:
    """Values, layout and gradients are those of the modules, which are not called."""
    convolution, shape, op = CONVOLUTIONS[name]
    plain = nn.Sequential(convolution(), ACTIVATIONS[activation])
    x = torch.randn(*shape)
    expected = gradients(plain, x)
    for model in made(plain):
        ops = () if op is None else (op.default,)
        with (
            mock.patch.object(type(plain[1]), "forward", side_effect=AssertionError),
            assert_runs(*ops, backward=False),
        ):
            found = gradients(model, x)
            with torch.no_grad():
                evaluated = model(x)
        assert evaluated.stride() == expected[0].stride()
        for one, other in zip([*found, evaluated], [*expected, expected[0]], strict=True):
            torch.testing.assert_close(one, other, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_leaky_relu_that_is_written_over(name: str) -> None:
    """It keeps what it was given, so that others may write over its result; layers with tensors of their own do not."""
    convolution, shape, _ = CONVOLUTIONS[name]
    for after in (nn.Dropout(0.0, inplace=True), nn.ReLU6(inplace=True)):
        plain = nn.Sequential(convolution(), nn.LeakyReLU(0.2), nn.Identity(), after)
        x = torch.randn(*shape)
        for model in made(plain):
            for one, other in zip(gradients(model, x), gradients(plain, x), strict=True):
                torch.testing.assert_close(one, other, atol=2e-4, rtol=2e-4)
    channels = plain[0].out_channels
    far = nn.Sequential(convolution(), nn.LeakyReLU(0.2), nn.Conv2d(channels, 5, 1), nn.ReLU6(inplace=True))  # type: ignore[arg-type]
    for model in made(far):
        with mock.patch.object(nn.LeakyReLU, "forward", side_effect=AssertionError):
            model(x)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_an_activation_that_somebody_watches(name: str) -> None:
    convolution, shape, _ = CONVOLUTIONS[name]
    plain = nn.Sequential(convolution(), nn.ReLU())
    for model in made(plain):
        seen: list[Tensor] = []
        model[1].register_forward_hook(lambda _module, args, _y, seen=seen: seen.append(args[0]))  # type: ignore[operator]
        x = torch.randn(*shape)
        torch.testing.assert_close(model(x), plain(x), atol=2e-4, rtol=2e-4)
        assert len(seen) == 1
        assert bool((seen[0] < 0).any())


def test_what_is_remembered_of_a_transposed_convolution() -> None:
    """All that decides its form: else what was found for one would be taken for another."""
    conv, x = nn.ConvTranspose2d(64, 32, 4, 2, 1), torch.randn(4, 64, 7, 7)
    found = swift(x, convolution_of(conv))
    assert found is not None
    assert (found[1], found[0].stride, found[0].weight is conv.weight) == ("products", [2, 2], True)
    assert swift(x, convolution_of(conv)) == found
    assert swift(x, convolution_of(conv)._replace(bias=None))[0].bias is None  # type: ignore[index]
    for other in (x.double(), x[:, :, :0], x[0], x.to("meta"), x[:1, :, :4, :4], x[:, :32]):
        assert swift(other, convolution_of(conv)) is None
    for geometry in ({"stride": (2.0, 2)}, {"dilation": (2, 2)}, {"groups": 2}, {"padding": (1, 1, 1)}):
        with pytest.raises((TypeError, ValueError)) if "stride" in geometry else ops_run():
            assert swift(x, convolution_of(conv)._replace(**geometry)) is None  # type: ignore[arg-type]
    with torch.autocast("cpu", torch.float16):
        assert swift(x, convolution_of(conv)) is None
    few = nn.ConvTranspose2d(512, 256, 4, 2, 1), torch.randn(2, 512, 4, 4)
    assert swift(few[1], convolution_of(few[0])) is None
    with torch.no_grad():
        assert swift(few[1], convolution_of(few[0]))[1] == "scattered"  # type: ignore[index]
        for height in range(1, REMEMBERED + 20):
            swift(torch.empty(1, 64, height, 1), convolution_of(conv))
    assert len(_REMEMBERED) <= REMEMBERED
