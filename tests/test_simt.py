"""CUDA C++ kernels without a GPU: on the machine of ``simt/``, sanitized, in three orders of threads and blocks."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from fastgen import _philox
from fastgen.ops.gated_activation import gated_activation_backward_reference, gated_activation_reference
from fastgen.ops.rsample_kl import rsample_kl_backward_reference, rsample_kl_reference
from ops import exact
from parity import DTYPES, assert_parity
from simt.shim import HERE, SCHEDULES, SanitizerError, Shim

SEED = torch.tensor([-(2**40) - 77])
OFFSETS = (0, 1)  # elements behind an aligned address: vectors where they can be, and singly


def like(*tensors: Tensor) -> list[Tensor]:
    return [tensor.to("meta") for tensor in tensors]


def in_every_order(shim: Shim, op: str, dtype: torch.dtype, sizes: Sequence[int], *arrays, offset: int) -> list[Tensor]:
    """The results of ``op``, which are the same bits whatever the order of threads and blocks."""
    first, *others = (shim.call(op, dtype, sizes, *arrays, schedule=order, offset=offset) for order in SCHEDULES)
    for other in others:
        for one, two in zip(first, other, strict=True):
            assert torch.equal(one.flatten().view(torch.uint8), two.flatten().view(torch.uint8))
    return first


def assert_reference(results: Sequence[Tensor], reference, *args: Tensor) -> None:
    eager, truth = reference(*args), reference(*exact(args))
    if isinstance(eager, Tensor):
        eager, truth = (eager,), (truth,)
    for result, one, two in zip(results, eager, truth, strict=True):
        assert_parity(result, one, two)


# ---- gated_activation


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 3), (1, 2), (3, 22, 7), (5, 16, 8), (2, 64, 28, 28)])
def test_gated_activation(shape: tuple[int, ...], offset: int, dtype: torch.dtype, shim: Shim) -> None:
    x = 3 * torch.randn(shape, dtype=dtype)
    N, run = shape[0], x[:1].numel() // 2
    grad_y = torch.randn((N, shape[1] // 2, *shape[2:]), dtype=dtype)
    (y,) = in_every_order(shim, "gated_activation", dtype, (N, run), [x], like(grad_y), offset=offset)
    assert_reference([y], gated_activation_reference, x)
    arrays = [grad_y, x], like(x)
    (grad_x,) = in_every_order(shim, "gated_activation_backward", dtype, (N, run), *arrays, offset=offset)
    assert_reference([grad_x], gated_activation_backward_reference, grad_y, x)


# ---- rsample_kl


def rsample_kl(shim: Shim, mu: Tensor, logvar: Tensor, offset: int = 0) -> list[Tensor]:
    N, R = mu.shape
    kl = torch.empty(N, dtype=torch.promote_types(mu.dtype, torch.float32), device="meta")
    partial = kl.new_empty(N, shim.ask("rsample_kl_parts", N, R))
    arrays = [mu, logvar, SEED], [mu.to("meta"), kl, partial]
    return in_every_order(shim, "rsample_kl", mu.dtype, (N, R), *arrays, offset=offset)[:2]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (1, 1), (7, 3), (128, 20), (11, 31), (3, 1021), (2, 4099)])
def test_rsample_kl(shape: tuple[int, int], offset: int, dtype: torch.dtype, shim: Shim) -> None:
    """A row is a warp's, a block's or a wide block's work; most rows begin and end inside a vector."""
    mu, logvar, grad_z = (torch.randn(shape, dtype=dtype) for _ in range(3))
    results = rsample_kl(shim, mu, logvar, offset)
    assert_reference(results, rsample_kl_reference, mu, logvar, SEED)
    grad_kl = torch.randn(shape[0], dtype=results[1].dtype)
    arrays = [grad_z, grad_kl, mu, logvar, SEED], like(mu, mu)
    grads = in_every_order(shim, "rsample_kl_backward", dtype, (*shape, 1), *arrays, offset=offset)
    assert_reference(grads, rsample_kl_backward_reference, grad_z, grad_kl, mu, logvar, SEED)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rsample_kl_of_few_long_rows(dtype: torch.dtype, shim: Shim) -> None:
    """Blocks share a row; a second launch adds their parts."""
    mu, logvar = (torch.randn(2, 65543, dtype=dtype) for _ in range(2))
    assert shim.ask("rsample_kl_parts", *mu.shape) == 16
    assert_reference(rsample_kl(shim, mu, logvar), rsample_kl_reference, mu, logvar, SEED)


