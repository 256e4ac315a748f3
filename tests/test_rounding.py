"""The bound on rounding: torch's own forms stay within it, and what computes something else does not."""

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from parity import assert_parity
from rounding import Moved, moved_by_rounding, random_upstream

Inputs = tuple[Tensor, ...]


def made(N: int = 4, I: int = 32, O: int = 24, H: int = 14) -> Inputs:
    """Image, weight, bias, residual, scale and shift of a batch norm."""
    torch.manual_seed(0)
    weight = torch.randn(O, I, 3, 3) / (9 * I) ** 0.5
    return torch.randn(N, I, H, H), weight, torch.randn(O), torch.randn(N, O, H, H), torch.rand(O) + 0.5, torch.randn(O)


def layer(x: Tensor, w: Tensor, b: Tensor, r: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    y = F.batch_norm(torch.tanh(F.conv2d(x, w, b, padding=1)), None, None, scale, shift, training=True)
    return F.relu(y + r)


def shifted(x: Tensor, w: Tensor, *rest: Tensor) -> Tensor:
    """One tap of 288 is its neighbour's, in one channel."""
    w = w.clone()
    w[3, 5, 1, 1] = w[3, 5, 1, 2]
    return layer(x, w, *rest)


def without_bias(x: Tensor, w: Tensor, b: Tensor, *rest: Tensor) -> Tensor:
    return layer(x, w, b * (torch.arange(len(b)) != 7), *rest)


def without_residual(x: Tensor, w: Tensor, b: Tensor, r: Tensor, *rest: Tensor) -> Tensor:
    return layer(x, w, b, r * (torch.arange(len(r)) > 0).view(-1, 1, 1, 1), *rest)


def wrong_edge(x: Tensor, w: Tensor, b: Tensor, *rest: Tensor) -> Tensor:
    x = x.clone()
    x[..., -1] = x[..., -2]
    return layer(x, w, b, *rest)


def in_bfloat16(x: Tensor, w: Tensor, *rest: Tensor) -> Tensor:
    return layer(x.bfloat16().to(x.dtype), w.bfloat16().to(w.dtype), *rest)


def tf32(x: Tensor) -> Tensor:
    """Ten bits of mantissa, as tensor cores read float32."""
    return x + ((x.detach().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32).sub(x.detach())


def in_tf32(x: Tensor, w: Tensor, *rest: Tensor) -> Tensor:
    return layer(tf32(x), tf32(w), *rest)


def channels_last(*inputs: Tensor) -> Tensor:
    return layer(*(t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in inputs))


def one_after_the_other(x: Tensor, w: Tensor, b: Tensor, *rest: Tensor) -> Tensor:
    """The same sums, in the order that errs most: every product added to all before it."""
    columns = F.unfold(x, 3, padding=1)
    y = b.view(1, -1, 1).expand(len(x), -1, columns.shape[-1])
    for k, tap in enumerate(w.flatten(1).unbind(1)):
        y = y + tap.view(1, -1, 1) * columns[:, k : k + 1]
    y = F.batch_norm(torch.tanh(y.view(len(x), -1, *x.shape[2:])), None, None, *rest[1:], training=True)
    return F.relu(y + rest[0])


class Judge:
    """Results and gradients of ``layer``, and the rule over them."""

    def __init__(self) -> None:
        self.inputs = made()
        (self.upstream,) = random_upstream(lambda: [layer(*(t.double() for t in self.inputs))], torch.float32)
        self.moved = Moved(lambda: self.seen(layer, torch.float64), torch.float32)

    def seen(self, function: Callable[..., Tensor], dtype: torch.dtype = torch.float32) -> list[Tensor]:
        leaves = [t.detach().to(dtype).requires_grad_() for t in self.inputs]
        result = function(*leaves)
        gradients = torch.autograd.grad(result, leaves, self.upstream.to(dtype))
        return [result.detach(), *gradients]

    def check(self, results: Sequence[Tensor]) -> None:
        eager, exact = self.seen(layer), self.seen(layer, torch.float64)
        for i, (one, plain, true) in enumerate(zip(results, eager, exact, strict=True)):
            assert_parity(one, plain, true, self.moved[i])


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


@pytest.mark.parametrize("same", [layer, channels_last, one_after_the_other])
def test_the_same_formula_in_another_order_passes(judge: Judge, same: Callable[..., Tensor]) -> None:
    judge.check(judge.seen(same))


def test_one_after_the_other_is_no_rounding_too_many() -> None:
    """A long sum in the plainest order errs more than twice as far as eager's, by blocks, and computes the same."""
    torch.manual_seed(0)
    x, w = torch.rand(64, 4096), torch.rand(4096)
    actual = torch.zeros(64)
    for column, weight in zip(x.T, w, strict=True):
        actual = actual + column * weight
    eager, exact = x @ w, x.double() @ w.double()
    with pytest.raises(AssertionError, match="allowed"):
        assert_parity(actual, eager, exact)
    moved = Moved(lambda: [(x.double() @ w.double().unsqueeze(1)).squeeze(1)], torch.float32)
    assert_parity(actual, eager, exact, moved[0])
    for planted in (x.bfloat16() @ w.bfloat16(), x[:, :-1] @ w[:-1]):
        with pytest.raises(AssertionError, match="allowed"):
            assert_parity(planted.float(), eager, exact, moved[0])


@pytest.mark.parametrize(
    "other", [shifted, without_bias, without_residual, wrong_edge, in_bfloat16, in_tf32], ids=lambda f: f.__name__
)
def test_what_computes_something_else_does_not(judge: Judge, other: Callable[..., Tensor]) -> None:
    with pytest.raises(AssertionError, match="allowed"):
        judge.check(judge.seen(other))


@pytest.mark.parametrize("planted", range(1, 7))
def test_every_gradient_is_judged(judge: Judge, planted: int) -> None:
    results = judge.seen(layer)
    results[planted] = results[planted] * 1.001
    with pytest.raises(AssertionError, match="allowed"):
        judge.check(results)


def test_the_bound_follows_dtype_length_and_cancellation() -> None:
    """Ones, and ones with alternating signs, of length K: the moves are near u (K + √K · K) and u K."""
    for dtype in (torch.float32, torch.float64):
        u = torch.finfo(dtype).eps / 2
        for K in (64, 4096):
            ones = torch.ones(512, K, dtype=torch.float64)
            signs = ones * (1 - 2 * (torch.arange(K) % 2))
            for terms, bound in ((ones, u * (K + K**0.5 * K + K)), (signs, u * K)):
                for one in (terms.sum, terms.mv):
                    given = (1,) if one == terms.sum else (ones[0],)
                    (moved,) = moved_by_rounding(lambda one=one, given=given: [one(*given)], dtype)  # type: ignore[misc]
                    assert 2 * bound < moved < 6 * bound, "the largest of 1024 numbers from a normal distribution"


def test_nothing_arrives_at_a_kink() -> None:
    x = torch.tensor([[-1.0, 1e-9, -1e-9, 0.0, 1.0, 1e-3]], dtype=torch.float64)
    (upstream,) = random_upstream(lambda: [F.relu(x)], torch.float32)
    assert (upstream != 0).tolist() == [[True, False, False, False, True, True]]
    (upstream,) = random_upstream(lambda: [F.elu(x)], torch.float32)
    assert (upstream != 0).all()
