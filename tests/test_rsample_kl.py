"""rsample_kl: z = μ + exp(½ log σ²)·ε and KL(N(μ, σ²) ‖ N(0, I))."""

import math

import pytest
import torch
from torch import Tensor

from fastgen._philox import normals, philox4x32
from fastgen.nn import GaussianRSample
from fastgen.ops import rsample_kl
from fastgen.ops.rsample_kl import LOGVAR_MAX, LOGVAR_MIN, rsample_kl_backward_reference, rsample_kl_reference
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
)
from parity import DTYPES, LAYOUTS, channels_last

OP = torch.ops.fastgen.rsample_kl.default
BACKWARD = torch.ops.fastgen.rsample_kl_backward.default
SHAPES = ((0, 5), (3, 0), (7,), (128, 20), (3, 1), (5, 7, 3), (2, 4099), (3, 1021), (2, 16, 8, 8))


def latent(
    shape: tuple[int, ...], dtype: torch.dtype, device: str, scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    mu, logvar = (scale * torch.randn(shape, device=device, dtype=dtype) for _ in range(2))
    return mu, logvar, torch.tensor([-(2**40) - 77], device=device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_parity(shape: tuple[int, ...], layout, dtype: torch.dtype, device: str) -> None:
    if len(shape) == 1:
        layout = LAYOUTS[0]
    mu, logvar, seed = latent(shape, dtype, device)
    mu, logvar = layout(mu), layout(logvar)
    assert_op_parity(OP, rsample_kl_reference, mu, logvar, seed)
    grad_z = layout(torch.randn_like(mu))
    grad_kl = torch.randn(shape[0], dtype=OP(mu, logvar, seed)[1].dtype, device=device)
    assert_op_parity(BACKWARD, rsample_kl_backward_reference, grad_z, grad_kl, mu, logvar, seed)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients(dtype: torch.dtype, device: str) -> None:
    mu, logvar, seed = latent((5, 33), dtype, device)
    assert_gradients(
        [OP], lambda m, v: rsample_kl(m, v, seed), lambda m, v: rsample_kl_reference(m, v, seed), mu, logvar
    )


def test_gradcheck(device: str) -> None:
    mu, logvar, seed = latent((3, 5), torch.float64, device)
    assert_gradcheck([OP], lambda m, v: rsample_kl(m, v, seed), mu, logvar)


def test_opcheck(device: str) -> None:
    mu, logvar, seed = latent((2, 3, 4, 5), torch.float32, device)
    for layout in (Tensor.contiguous, channels_last):
        m, v = layout(mu), layout(logvar)
        assert_opcheck(OP, (m.requires_grad_(), v.requires_grad_(), seed))
        assert_opcheck(
            BACKWARD, (layout(torch.randn_like(mu)), torch.randn(2, device=device), m.detach(), v.detach(), seed)
        )


def test_compile(device: str) -> None:
    mu, logvar, seed = latent((4, 6), torch.float32, device)
    assert_compiles([OP], lambda m, v: rsample_kl(m, v, seed), mu, logvar)


def test_second_order_but_not_forward_mode() -> None:
    assert_second_order(lambda *given: rsample_kl(*given, 1), *torch.randn(2, 3, 4, dtype=torch.float64).unbind())
    assert_no_forward_mode(lambda m: rsample_kl(m, torch.zeros(3, 4), 1), torch.randn(3, 4))


def test_errors() -> None:
    x, one = torch.randn(2, 3), torch.tensor([1])
    assert_raises(
        [
            (
                lambda: rsample_kl(torch.tensor(1.0), torch.tensor(1.0), one),
                ValueError,
                r"mu: expected shape \(N, \*\)",
            ),
            (
                lambda: rsample_kl(x, x[:, :2], one),
                ValueError,
                r"logvar: expected the shape of mu, \(2, 3\), got \(2, 2\)",
            ),
            (
                lambda: rsample_kl(x, x.double(), one),
                TypeError,
                "logvar: expected the dtype of mu, torch.float32, got torch.float64",
            ),
            (
                lambda: rsample_kl(x.int(), x.int(), one),
                TypeError,
                "mu: expected float32, .* got torch.int32",
            ),
            (lambda: rsample_kl(x, x, 1.5), TypeError, "seed: expected an integer, got 1.5"),
            (lambda: rsample_kl(x, x, 2**64), ValueError, "seed: expected a 64-bit integer"),
            (lambda: rsample_kl(x, x, torch.tensor([1.0])), TypeError, "seed: expected int64, got torch.float32"),
            (
                lambda: rsample_kl(x, x, torch.tensor([1, 2])),
                ValueError,
                r"seed: expected one element, got shape \(2,\)",
            ),
        ]
    )


def test_philox_known_answers() -> None:
    """The test vectors of Random123 (kat_vectors, philox4x32 10)."""
    ones, pi = 0xFFFFFFFF, (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0)
    cases = {
        (0, 0, 0, 0, 0, 0): (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
        (ones,) * 6: (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        pi: (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    }
    for (*counter, k0, k1), expected in cases.items():
        seed = torch.tensor(k0 | k1 << 32 if k1 < 2**31 else (k0 | k1 << 32) - 2**64)
        words = philox4x32(tuple(torch.tensor(c) for c in counter), seed)  # type: ignore[arg-type]
        assert tuple(int(word) for word in words) == expected


def test_noise_is_standard_normal_and_keyed_by_seed_and_element(device: str) -> None:
    zeros = torch.zeros(1000, 1000, device=device)
    noise = rsample_kl(zeros, zeros, 5)[0]
    n = noise.numel()
    standard_error = 1 / math.sqrt(n)
    assert abs(noise.mean().item()) < 5 * standard_error
    assert abs(noise.var().item() - 1) < 5 * math.sqrt(2) * standard_error
    assert abs(noise.pow(4).mean().item() - 3) < 5 * math.sqrt(96) * standard_error
    assert abs((noise[:, 1:] * noise[:, :-1]).mean().item()) < 5 * standard_error
    assert torch.equal(rsample_kl(zeros[:3], zeros[:3], 5)[0], noise[:3])
    assert not torch.equal(rsample_kl(zeros, zeros, 6)[0], noise)
    assert (normals(torch.tensor(5), n, torch.float64).view(1000, 1000) - noise.cpu()).abs().max() < 1e-5


def test_backward_draws_the_same_noise_bit_for_bit(device: str) -> None:
    """At σ = 1 and μ = 0, z is ε and ∂z/∂log σ² is ½ε: the same bits."""
    zeros = torch.zeros(37, 41, device=device, requires_grad=True)
    z, _ = rsample_kl(zeros.detach(), zeros, 11)
    (grad,) = torch.autograd.grad(z.sum(), zeros)
    assert torch.equal(2 * grad, z.detach())


def test_same_bits_whatever_the_threads() -> None:
    mu, logvar, seed = latent((64, 3001), torch.float32, "cpu")
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(rsample_kl(mu, logvar, seed))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_clamp_and_its_gradient(device: str) -> None:
    logvar = torch.tensor([[-1e4, LOGVAR_MIN, 0.0, LOGVAR_MAX, 1e4]], device=device, requires_grad=True)
    z, kl = rsample_kl(torch.zeros_like(logvar), logvar, 3)
    assert z.isfinite().all()
    assert kl.isfinite().all()
    (grad,) = torch.autograd.grad(kl.sum(), logvar)
    expected = 0.5 * torch.expm1(torch.tensor([[LOGVAR_MIN, 0.0, LOGVAR_MAX]], dtype=torch.float64))
    assert grad[0, [0, 4]].tolist() == [0, 0]
    torch.testing.assert_close(grad[:, 1:4].cpu().double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("op", [OP, rsample_kl_reference])
@pytest.mark.parametrize(("beyond", "bound"), [(LOGVAR_MIN - 0.5, LOGVAR_MIN), (LOGVAR_MAX + 0.5, LOGVAR_MAX)])
def test_beyond_a_bound_is_the_bound(beyond: float, bound: float, op, device: str) -> None:
    mu, logvar, seed = latent((2, 3), torch.float32, device)
    results = [op(mu, torch.full_like(logvar, value), seed) for value in (beyond, bound)]
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.parametrize("op", [BACKWARD, rsample_kl_backward_reference])
def test_a_bound_has_its_gradient_and_what_is_beyond_has_none(op, device: str) -> None:
    logvar = torch.tensor([[LOGVAR_MIN, LOGVAR_MAX], [LOGVAR_MIN - 0.5, LOGVAR_MAX + 0.5]], device=device)
    ones = torch.ones_like(logvar)
    grad = op(ones, ones[:, 0], ones, logvar, torch.tensor([3], device=device))[1]
    assert (grad != 0).tolist() == [[True, True], [False, False]]


def test_upstream_gradients_of_a_sum_and_of_a_slice(device: str) -> None:
    mu, logvar, seed = latent((5, 3), torch.float32, device)
    for grad_kl in (torch.randn(1, device=device).expand(5), torch.randn(10, device=device)[::2]):
        grads = [BACKWARD(mu, grad, mu, logvar, seed) for grad in (grad_kl, grad_kl.contiguous())]
        assert all(torch.equal(one, two) for one, two in zip(*grads, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.1, 0.01])
def test_kl_is_right_near_collapse_in_half_precision(dtype: torch.dtype, scale: float, device: str) -> None:
    """The usual formula in bfloat16 is 1.4% and 64% off here."""
    mu, logvar, seed = latent((256, 128), dtype, device, scale)
    kl = rsample_kl(mu, logvar, seed)[1].double().sum()
    m, v = mu.double(), logvar.double()
    truth = 0.5 * (m * m + torch.expm1(v) - v).sum()
    assert abs(kl / truth - 1) < 1e-5


def test_kl_does_not_overflow_in_half_precision(device: str) -> None:
    ones = torch.ones(2, 200_000, dtype=torch.float16, device=device)
    kl = rsample_kl(ones, torch.zeros_like(ones), 1)[1]
    assert kl.dtype == torch.float32
    assert kl.tolist() == [100_000.0, 100_000.0]


def test_kl_agrees_with_monte_carlo() -> None:
    mu, logvar = torch.full((200_000, 1), 0.7), torch.full((200_000, 1), -0.4)
    z, kl = rsample_kl(mu, logvar, 9)
    q, p = torch.distributions.Normal(mu, torch.exp(0.5 * logvar)), torch.distributions.Normal(0.0, 1.0)
    estimate = q.log_prob(z) - p.log_prob(z)
    assert abs(estimate.mean() - kl[0]) < 5 * estimate.std() / math.sqrt(len(z))


def test_module_follows_manual_seed() -> None:
    mu, logvar, _ = latent((4, 5), torch.float32, "cpu")
    module = GaussianRSample()
    assert not module.state_dict()
    torch.manual_seed(1)
    with assert_runs(torch.ops.fastgen.rsample_kl_drawn.default, BACKWARD):
        one = module(mu.requires_grad_(), logvar)[0]
        one.sum().backward()
    two = module(mu, logvar)[0]
    torch.manual_seed(1)
    assert torch.equal(one, module(mu, logvar)[0])
    assert not torch.equal(one, two)
    draws = [module(mu, logvar, torch.Generator().manual_seed(5))[0] for _ in range(2)]
    assert torch.equal(*draws)


def test_autocast_takes_mixed_dtypes() -> None:
    mu, logvar = torch.randn(3, 4, dtype=torch.bfloat16), torch.randn(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        z, kl = rsample_kl(mu, logvar, 1)
    expected = rsample_kl(mu.float(), logvar, 1)
    assert torch.equal(z, expected[0])
    assert torch.equal(kl, expected[1])


def test_unsigned_and_signed_seed_are_one() -> None:
    x = torch.zeros(2, 3)
    assert torch.equal(rsample_kl(x, x, 2**64 - 5)[0], rsample_kl(x, x, -5)[0])