def test_rsample_kl_backward_reads_an_expanded_gradient(shim: Shim) -> None:
    """Stride 0: what ``kl.sum().backward()`` brings."""
    mu, logvar, grad_z = (torch.randn(5, 7) for _ in range(3))
    arrays = [grad_z, torch.ones(1), mu, logvar, SEED], like(mu, mu)
    grads = shim.call("rsample_kl_backward", mu.dtype, (5, 7, 0), *arrays)
    assert_reference(grads, rsample_kl_backward_reference, grad_z, torch.ones(5), mu, logvar, SEED)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_that_of_the_reference(dtype: torch.dtype, shim: Shim) -> None:
    """At μ = 0 and σ = 1, z is the noise."""
    zeros = torch.zeros(3, 101, dtype=dtype)
    noise, truth = (_philox.normals(SEED, zeros.numel(), t).view_as(zeros) for t in (dtype, torch.float64))
    assert_parity(rsample_kl(shim, zeros, zeros)[0], noise, truth)


# ---- what the shim sees: kernels with a bug each, of simt/plants.cuh

X = torch.arange(64.0)


def plant(shim: Shim, name: str, schedule: int = 0) -> Tensor:
    return shim.call(name, torch.float32, (), [X], like(X), schedule=schedule)[0]


def test_without_a_bug_nothing_is_reported(shim: Shim) -> None:
    for schedule in SCHEDULES:
        assert torch.equal(plant(shim, "good", schedule), X.flip(0))


def test_a_missing_barrier_is_seen(shim: Shim) -> None:
    """In some order it does no harm: that is why there are three."""
    results = [plant(shim, "missing_barrier", schedule) for schedule in SCHEDULES]
    right = [torch.equal(result, X.flip(0)) for result in results]
    assert not all(right)
    assert not all(torch.equal(result, results[0]) for result in results)


def test_shared_memory_begins_as_nan_in_every_block(shim: Shim) -> None:
    plant(shim, "good")
    assert plant(shim, "unwritten_shared").isnan().tolist() == [True] + 63 * [False]


@pytest.mark.parametrize(
    ("name", "report"),
    [
        ("shared_overrun", r"HERE.* (insufficient space|global-buffer-overflow)"),
        ("shared_index", r"HERE.* index 64 out of bounds for type 'float \[64\]'"),
        ("global_read", r"heap-buffer-overflow[\s\S]*READ of size 4[\s\S]*#0 .*HERE"),
        ("global_write", r"heap-buffer-overflow[\s\S]*WRITE of size 4[\s\S]*#0 .*HERE"),
        ("misaligned_vector", r"misaligned address .* requires 16 byte alignment[\s\S]*HERE"),
        ("overflow", r"HERE.* signed integer overflow"),
    ],
)
def test_a_sanitizer_names_the_line(name: str, report: str, shim: Shim) -> None:
    lines = (HERE / "plants.cuh").read_text().splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if line.endswith(f"// planted: {name}")]
    with pytest.raises(SanitizerError, match=report.replace("HERE", rf"plants\.cuh:{number}\b")):
        plant(shim, name)
    assert torch.equal(plant(shim, "good"), X.flip(0))  # in a new process


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "divergent_barrier",
            r"deadlock in block \(0, 0, 0\): thread \(16, 0, 0\) waits at __syncthreads; "
            r"thread \(0, 0, 0\) waits at __syncwarp; 0 threads have returned",
        ),
        ("lane_outside_mask", "__shfl_xor_sync: reads a lane outside its mask"),
    ],
)
def test_the_machine_says_why_a_kernel_cannot_go_on(name: str, message: str, shim: Shim) -> None:
    for schedule in SCHEDULES:
        with pytest.raises(RuntimeError, match=message):
            plant(shim, name, schedule)
    assert torch.equal(plant(shim, "good"), X.flip(0))
