"""categorical_cross_entropy: −Σᵤ q(u) log softmax(l)[u], q(u) = (1 − ε)·[u = v] + ε / L."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from fastgen import distributions
from fastgen.models.likelihoods import likelihood
from fastgen.ops import categorical_cross_entropy
from fastgen.ops.categorical_cross_entropy import (
    categorical_cross_entropy_backward_reference,
    categorical_cross_entropy_reference,
    pays,
)
from ops import (
    assert_compiles,
    assert_gradcheck,
    assert_gradients,
    assert_no_forward_mode,
    assert_op_parity,
    assert_opcheck,
    assert_raises,
    assert_runs,
    assert_second_order,
    ops_run,
    with_threads,
)
from parity import DTYPES, LAYOUTS, assert_parity

OP = torch.ops.fastgen.categorical_cross_entropy.default
BACKWARD = torch.ops.fastgen.categorical_cross_entropy_backward.default
# N, C, L, H, W
SHAPES = {
    "RGB": (2, 3, 256, 5, 4),
    "a rest of lanes and of pixels": (2, 2, 37, 5, 7),
    "fewer levels than lanes": (3, 1, 2, 3, 3),
    "a pixel alone": (5, 2, 40, 1, 1),
    "many colours": (1, 35, 17, 2, 1),
    "whole lanes and strips": (1, 1, 64, 8, 8),
    "no image": (0, 1, 16, 3, 3),
    "no pixel": (2, 1, 16, 0, 3),
}
Shape = tuple[int, int, int, int, int]


def batch(shape: Shape, dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[Tensor, Tensor]:
    N, C, L, H, W = shape
    return (3 * torch.randn(N, C * L, H, W)).to(device, dtype), torch.randint(L, (N, C, H, W)).to(device)


def torch_channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def plain(params: Tensor, values: Tensor, levels: int, smoothing: float = 0.0) -> Tensor:
    wide = params.to(torch.promote_types(params.dtype, torch.float32)).unflatten(1, (-1, levels)).transpose(1, 2)
    return F.cross_entropy(wide, values, reduction="none", label_smoothing=smoothing)


def by_op(params: Tensor, values: Tensor, levels: int, smoothing: float = 0.0) -> Tensor:
    """Of however few logits."""
    nats: Tensor = OP(params, values, levels, smoothing)[0]
    return nats


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [*LAYOUTS, torch_channels_last])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_parity(shape: Shape, layout: Callable[[Tensor], Tensor], dtype: torch.dtype, device: str) -> None:
    params, values = batch(shape, dtype, device)
    params, levels = layout(params), shape[2]
    for smoothing in (0.0, 0.3):
        assert_op_parity(OP, categorical_cross_entropy_reference, params, values, levels, smoothing)
        grad, sums = torch.randn(values.shape, device=device), OP(params, values, levels, smoothing)[1]
        args = (grad.to(sums.dtype), params, values, sums, levels, smoothing)
        assert_op_parity(BACKWARD, categorical_cross_entropy_backward_reference, *args)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients(smoothing: float, dtype: torch.dtype, device: str) -> None:
    """The values, and the gradient, are torch's, of values far from all others, too."""
    for layout in (Tensor.contiguous, torch_channels_last):
        params, values = batch((2, 3, 30, 9, 7), dtype, device)
        params = layout(20 * params)
        assert_gradients(
            [OP],
            lambda p, v=values: categorical_cross_entropy(p, v, 30, smoothing),
            lambda p, v=values: plain(p, v, 30, smoothing),
            params,
        )


def test_gradcheck(device: str) -> None:
    for layout in (Tensor.contiguous, torch_channels_last):
        params, values = batch((1, 2, 5, 3, 2), torch.float64, device)
        assert_gradcheck([OP], lambda p, v=values: by_op(p, v, 5, 0.2), layout(params))


