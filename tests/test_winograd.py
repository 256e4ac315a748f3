"""winograd: convolutions of kernel 4, stride 2, padding 1, and their transposes, in 9/16 of their multiplications."""

import itertools
import os
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from fastgen.ops import winograd
from fastgen.ops._records import NONE, Activation, Convolution
from fastgen.ops.conv_transpose2d import conv_transpose2d, conv_transpose2d_backward
from fastgen.ops.conv_transpose2d_products import pays as leaves_out
from ops import (
    assert_compiles,
    assert_gradients,
    assert_no_forward_mode,
    assert_op_parity_over,
    assert_opcheck,
    assert_raises,
    assert_runs,
    ops_run,
    with_threads,
)
from parity import assert_parity, channels_last, contiguous, sliced
from rounding import Moved

ROOT = Path(__file__).parent.parent
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
NAMES = torch.ops.fastgen
SMALL, LARGE, WEIGHT = (
    NAMES.winograd_to_small.default, NAMES.winograd_to_large.default, NAMES.winograd_to_weight.default,
)  # fmt: skip
LEAKY = Activation("leaky_relu", 0.3)
ACTIVATIONS = (NONE, LEAKY, Activation("relu"), Activation("tanh"), NONE)
# N, S, L, h, w
SHAPES = {
    "whole tiles": (3, 32, 16, 4, 6),
    "halves of tiles": (2, 16, 48, 7, 5),
    "one pixel": (5, 16, 16, 1, 1),
    "one column": (3, 16, 32, 5, 1),
    "many channels": (2, 80, 144, 2, 3),
    "more tiles than stay in the caches": (3, 16, 16, 15, 22),
    "more than are few": (2, 16, 32, 41, 37),
    "bands of an image": (1, 16, 16, 20, 140),
    "sums in blocks of channels": (1, 480, 48, 2, 2),
    "no image": (0, 16, 32, 4, 4),
}


