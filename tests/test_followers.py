"""Activations that a convolution takes along, in chains and in what ``fuse`` makes."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import fastgen
from fastgen.nn import Conv2dChain, LinearChain
from fastgen.nn._records import convolution_of
from fastgen.ops.conv_transpose2d import _REMEMBERED, REMEMBERED, swift
from ops import assert_runs
from parity import channels_last, contiguous

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
    assert swapped or plain[0].weight.shape[1] == 1  # type: ignore[operator]
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
    plain.append(nn.Conv2d(plain[0].out_channels, 5, 1))  # type: ignore[arg-type]
    x = torch.randn(*shape)
    expected = gradients(plain, x)
    for model in made(plain):
        ops = () if op is None else (op.default,)
        takes = name not in ("products", "one pixel")  # with gradients
        with mock.patch.object(type(plain[1]), "forward", autospec=True, side_effect=type(plain[1]).forward) as called:
            with assert_runs(*ops, backward=False):
                found = gradients(model, x)
            assert called.called != takes
            called.reset_mock()
            with torch.no_grad():
                evaluated = model(x)
            assert not called.called
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
    last = nn.Sequential(convolution(), nn.LeakyReLU(0.2))
    for model in made(far):
        with mock.patch.object(nn.LeakyReLU, "forward", side_effect=AssertionError), torch.enable_grad():
            model(x) if name not in ("products", "one pixel") else None
    for layout in (contiguous, channels_last):
        for model in made(last):
            grads = []
            for each in (model, last):
                y = each(layout(x))
                y.data.mul_(0)
                y += 1
                grads.append(torch.autograd.grad(y.sin().sum(), each.parameters()))
            for one, other in zip(*grads, strict=True):
                torch.testing.assert_close(one, other, atol=2e-4, rtol=2e-4)


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


def test_layers_that_were_made_otherwise() -> None:
    """A weight that autocast's products make, one of halves beside a bias in float32, a slope that is a tensor."""
    plain = nn.Sequential(nn.Conv2d(1, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1))
    nn.utils.parametrizations.orthogonal(plain[0])
    image = torch.randn(4, 1, 28, 28)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for model in made(plain):
            torch.testing.assert_close(model(image), plain(image), atol=3e-2, rtol=3e-2)
    doubled = nn.Sequential(nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1))
    (model,) = made(doubled)
    for each in (doubled, model):
        each[0].weight = nn.Parameter(doubled[0].weight.detach().bfloat16())  # type: ignore[index,union-attr]
    with torch.autocast("cpu", torch.bfloat16):
        x = torch.randn(4, 64, 7, 7)
        torch.testing.assert_close(model(x), doubled(x), atol=3e-2, rtol=3e-2)
    slope: Any = torch.tensor(0.3)
    plain = nn.Sequential(nn.Conv2d(16, 32, 4, 2, 1), nn.LeakyReLU(slope), nn.Conv2d(32, 32, 4, 2, 1))
    x = torch.randn(8, 16, 16, 16)
    for model in made(plain):
        for one, other in zip(gradients(model, x), gradients(plain, x), strict=True):
            torch.testing.assert_close(one, other, atol=2e-4, rtol=2e-4)


def test_who_looks_on_at_torchs_ops() -> None:
    """Checkpoints that keep products see none of them written over; a trace has symbols for sizes."""
    aten = torch.ops.aten
    kept = (aten.addmm.default, aten.mm.default, aten.convolution.default, aten._unsafe_view.default)

    def policy(_ctx: Any, op: Any, *_args: Any, **_options: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if op in kept else CheckpointPolicy.PREFER_RECOMPUTE

    doubled = nn.Sequential(nn.ConvTranspose2d(64, 32, 4), nn.LeakyReLU(0.2), nn.ConvTranspose2d(32, 32, 4, 2, 1))
    layers = nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 64))
    for plain, x in ((doubled, torch.randn(16, 64, 1, 1)), (layers, torch.randn(64, 256))):
        model = copy.deepcopy(plain)
        assert fastgen.fuse(model).swapped
        found = []
        for each in (model, plain):
            each.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=plain is layers):
                make = partial(create_selective_checkpoint_contexts, policy)
                y = checkpoint(each, x, use_reentrant=False, context_fn=make)
            y.float().sin().sum().backward()
            found.append([parameter.grad for parameter in each.parameters()])
        tolerance = 3e-2 if plain is layers else 2e-4
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)
    with torch.no_grad():
        model = nn.Sequential(*doubled, nn.ReLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1)).eval()
        fastgen.fuse(model)
        x = torch.randn(16, 64, 1, 1)
        traced = make_fx(model, tracing_mode="symbolic", _allow_non_fake_inputs=True)(x)
        torch.testing.assert_close(traced(x), model(x))
    expected = torch.func.linearize(layers, torch.randn(64, 256))[0]
    assert torch.func.linearize(LinearChain(*layers), torch.randn(64, 256))[0].shape == expected.shape


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
    with pytest.raises(ValueError, match="stride: expected"):
        swift(x, convolution_of(conv)._replace(stride=(2.0, 2)))
    pairs: list[dict[str, Any]] = [
        {"dilation": (2, 2)}, {"groups": 2}, {"padding": (1, 1, 1)}, {"stride": (2, 2, 1), "padding": (1,)},
    ]  # fmt: skip
    for geometry in pairs:
        assert swift(x, convolution_of(conv)._replace(**geometry)) is None
    with torch.autocast("cpu", torch.float16):
        assert swift(x, convolution_of(conv)) is None
    few = nn.ConvTranspose2d(512, 256, 4, 2, 1), torch.randn(2, 512, 4, 4)
    assert swift(few[1], convolution_of(few[0])) is None
    with torch.no_grad():
        assert swift(few[1], convolution_of(few[0]))[1] == "scattered"  # type: ignore[index]
        for height in range(1, REMEMBERED + 20):
            swift(torch.empty(1, 64, height, 1), convolution_of(conv))
    assert len(_REMEMBERED) <= REMEMBERED