def test_a_gradient_is_rounded_once(device: str) -> None:
    """What p is less than 1, of a p near 1 is no difference of rounded numbers."""
    params, values = torch.zeros(1, 64, 2, 4, dtype=torch.bfloat16, device=device), torch.full((1, 1, 2, 4), 3)
    params[:, 3] = 12.0
    for layout in (Tensor.contiguous, torch_channels_last):
        half, wide = layout(params).requires_grad_(), layout(params.float()).requires_grad_()
        found, exact = (
            torch.autograd.grad(categorical_cross_entropy(leaf, values.to(device), 64).sum(), leaf)[0]
            for leaf in (half, wide)
        )
        assert torch.equal(found, exact.bfloat16())
        assert -5e-4 < found[0, 3].float().max() < -3e-4


def test_what_is_no_number_and_no_level(device: str) -> None:
    """Stays with its value; an infinite logit says what it says to torch."""
    for layout in (Tensor.contiguous, torch_channels_last):
        params, values = batch((1, 2, 20, 3, 5), device=device)
        params = layout(params)
        params[0, 7, 0, 1], params[0, 22, 1, 2], params[0, :20, 2, 2] = torch.nan, torch.inf, -torch.inf
        params[0, 25, 2, 4] = -torch.inf
        values[0, 1, 2, 4] = 5
        found, expected = by_op(params, values, 20), plain(params, values, 20)
        assert torch.allclose(found, expected, equal_nan=True)
        assert found[0, 1, 2, 4] == math.inf
        assert found.isfinite().sum() == 30 - 4
        outside = values.clone()
        outside[0, 0, 0, 0], outside[0, 1, 2, 1] = 20, -1
        nats, sums = OP(params, outside, 20, 0.0)
        seen = BACKWARD(torch.ones_like(nats), params, outside, sums, 20, 0.0).unflatten(1, (2, 20)).isfinite().all(2)
        for place in ((0, 0, 0, 0), (0, 1, 2, 1)):
            assert nats[place].isnan()
            assert not seen[place]
        assert seen.sum() == 30 - 5  # −∞ has a gradient: none