def arguments(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """small, large, weight, and a bias for either."""
    N, S, L, h, w = shape
    images = torch.randn(N, S, h, w), torch.randn(N, L, 2 * h, 2 * w)
    return *images, torch.randn(S, L, 4, 4) / 4, torch.randn(S), torch.randn(L)


def kernels(weight: Tensor) -> list[Tensor]:
    return [contiguous(weight), channels_last(weight), weight.transpose(0, 1).contiguous().transpose(0, 1)]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_parity(shape: tuple[int, ...]) -> None:
    """In every layout of images and weights, with a bias and without; the same by any number of threads."""
    small, large, weight, bias, offset = arguments(shape)
    layouts = list(itertools.product((contiguous, channels_last, sliced), kernels(weight)))
    for op, reference, image, added in (
        (SMALL, winograd.winograd_to_small_reference, large, bias),
        (LARGE, winograd.winograd_to_large_reference, small, offset),
    ):
        kinds = itertools.cycle(ACTIVATIONS)
        batches = [(layout(image), kernel, one, *next(kinds)) for layout, kernel in layouts for one in (added, None)]
        assert_op_parity_over(batches, op, reference)
        found = [with_threads(threads, lambda op=op, args=batches[0]: op(*args)) for threads in (1, 2, 7)]
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])
    pairs = [(one(large), other(small)) for one in (contiguous, sliced) for other in (channels_last, contiguous)]
    assert_op_parity_over(pairs, WEIGHT, winograd.winograd_to_weight_reference)
    found = [with_threads(threads, lambda: WEIGHT(large, small)) for threads in (1, 2, 7)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.skipif(COMPILER is None, reason="needs the C++ compiler that builds fastgen")
def test_by_the_tiles_of_every_instruction_set(tmp_path: Path) -> None:
    """Against plain loops, in blocks of channels and of tiles; the sanitizers see every read and write."""
    program = tmp_path / "check_winograd"
    flags = ["-std=c++20", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    source = ROOT / "tests/check_winograd.cpp"
    subprocess.run([COMPILER, *flags, f"-I{ROOT / 'csrc'}", str(source), "-o", str(program)], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    results = [line.split() for line in done.stdout.splitlines()]
    assert {f"portable_{what}" for what in ("small", "large", "weight")} <= {name for name, *_ in results}
    assert {name: numbers for name, *numbers in results if float(numbers[0]) > 2e-6 or int(numbers[1])} == {}


def test_an_image_does_not_depend_on_those_beside_it() -> None:
    small, large, weight, *_ = arguments((9, 32, 48, 6, 7))
    for op, images in ((SMALL, large), (LARGE, small)):
        whole = op(images, weight, None, *NONE)
        for n in (0, 4, 8):
            assert torch.equal(op(images[n : n + 1], weight, None, *NONE)[0], whole[n])
    # in blocks of channels and of tiles: the sums are the same
    many = torch.cat([large] * 5)
    assert torch.equal(SMALL(many, weight, None, *NONE)[:9], SMALL(large, weight, None, *NONE))


def test_what_is_not_a_number_stays_in_its_tiles() -> None:
    """Winograd's sums mix the pixels of a tile; those beyond it stay as they are."""
    _, large, weight, *_ = arguments((1, 16, 16, 8, 8))
    large[0, 3, 7, 7] = torch.inf  # seen by small pixels 3 and 4, of tiles 1 and 2
    found, plain = SMALL(large, weight, None, *NONE), F.conv2d(large, weight, None, 2, 1)
    assert not plain[0, :, 3:5, 3:5].isfinite().any()
    assert not found[0, :, 3:5, 3:5].isfinite().any()
    assert found[0, :, :2].isfinite().all()
    assert found[0, :, :, 6:].isfinite().all()


def test_gradients_and_registration() -> None:
    """Each is differentiated by the others: of any order."""
    small, large, weight, bias, offset = arguments((3, 16, 32, 3, 4))
    convolved = partial(F.conv2d, stride=2, padding=1)
    doubled = partial(F.conv_transpose2d, stride=2, padding=1)
    for kind, function in ((NONE, torch.Tensor.clone), (LEAKY, partial(F.leaky_relu, negative_slope=0.3))):
        for ours, eager, *args in ((winograd.to_small, convolved, large, weight, bias),
                                   (winograd.to_large, doubled, small, weight, offset)):  # fmt: skip
            run: Any = partial(ours, activation=kind)
            plain: Any = lambda *args, e=eager, f=function: f(e(*args))  # noqa: E731
            assert_gradients((SMALL, LARGE, WEIGHT), run, plain, *args)

    def penalty(step: Any, image: Tensor, kernel: Tensor) -> list[Tensor]:
        """Gradients of a gradient, as a gradient penalty takes them."""
        leaves = [image.requires_grad_(), kernel.requires_grad_()]
        (once,) = torch.autograd.grad(step(*leaves).square().sum(), leaves[:1], create_graph=True)
        return list(torch.autograd.grad(once.square().sum(), leaves))

    for ours, eager, image in ((winograd.to_small, convolved, large), (winograd.to_large, doubled, small)):
        args = image.clone(), weight.clone()
        with assert_runs(SMALL, LARGE, WEIGHT, backward=False):
            found = penalty(ours, *args)
        truth = penalty(eager, *(each.detach().double() for each in args))
        moved = Moved(lambda e=eager, a=args: penalty(e, *(t.detach().double() for t in a)), torch.float32)
        for i, one in enumerate(found):
            assert_parity(one, penalty(eager, *(each.detach() for each in args))[i], truth[i], moved[i])
    for op, image, added in ((SMALL, large, bias), (LARGE, small, offset)):
        assert_opcheck(op, (image, weight, added, *NONE), (channels_last(image), weight, added, *LEAKY))
        assert_no_forward_mode(lambda x, op=op: op(x, weight, None, *NONE), image)
    assert_opcheck(WEIGHT, (large.requires_grad_(), small))
    assert_compiles((SMALL, WEIGHT), winograd.to_small, large, weight, bias)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_a_gradient_has_the_layout_of_its_image(layout: Any) -> None:
    small, large, weight, *_ = arguments((4, 32, 48, 4, 4))
    for step, image in ((winograd.to_small, large), (winograd.to_large, small)):
        leaf = layout(image).requires_grad_()
        (grad,) = torch.autograd.grad(step(leaf, weight).square().sum(), leaf)
        assert grad.stride() == leaf.stride()


def test_where_it_pays() -> None:
    weight = torch.randn(32, 16, 4, 4)
    image = torch.empty(4, 16, 8, 8)
    assert winograd.pays(image, (4, 4), [weight])
    assert not winograd.pays(image[:3], (4, 4), [weight])  # 12 tiles
    assert winograd.pays(image, (7, 7), [weight])  # 49 of 64 pixels are inside
    assert not winograd.pays(image, (7, 5), [weight])  # 35 of 48
    assert winograd.pays(image, (9, 9), [weight])
    for other in (image.double(), image.bfloat16(), image.to("meta")):
        assert not winograd.pays(other, (4, 4), [weight])
    assert not winograd.pays(image, (4, 4), [weight, weight.double()])
    with torch.autocast("cpu", torch.bfloat16):
        assert not winograd.pays(image, (4, 4), [weight])
    with forward_ad.dual_level():
        assert not winograd.pays(image, (4, 4), [weight])
    seen: list[bool] = []
    torch.vmap(lambda x: (seen.append(winograd.pays(x, (4, 4), [weight])), x)[1])(torch.stack([image] * 2))
    assert seen == [False]


@pytest.mark.parametrize(
    "changed",
    [{"kernel": (3, 4)}, {"stride": [2, 1]}, {"padding": [1, 0]}, {"more": [1, 0]}, {"dilation": [1, 2]}, {"groups": 2},
     {"channels": (32, 24)}, {"channels": (8, 16)}, {"channels": (16, 32)}, {"padding": "same"}, {"stride": 1}],
    ids=str,
)  # fmt: skip
def test_what_it_is_not(changed: dict[str, Any]) -> None:
    known: dict[str, Any] = {
        "kernel": (4, 4), "stride": [2, 2], "padding": [1, 1], "more": [0, 0], "dilation": [1, 1], "groups": 1,
        "channels": (32, 16),
    }  # fmt: skip

    def ask(kernel: Any, channels: Any, **geometry: Any) -> bool:
        return winograd.halves(kernel, tuple(geometry.values()), channels)

    assert ask(**known)
    assert ask(**{**known, "stride": 2, "padding": 1, "dilation": 1})
    assert not ask(**{**known, **changed})


def test_transposed_convolutions_compute_by_it() -> None:
    """In whole tiles; of others products leave out as much, but not in their gradients."""
    for size, forward in (
        ((4, 4), "winograd_to_large"), ((9, 8), "conv_transpose2d_products"), ((15, 15), "winograd_to_large"),
    ):  # fmt: skip
        x, weight, bias = torch.randn(4, 64, *size), torch.randn(64, 32, 4, 4) / 30, torch.randn(32)
        convolution = Convolution(weight, bias, [2, 2], [1, 1], [0, 0], [1, 1], 1)
        assert winograd.doubles(x, convolution)
        assert leaves_out(x, convolution) == (size[0] < 15)
        leaves = [each.requires_grad_() for each in (x, weight, bias)]
        with ops_run() as ran:
            y = conv_transpose2d(x, convolution)
            assert ran == {forward}
            grads = torch.autograd.grad(y.square().sum(), leaves)
        assert ran == {forward, "winograd_to_small", "winograd_to_weight"}
        plain = F.conv_transpose2d(x, weight, bias, 2, 1)
        torch.testing.assert_close(y, plain, atol=1e-4, rtol=1e-4)
        expected = torch.autograd.grad(plain.square().sum(), leaves)
        torch.testing.assert_close(grads, expected, atol=1e-2, rtol=1e-3)
        with assert_runs(SMALL, WEIGHT, backward=False):
            grad = torch.randn_like(y)
            found = conv_transpose2d_backward(grad, x, convolution, [True, True, True])
        torch.testing.assert_close(found, torch.autograd.grad(F.conv_transpose2d(*leaves, 2, 1), leaves, grad),
                                   atol=1e-3, rtol=1e-3)  # fmt: skip


def test_errors() -> None:
    """Of whoever calls an op past the layers that check."""
    small, large, weight, bias, _ = arguments((2, 32, 16, 4, 4))
    convolve, double = (lambda *args, op=op: op(*args, *NONE) for op in (SMALL, LARGE))
    assert_raises(
        [
            (lambda: convolve(large[:, :8], weight, None), RuntimeError, r"large: expected \(N, 16, H, W\) in float32"),
            (lambda: convolve(large.double(), weight, None), RuntimeError, "large: expected"),
            (lambda: convolve(large[:, :, 1:], weight, None), RuntimeError, "even height and width, got 7 and 8"),
            (lambda: convolve(large, weight[:, :, :3], None), RuntimeError, r"weight: expected \(S, L, 4, 4\)"),
            (lambda: convolve(large, weight.double(), None), RuntimeError, "weight: expected another dtype"),
            (lambda: convolve(large, weight, bias[:3]), RuntimeError, "bias: expected another shape"),
            (lambda: convolve(large[:, :8], weight[:, :8], None), RuntimeError, "multiple of 16, got 32 and 8"),
            (lambda: double(small[0], weight, None), RuntimeError, r"small: expected \(N, 32, H, W\)"),
            (lambda: double(small, weight, bias), RuntimeError, "bias: expected another shape"),
            (lambda: double(small[:, :, :0], weight, None), RuntimeError, "at least one pixel"),
            (
                lambda: SMALL(large, weight, None, "gelu", 0.0),
                RuntimeError,
                "activation: expected none",
            ),
            (
                lambda: LARGE(small, weight, None, "gelu", 0.0),
                RuntimeError,
                "activation: expected none",
            ),
            (lambda: WEIGHT(large, small[:, :, :3]), RuntimeError, "small: expected another shape"),
            (lambda: WEIGHT(large[0], small), RuntimeError, "four dimensions of both images"),
            (lambda: WEIGHT(large, small.double()), RuntimeError, "small: expected another dtype"),
        ]
    )
