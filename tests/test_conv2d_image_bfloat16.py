"""conv2d_image in bfloat16: by pairs of pixels, and in layers where nobody asks for gradients."""

import copy
from itertools import cycle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgen.nn import Conv2dChain
from fastgen.ops import conv2d_image as module
from fastgen.ops._dtypes import pairs_pay
from fastgen.ops._records import NONE, Activation
from ops import assert_op_parity_over, ops_run, with_threads
from parity import channels_last, contiguous, sliced
from test_conv2d_image import LEAKY, OP, SHAPES, arguments


def test_in_bfloat16() -> None:
    """Of a kernel of even width, by weights in float32, which are rounded as they are read; gradients in float32."""
    kinds = cycle((NONE, LEAKY, Activation("relu"), Activation("tanh")))
    for shape in SHAPES.values():
        if shape[5][1] % 2:
            continue
        image, weight, bias, grad, _, *sizes = arguments(shape)
        halves = image.bfloat16()
        batches = [(layout(halves), weight, one, *sizes, last, *next(kinds)) for layout in (contiguous, sliced)
                   for one in (bias, None) for last in (True, False)]  # fmt: skip
        assert_op_parity_over(batches, OP, module.conv2d_image_reference)
        found = [with_threads(threads, lambda batch=batches[0]: OP(*batch)) for threads in (1, 2, 7)]
        assert all(torch.equal(found[0], other) for other in found[1:])
        leaves = [t.clone().requires_grad_() for t in (halves, weight, bias)]
        grads = torch.autograd.grad(OP(*leaves, *sizes, True, *NONE), leaves, grad.bfloat16())
        exact = [t.detach().double().requires_grad_() for t in leaves]
        truth = torch.autograd.grad(F.conv2d(*exact, *sizes), exact, grad.bfloat16().double())
        for one, leaf, right in zip(grads, leaves, truth, strict=True):
            assert one.dtype == leaf.dtype
            torch.testing.assert_close(one.double(), right, rtol=2**-8, atol=2**-8 * right.abs().sum().item() / 50)


@pytest.mark.parametrize("colors", [1, 3])
def test_under_autocast(colors: int) -> None:
    """By a CPU that multiplies pairs, and without gradients of one colour by any; in a model of bfloat16 as well."""
    plain = nn.Sequential(nn.Conv2d(colors, 32, 4, 2, 1), nn.LeakyReLU(0.2))
    model, image, runs = Conv2dChain(*plain), torch.randn(4, colors, 28, 28), colors == 1 or pairs_pay()
    exact = copy.deepcopy(plain).double()(image.double()).detach()
    with torch.autocast("cpu", torch.bfloat16):
        for given in (image, channels_last(image), image.bfloat16()):
            with torch.no_grad(), ops_run() as ran:
                found, expected = model(given), plain(given)
            assert ran == ({"conv2d_image"} if runs else set())
            assert (found.dtype, found.stride()) == (expected.dtype, expected.stride())
            assert (found - exact).norm() <= (expected - exact).norm()
    halves, given = copy.deepcopy(model).bfloat16(), image.bfloat16()
    with torch.no_grad(), ops_run() as ran:
        assert (halves(given) - exact).norm() <= 1.1 * (copy.deepcopy(plain).bfloat16()(given) - exact).norm()
    assert ran == ({"conv2d_image"} if runs else set())
    with torch.no_grad():
        model[0].bias[:3] = torch.tensor([-torch.inf, torch.inf, torch.finfo(torch.float32).max])  # type: ignore[index]
        with torch.autocast("cpu", torch.bfloat16):
            found, expected = (each(image).sum((0, 2, 3)) for each in (model, plain))
    assert torch.equal(found[:3], expected[:3])
    odd = Conv2dChain(nn.Conv2d(3, 32, 3, 3)).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), ops_run() as ran:
        odd(torch.randn(4, 3, 27, 27))
    assert not ran


#: of gradients in bfloat16
TRAINS = {"conv2d_image", "activation_backward", "conv2d_weight"}


@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.2), nn.ReLU()])
@pytest.mark.parametrize("colors", [1, 3])
def test_training_under_autocast(colors: int, activation: nn.Module) -> None:
    """Every gradient is as near the truth as torch's, to the image, too, and the optimiser may step before it."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(colors, 32, 4, 2, 1), activation, nn.Conv2d(32, 8, 1))
    model = Conv2dChain(*copy.deepcopy(plain))
    leaves = torch.randn(3, colors, 28, 28)
    exact = copy.deepcopy(plain).double()

    def gradients(net: nn.Module, wants: bool, cast: bool = True) -> tuple[torch.Tensor, ...]:
        image = leaves.to(next(net.parameters()).dtype).requires_grad_(wants)
        wanted = [*([image] if wants else []), *net[0].parameters()]  # type: ignore[index]
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            loss = net(image).square().float().sum()
        with torch.no_grad():
            for parameter in net.parameters() if cast else ():
                parameter.add_(0.0)  # a step
        return torch.autograd.grad(loss, wanted)

    for wants in (True, False):
        with ops_run() as ran:
            found = gradients(model, wants)
        image_ops = {"conv_transpose2d_image"} if wants else set()
        assert ran == (TRAINS | image_ops if pairs_pay() else set())
        truth = gradients(exact, wants, False)
        for one, theirs, right in zip(found, gradients(plain, wants), truth, strict=True):
            assert one.dtype == theirs.dtype == torch.float32
            assert (one - right).norm() <= 1.5 * (theirs - right).norm()


@pytest.mark.skipif(not pairs_pay(), reason="in bfloat16 with gradients it needs AVX512-BF16")
def test_gradients_of_gradients_in_bfloat16() -> None:
    """They see the weight, not what was rounded of it, and refuse one that was written over."""
    image, weight, bias, *_ = arguments(SHAPES["an encoder's"])
    sizes = ([2, 2], [1, 1])

    def penalty(dtype: torch.dtype, convolve: Any) -> tuple[torch.Tensor, ...]:
        leaves = [t.to(dtype).requires_grad_() for t in (weight, bias)]
        given = image.to(torch.bfloat16 if dtype == torch.float32 else dtype).requires_grad_()
        (once,) = torch.autograd.grad(convolve(given, *leaves).float().pow(3).sum(), given, create_graph=True)
        return torch.autograd.grad(once.float().square().sum(), leaves)

    found = penalty(torch.float32, lambda *args: OP(*args, *sizes, True, "tanh", 0.0))
    truth = penalty(torch.float64, lambda *args: F.conv2d(*args, *sizes).tanh())
    for one, right in zip(found, truth, strict=True):
        assert (one - right).norm() <= 0.03 * right.norm()
    leaf, given = weight.clone().requires_grad_(), image.bfloat16().requires_grad_()
    y = OP(given, leaf, bias, *sizes, True, "tanh", 0.0)
    (before,) = torch.autograd.grad(y.sum(), given, retain_graph=True)
    with torch.no_grad():
        leaf.add_(1.0)
    (after,) = torch.autograd.grad(y.sum(), given, retain_graph=True)  # by what was rounded
    assert torch.equal(after, before)
    with pytest.raises(RuntimeError, match="weight: has been modified by an inplace operation"):
        torch.autograd.grad(y.sum(), given, create_graph=True)