def test_bits_do_not_depend_on_threads_or_on_images_beside() -> None:
    for layout in (Tensor.contiguous, torch_channels_last):
        params, values = batch((5, 2, 50, 7, 6))
        params = layout(params)

        def both(p: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            leaf = p.clone(memory_format=torch.preserve_format).requires_grad_()
            nats = categorical_cross_entropy(leaf, v, 50, 0.1)
            return nats.detach(), torch.autograd.grad(nats.sum(), leaf)[0]

        runs = [with_threads(n, lambda p=params, v=values: both(p, v)) for n in (1, 2, 7)]  # type: ignore[misc]
        for one, two, three in zip(*runs, strict=True):
            assert torch.equal(one, two)
            assert torch.equal(one, three)
        for one, every in zip(both(params[3:4], values[3:4]), runs[0], strict=True):
            assert torch.equal(one[0], every[3])


def test_registration(device: str) -> None:
    params, values = batch((2, 2, 20, 4, 5), device=device)
    for layout in (Tensor.contiguous, torch_channels_last):
        p = layout(params)
        nats, sums = OP(p, values, 20, 0.1)
        assert_opcheck(OP, (p.clone(memory_format=torch.preserve_format).requires_grad_(), values, 20, 0.1))
        assert_opcheck(BACKWARD, (nats, p, values, sums, 20, 0.1))
        assert_compiles([OP], lambda p: by_op(p, values, 20), p)
    assert_second_order(lambda p: by_op(p, values, 20, 0.2), params.double())
    assert_no_forward_mode(lambda p: by_op(p, values, 20), params)


def test_errors() -> None:
    params, values = batch((2, 3, 20, 4, 5))
    f = categorical_cross_entropy
    assert_raises(
        [
            (lambda: f(params, values[0], 20), ValueError, r"values: expected shape \(N, C, H, W\), got \(3, 4, 5\)"),
            (lambda: f(params, values, 21), ValueError, r"params: expected shape \(2, 63, 4, 5\), got \(2, 60, 4, 5\)"),
            (lambda: f(params.int(), values, 20), TypeError, "params: expected float32, .* got torch.int32"),
            (lambda: f(params, values.float(), 20), TypeError, "values: expected an integer tensor, got torch.float32"),
            (lambda: f(params, values, 1), ValueError, "levels: expected an integer of at least 2, got 1"),
            (lambda: f(params, values, 20, 1.5), ValueError, "label_smoothing: expected .* got 1.5"),
            (lambda: f(params, values + 1, 20), ValueError, r"values: expected integers in \[0, 20\), got .* to 20"),
            (lambda: f(params, values.to("meta"), 20), ValueError, "values: expected the device of params, cpu"),
            (lambda: OP(params[0], values, 20, 0.0), RuntimeError, "params: expected"),
            (lambda: OP(params, values.int(), 20, 0.0), RuntimeError, "values: expected"),
            (lambda: OP(params, values, 2**60, 0.0), RuntimeError, "levels: expected"),
            (lambda: OP(params, values, 30, 0.0), RuntimeError, "params: expected"),
            (lambda: BACKWARD(values, params, values, values.float(), 20, 0.0), RuntimeError, "grad: expected"),
            (lambda: BACKWARD(values.float(), params, values, values[:1].float(), 20, 0.0), RuntimeError, "sums: exp"),
        ]
    )


def test_models_read_it() -> None:
    """A categorical law of enough logits does, in bfloat16 without a copy in float32; a decoder's likelihood, too."""
    params, values = batch((2, 3, 64, 4, 4))
    law = distributions.Categorical(64)
    for p in (params, torch_channels_last(params), params.bfloat16()):
        leaf = p.requires_grad_()
        with assert_runs(OP):
            found = law.log_prob(leaf, values)
            torch.autograd.grad(found.sum(), leaf)
        exact = -plain(leaf.double(), values, 64)
        assert_parity(found.detach(), -plain(leaf, values, 64).detach(), exact.detach())
        assert torch.equal(law.cross_entropy(leaf, values, 0.0), -found)
        smoothed = law.cross_entropy(leaf, values, 0.2)
        assert torch.allclose(smoothed, plain(leaf, values, 64, 0.2), atol=1e-4)
        assert not torch.allclose(smoothed, -found, atol=1e-2)
        read = smoothed.grad_fn.saved_tensors[0]  # type: ignore[union-attr]
        assert read.dtype == p.dtype
    samples = torch.randn(5, 2, 3 * 64, 4, 4)
    with ops_run() as ran:
        found = likelihood("categorical", 64).log_prob(samples, values)
    assert ran == {"categorical_cross_entropy"}
    expected = torch.stack([-plain(p, values, 64).sum((1, 2, 3)) for p in samples])
    assert torch.allclose(found, expected)
    with ops_run() as ran:
        distributions.Categorical(4).log_prob(params[:, :12], values % 4)
    assert not ran


def test_of_few_logits_it_is_torch_s() -> None:
    """Also in a compiled program, where no value is looked at, and in transforms."""
    params, values = batch((2, 3, 6, 4, 4))
    with ops_run() as ran:
        found = categorical_cross_entropy(params.half(), values, 6, 0.1)
    assert not ran
    assert found.dtype == torch.float32
    assert torch.equal(found, plain(params.half(), values, 6, 0.1))
    wrong = values.clone()
    wrong[0, 0, 0, 0], wrong[1, 2, 3, 3] = 6, -1
    compiled = torch.compile(lambda p, v: categorical_cross_entropy(p, v, 6), backend="eager", fullgraph=True)
    seen = compiled(params, wrong)
    assert torch.equal(seen.isnan(), wrong != values)
    assert torch.equal(seen[wrong == values], plain(params, values, 6)[wrong == values])
    many, values = batch((3, 1, 70, 2, 2))
    each = torch.vmap(lambda p, v: categorical_cross_entropy(p[None], v[None], 70)[0])
    assert torch.allclose(each(many, values), plain(many, values, 70))


def test_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    params = torch.randn(2, 3 * 64, 4, 4)
    assert pays(params, 64)
    assert pays(params[:, :64], 64)
    assert not pays(params[:, :63], 21)
    assert not pays(params, 12)
    assert not pays(params.to("meta"), 64)
    with forward_ad.dual_level():
        assert not pays(params, 64)
    seen: list[bool] = []
    torch.vmap(lambda p: (seen.append(pays(p, 64)), p)[1])(params[None])
    assert seen == [False]
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert not pays(params, 64)
