"""What only a GPU can show: streams, graphs, other devices, sizes past 2³¹.

The other GPU tests are those of every op, whose ``device`` is then "cuda" too; ``pytest -m gpu`` runs all of them.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from fastgen import _philox, ops
from op_cases import (
    ARGUMENTS,
    CUDA_OPS,
    FUNCTIONS,
    Make,
    as_tuple,
    assert_autocast,
    assert_compiles_to_the_same,
    call,
    moved,
    reference,
)
from ops import exact
from parity import DTYPES, assert_parity, assert_same_layout

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
ROOT = Path(__file__).parent.parent
CASES = [pytest.param(op, make, id=f"{op}-{i}") for op in CUDA_OPS for i, make in enumerate(ARGUMENTS[op])]
MORE_THAN_32_BITS = 2**31 + 4096


def tensors(args: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]


def assert_same_bits(results: Iterable[Tensor], others: Iterable[Tensor]) -> None:
    for one, two in zip(results, others, strict=True):
        assert torch.equal(one.nan_to_num(), two.nan_to_num())
        assert torch.equal(one.isnan(), two.isnan())


def assert_agrees_with_the_cpu(op: str, args: tuple[Any, ...], device: str) -> None:
    """As accurate as plain torch on the GPU, by what the CPU's kernel gives in float64; laid out alike."""
    there = moved(args, device)
    results, eager, truth = call(op, *there), as_tuple(reference(op)(*there)), call(op, *exact(args))
    for result, one_eager, one_truth in zip(results, eager, truth, strict=True):
        assert result.device == tensors(there)[0].device
        assert_parity(result.cpu(), one_eager.cpu(), one_truth)
        assert_same_layout(result, one_truth)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("op", "make"), CASES)
def test_agrees_with_the_cpu(op: str, make: Make, dtype: torch.dtype) -> None:
    assert_agrees_with_the_cpu(op, make(dtype), "cuda")


