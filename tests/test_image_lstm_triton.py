"""The Triton kernels of image_lstm: interpreted where there is no GPU, as they are where there is one."""

import pytest
import torch
from torch import Tensor

from fastgen.ops import image_lstm_triton as kernels
from fastgen.ops.image_lstm import SCANS, TAPS, image_lstm_backward_reference, image_lstm_reference, steps
from fastgen.ops.image_lstm_triton import image_lstm_backward_triton, image_lstm_triton
from ops import assert_op_parity, cuda_kernel

OP = torch.ops.fastgen.image_lstm.default
BACKWARD = torch.ops.fastgen.image_lstm_backward.default
#: N, h, H, W: none, one and few of each, and more channels than a tile of 16.
SHAPES = ((0, 2, 2, 3), (1, 3, 0, 2), (1, 3, 2, 0), (1, 1, 1, 1), (1, 3, 1, 3), (1, 5, 3, 1), (2, 17, 2, 2))


def arguments(shape: tuple[int, ...], scan: str, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Gates, weight, hidden, cell."""
    N, h, H, W = shape
    sizes = ((N, H, W, 4 * h), (4 * h, h, len(TAPS[scan])), (h,), (h,))
    gates, weight, hidden, cell = (torch.randn(size, device=device, dtype=dtype) for size in sizes)
    return [gates, weight / h**0.5, hidden, cell]


def assert_kernels(shape: tuple[int, ...], scan: str, device: str) -> None:
    """Forward and backward: of two images with the one gradient that training has, else with all that may arrive."""
    inputs = arguments(shape, scan, torch.float32, device)
    assert_op_parity(OP, image_lstm_reference, *inputs, scan, kernel=image_lstm_triton)
    h, c, activations = image_lstm_reference(*inputs, scan)
    grads = [torch.randn_like(t) for t in (h, c, activations)]
    given = [grads[0], None, None] if len(h) == 2 else grads
    assert_op_parity(
        BACKWARD, image_lstm_backward_reference, *given, h, c, activations, *inputs[1:], scan,
        kernel=image_lstm_backward_triton,
    )  # fmt: skip


@pytest.mark.parametrize(("scan", "whole"), [*((scan, True) for scan in SCANS), ("row", False), ("mirrored", False)])
def test_parity(scan: str, whole: bool, triton_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program for a whole image, and launches for each step, whatever would be chosen."""
    monkeypatch.setattr(kernels, "fits", lambda LINES, D: whole)
    for shape in SHAPES:
        assert_kernels(shape, scan, triton_device)


def test_parity_of_images_with_more_lines_than_a_tile(triton_device: str) -> None:
    assert_kernels((1, 2, 2, 17), "row", triton_device)


def test_parity_of_more_channels_than_a_tile(triton_device: str) -> None:
    """And more rows than one, of images and lines."""
    assert not kernels.fits(2, 33)
    assert_kernels((34, 33, 2, 1), "diagonal", triton_device)


@pytest.mark.parametrize("scan", SCANS)
def test_a_walk_meets_every_cell_in_its_step(scan: str) -> None:
    for H, W in ((4, 3), (1, 5), (5, 1), (3, 3)):
        LINES, LENGTH, base, stride_l, stride_k = walk = kernels.walk_of(scan, H, W)
        SKEW = kernels.constants_of(scan, 1)["SKEW"]
        places = [
            [base + line * stride_l + (step - SKEW * line) * stride_k for line in range(LINES)
             if 0 <= step - SKEW * line < LENGTH]
            for step in kernels.steps_of(walk, SKEW)
        ]  # fmt: skip
        expected = [[r * W + k for r, k in zip(*cells, strict=True)] for cells in steps(scan, H, W)]
        assert list(map(sorted, places)) == list(map(sorted, expected))


def test_strided_inputs(triton_device: str) -> None:
    inputs = arguments((2, 3, 2, 4), "row", torch.float32, triton_device)
    moved = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in inputs]
    results, expected = (image_lstm_triton(*args, "row") for args in (moved, inputs))
    assert all(map(torch.equal, results, expected))
    upstream, others = torch.randn_like(results[0]), moved[1:]
    strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (upstream, *results)]
    backward = image_lstm_backward_triton(strided[0], strided[2], strided[3], *strided[1:], *others, "row")
    expected = image_lstm_backward_triton(upstream, results[1], results[2], *results, *inputs[1:], "row")
    assert all(map(torch.equal, backward, expected))


def test_a_gpu_runs_these_kernels(triton_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the dispatcher calls there launches one kernel for an image, each way."""
    launched = []
    launch = kernels.launch
    monkeypatch.setattr(kernels, "launch", lambda kernel, *a, **k: (launched.append(kernel), launch(kernel, *a, **k)))
    inputs = arguments((2, 3, 2, 3), "diagonal", torch.float32, triton_device)
    results = cuda_kernel(OP)(*inputs, "diagonal")
    cuda_kernel(BACKWARD)(results[0], None, None, *results, *inputs[1:], "diagonal")
    assert launched == [kernels.image_lstm_kernel, kernels.image_lstm_backward_kernel]


def test_float64_is_the_reference(triton_device: str) -> None:
    inputs = arguments((1, 2, 2, 3), "row", torch.float64, triton_device)
    assert all(map(torch.equal, cuda_kernel(OP)(*inputs, "row"), image_lstm_reference(*inputs, "row")))


def test_an_image_has_the_same_bits_whatever_stands_beside_it(triton_device: str) -> None:
    gates, *others = arguments((3, 5, 3, 2), "mirrored", torch.float32, triton_device)
    alone, among = image_lstm_triton(gates[1:2], *others, "mirrored"), image_lstm_triton(gates, *others, "mirrored")
    assert all(torch.equal(one, all_[1:2]) for one, all_ in zip(alone, among, strict=True))
    upstream = torch.randn_like(among[0])
    grads = image_lstm_backward_triton(upstream, None, None, *among, *others, "mirrored")
    one = image_lstm_backward_triton(upstream[1:2], None, None, *alone, *others, "mirrored")
    assert torch.equal(one[0], grads[0][1:2])
    assert torch.equal(one[2], grads[2][1:2])