@pytest.mark.parametrize(("op", "make"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_runs_give_the_same_bits(op: str, make: Make, dtype: torch.dtype) -> None:
    args = moved(make(dtype), "cuda")
    assert_same_bits(call(op, *args), call(op, *args))


@pytest.mark.parametrize(("op", "make"), CASES)
def test_runs_on_the_current_stream(op: str, make: Make) -> None:
    """The arguments are written late, on a side stream; a kernel on another stream would find poison."""
    args = moved(make(torch.float32), "cuda")
    late = tree_map_only(Tensor, lambda t: torch.full_like(t, float("nan") if t.is_floating_point() else 0), args)
    expected = call(op, *args)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # cycles: some 50 ms
        for target, source in zip(tensors(late), tensors(args), strict=True):
            target.copy_(source)
        results = call(op, *late)
    assert not stream.query(), "the side stream was not busy long enough to show anything"
    stream.synchronize()
    assert_same_bits(results, expected)


@pytest.mark.parametrize(("op", "make"), CASES)
def test_graph_capture(op: str, make: Make) -> None:
    """A captured call, replayed on new inputs."""
    args, others = (moved(make(torch.float32), "cuda") for _ in range(2))
    expected = [call(op, *one) for one in (args, others)]  # also compiles what is compiled on first use
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call(op, *args)
    for inputs, right in zip((args, others), expected, strict=True):
        for target, source in zip(tensors(args), tensors(inputs), strict=True):
            target.copy_(source)
        for result in results:
            result.fill_(float("nan"))
        graph.replay()
        assert_same_bits(results, right)


@pytest.mark.parametrize(("op", "make"), CASES)
def test_a_device_that_is_not_current(op: str, make: Make) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    with torch.cuda.device(0):
        assert_agrees_with_the_cpu(op, make(torch.float32), "cuda:1")
        assert torch.cuda.current_device() == 0


# ---- more than 2³¹ elements: offsets, grids and noise counters need 64 bits


def needs(gigabytes: float) -> None:
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0] / 1e9
    if free < gigabytes:
        pytest.skip(f"needs {gigabytes} GB of free GPU memory, has {free:.1f}")
    torch.use_deterministic_algorithms(False)  # else everything is filled with NaN first


def test_large_gated_activation() -> None:
    needs(12)
    run = 16384
    x = torch.randn(MORE_THAN_32_BITS // (2 * run) + 1, 2, run, dtype=torch.bfloat16, device="cuda")
    y = ops.gated_activation(x)
    grad_x = torch.ops.fastgen.gated_activation_backward.default(y, x)
    for n in (0, len(x) // 2, len(x) - 1):
        rows = x[n : n + 1].clone()
        assert torch.equal(y[n : n + 1], ops.gated_activation(rows))
        backward = torch.ops.fastgen.gated_activation_backward.default(y[n : n + 1].clone(), rows)
        assert torch.equal(grad_x[n : n + 1], backward)


def test_large_rsample_kl() -> None:
    needs(18)
    R = 16384
    mu = torch.randn(MORE_THAN_32_BITS // R + 1, R, dtype=torch.bfloat16, device="cuda")
    seed = torch.tensor([77], device="cuda")
    z, kl = ops.rsample_kl(mu, mu, seed)
    grads = torch.ops.fastgen.rsample_kl_backward.default(z, torch.ones_like(kl), mu, mu, seed)

    def formula(n: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
        row, grad_z, noise = mu[n].to(dtype), z[n].to(dtype), _normals(seed, n * R, R).to(dtype)
        sigma, expm1 = torch.exp(0.5 * row), torch.expm1(row)
        kl = 0.5 * (row * row + expm1 - row).sum()
        return row + sigma * noise, kl, grad_z + row, 0.5 * (grad_z * noise * sigma + expm1)

    for n in (0, len(mu) // 2, len(mu) - 1):
        results = z[n], kl[n], grads[0][n], grads[1][n]
        for result, one, two in zip(results, formula(n, torch.float32), formula(n, torch.float64), strict=True):
            assert_parity(result, one.to(result.dtype), two)


def _normals(seed: Tensor, first: int, count: int) -> Tensor:
    """As ``_philox.normals``, from element ``first`` on, in float64."""
    words = _philox._words(seed.reshape(()), first, count).view(-1, 2)
    radius = torch.sqrt(-2 * torch.log(((words[:, 0] >> 1).double() + 0.5) * 2.0**-31))
    angle = torch.pi * 2.0**-31 * (words[:, 1] - ((words[:, 1] & 0x80000000) << 1)).double()
    return torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=1).flatten()


def test_large_masked_conv2d() -> None:
    needs(12)
    C, H, W = 64, 64, 64
    x = torch.randn(MORE_THAN_32_BITS // (C * H * W) + 1, H, W, C, dtype=torch.bfloat16, device="cuda")
    x = x.permute(0, 3, 1, 2)
    weight = torch.randn(8, C, 3, 3, dtype=torch.bfloat16, device="cuda") / 24
    options = "B", "relu", 1, "contiguous"
    y, preactivation = torch.ops.fastgen.masked_conv2d.default(x, weight, None, None, *options, True)
    arguments = weight, *options, [True, False, False]
    grad_x, *_ = torch.ops.fastgen.masked_conv2d_backward.default(y, preactivation, x, *arguments)
    forward, backward = reference("masked_conv2d"), reference("masked_conv2d_backward")
    for n in (0, len(x) // 2, len(x) - 1):
        image, upstream, pre = (tensor[n : n + 1].clone() for tensor in (x, y, preactivation))
        args = image, weight, None, None, *options, True
        assert_parity(y[n : n + 1], forward(*args)[0], forward(*exact(args))[0])
        back = upstream, pre, image, *arguments
        assert_parity(grad_x[n : n + 1], backward(*back)[0], backward(*exact(back))[0])


# ---- through the public functions


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_autocast(name: str, dtype: torch.dtype) -> None:
    assert_autocast(name, dtype, "cuda")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_inductor(name: str) -> None:
    assert_compiles_to_the_same(name, "cuda")


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_compute_sanitizer(tool: str) -> None:
    """Every kernel, small; each tensor an allocation of its own, so that its end is known."""
    if shutil.which("compute-sanitizer") is None:
        pytest.skip("needs compute-sanitizer, of the CUDA toolkit")
    command = [
        "compute-sanitizer",
        f"--tool={tool}",
        "--error-exitcode=99",
        sys.executable,
        "tests/gpu_smoke.py",
        "cuda",
    ]
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = {**os.environ, "PYTHONPATH": paths, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
