"""Gaussian reparameterisation and its KL divergence in one pass (arXiv:1312.6114, section 2.4 and appendix B)."""

from typing import Any

import torch
from torch import Tensor

from .. import _philox
from .._checks import check_device, check_same
from ._dtypes import autocast_dtype, check_dense, check_floating
from ._registry import call, define_op

KERNELS = {"CPU": "csrc/rsample_kl_cpu.cpp", "CUDA": "csrc/rsample_kl_cuda.cu"}
_CPU = {"CPU": KERNELS["CPU"]}

#: The range that ``logvar`` is clamped to: exp(20) and exp(-30) leave float32 room to square and sum.
LOGVAR_MIN, LOGVAR_MAX = -30.0, 20.0


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def rsample_kl_reference(mu: Tensor, logvar: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
    dtype = _accumulation_dtype(mu.dtype)
    noise = _philox.normals(seed, mu.numel(), dtype).view(mu.shape)
    mean, logvar = mu.to(dtype), logvar.to(dtype).clamp(LOGVAR_MIN, LOGVAR_MAX)
    z = mean + torch.exp(0.5 * logvar) * noise
    kl = 0.5 * (mean * mean + torch.expm1(logvar) - logvar)
    return z.to(mu.dtype), kl.reshape(mu.shape[0], -1).sum(1) if mu.numel() else kl.new_zeros(mu.shape[0])


def rsample_kl_backward_reference(
    grad_z: Tensor, grad_kl: Tensor, mu: Tensor, logvar: Tensor, seed: Tensor
) -> tuple[Tensor, Tensor]:
    dtype = _accumulation_dtype(mu.dtype)
    noise = _philox.normals(seed, mu.numel(), dtype).view(mu.shape)
    clamped = logvar.to(dtype).clamp(LOGVAR_MIN, LOGVAR_MAX)
    inside = (logvar >= LOGVAR_MIN) & (logvar <= LOGVAR_MAX)
    grad_z, grad_kl = grad_z.to(dtype), grad_kl.to(dtype).view(-1, *[1] * (mu.dim() - 1))
    grad_mu = grad_z + grad_kl * mu.to(dtype)
    grad_logvar = 0.5 * (grad_z * noise * torch.exp(0.5 * clamped) + grad_kl * torch.expm1(clamped))
    return grad_mu.to(mu.dtype), torch.where(inside, grad_logvar, 0).to(mu.dtype)


def drawn_seed(device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    return torch.randint(-(2**63), 2**63 - 1, (1,), dtype=torch.int64, device=device, generator=generator)


def rsample_kl_drawn_reference(mu: Tensor, logvar: Tensor, draw: int) -> tuple[Tensor, Tensor, Tensor]:
    seed = drawn_seed(mu.device)
    return *rsample_kl_reference(mu, logvar, seed), seed


def rsample_kl_halves_reference(h: Tensor, draw: int) -> tuple[Tensor, Tensor, Tensor]:
    mu, logvar = h.chunk(2, dim=1)
    return rsample_kl_drawn_reference(mu, logvar, draw)


def rsample_kl_halves_backward_reference(grad_z: Tensor, grad_kl: Tensor, h: Tensor, seed: Tensor) -> Tensor:
    mu, logvar = h.chunk(2, dim=1)
    return torch.cat(rsample_kl_backward_reference(grad_z, grad_kl, mu, logvar, seed), dim=1)


def _fake(mu: Tensor, logvar: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
    return mu.new_empty(mu.shape), mu.new_empty(mu.shape[:1], dtype=_accumulation_dtype(mu.dtype))


def _fake_backward(grad_z: Tensor, grad_kl: Tensor, mu: Tensor, logvar: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
    return mu.new_empty(mu.shape), mu.new_empty(mu.shape)


def _fake_drawn(mu: Tensor, logvar: Tensor, draw: int) -> tuple[Tensor, Tensor, Tensor]:
    seed = mu.new_empty((1,), dtype=torch.int64)
    return *_fake(mu, logvar, seed), seed


def _fake_halves(h: Tensor, draw: int) -> tuple[Tensor, Tensor, Tensor]:
    mu, logvar = h.chunk(2, dim=1)
    return _fake_drawn(mu, logvar, draw)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_z: Tensor, grad_kl: Tensor) -> tuple[Tensor, Tensor, None]:
    grads = call(torch.ops.fastgen.rsample_kl_backward.default, grad_z, grad_kl, *ctx.saved_tensors)
    return *grads, None


def _setup_drawn(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:-1], output[2])
    ctx.mark_non_differentiable(output[2])


def _backward_drawn(ctx: Any, grad_z: Tensor, grad_kl: Tensor, _: Any) -> tuple[Tensor, Tensor, None]:
    return _backward(ctx, grad_z, grad_kl)


def _backward_halves(ctx: Any, grad_z: Tensor, grad_kl: Tensor, _: Any) -> tuple[Tensor, None]:
    return call(torch.ops.fastgen.rsample_kl_halves_backward.default, grad_z, grad_kl, *ctx.saved_tensors), None


define_op(
    "rsample_kl(Tensor mu, Tensor logvar, Tensor seed) -> (Tensor z, Tensor kl)",
    kernels=KERNELS,
    reference=rsample_kl_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)
define_op(
    "rsample_kl_backward(Tensor grad_z, Tensor grad_kl, Tensor mu, Tensor logvar, Tensor seed) -> (Tensor, Tensor)",
    kernels=KERNELS,
    reference=rsample_kl_backward_reference,
    fake=_fake_backward,
    backward=None,
    composite=True,
)
# Those that draw their seed themselves. From Python it takes 70 µs between two products, which have left nothing of the
# way to torch's generator in the caches; and the halves of one tensor are read, and their gradients written, where they
# are. On other devices the seed is a kernel of its own. ``draw`` is not looked at: it tells one call of a program from
# the next, since torch's compiler would take two of the same tensor for one (its list of what draws is of torch's ops).
define_op(
    "rsample_kl_drawn(Tensor mu, Tensor logvar, int draw) -> (Tensor z, Tensor kl, Tensor seed)",
    kernels=_CPU,
    reference=rsample_kl_drawn_reference,
    fake=_fake_drawn,
    setup_context=_setup_drawn,
    backward=_backward_drawn,
    draws=True,
)
define_op(
    "rsample_kl_halves(Tensor h, int draw) -> (Tensor z, Tensor kl, Tensor seed)",
    kernels=_CPU,
    reference=rsample_kl_halves_reference,
    fake=_fake_halves,
    setup_context=_setup_drawn,
    backward=_backward_halves,
    draws=True,
)
define_op(
    "rsample_kl_halves_backward(Tensor grad_z, Tensor grad_kl, Tensor h, Tensor seed) -> Tensor",
    kernels=_CPU,
    reference=rsample_kl_halves_backward_reference,
    fake=lambda grad_z, grad_kl, h, seed: h.new_empty(h.shape),
    backward=None,
    composite=True,
)


def checked(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    check_floating("mu", mu)
    check_floating("logvar", logvar)
    if mu.dim() == 0:
        raise ValueError("mu: expected shape (N, *), got a scalar")
    if mu.shape != logvar.shape:
        raise ValueError(f"logvar: expected the shape of mu, {tuple(mu.shape)}, got {tuple(logvar.shape)}")
    if mu.dtype != logvar.dtype and (autocast_dtype(mu) or autocast_dtype(logvar)) is not None:
        wider = torch.promote_types(mu.dtype, logvar.dtype)
        mu, logvar = mu.to(wider), logvar.to(wider)
    check_same("logvar", logvar, "mu", mu)
    return mu, logvar


def rsample_kl(mu: Tensor, logvar: Tensor, seed: Tensor | int) -> tuple[Tensor, Tensor]:
    """Sample z ~ N(μ, σ²) with gradients to μ and log σ², and give KL(N(μ, σ²) ‖ N(0, I)) of each example.

    z = μ + exp(½ log σ²) · ε,  KL = ½ Σ (μ² + expm1(log σ²) − log σ²)

    The noise ε is Philox4x32-10 keyed by (seed, element), drawn again in the backward pass and never stored; every
    backend draws the same. The KL is summed in a fixed order, so the same run gives the same bits.

    Equivalent to, but for the generator::

        logvar = logvar.clamp(-30, 20)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        kl = 0.5 * (mu**2 + torch.expm1(logvar) - logvar).flatten(1).sum(1)

    Args:
        mu: mean, (N, \\*), float32, float64, float16 or bfloat16; any strides. Half types are computed in float32.
        logvar: log σ², shape and dtype of ``mu``. Clamped to [-30, 20]; outside, its gradient is exactly zero.
        seed: int64 tensor of one element on the device of ``mu``, or an int. The same seed draws the same noise.

    Returns:
        ``(z, kl)``. z: shape and dtype of ``mu``, contiguous. kl: (N,), nats per example, float32 (float64 for
        float64), whatever the half type: a sum over many dimensions overflows float16.

    Raises:
        ValueError: shapes or devices differ, ``mu`` is a scalar, or ``seed`` has more than one element.
        TypeError: dtypes differ (under autocast the wider one is taken) or are others, or ``seed`` is not int64.

    Gradients: first and second order, for the same noise.

    Source: Kingma and Welling 2014, arXiv:1312.6114, section 2.4 (the reparameterisation) and appendix B (the KL).
    """
    mu, logvar = checked(mu, logvar)
    if not isinstance(seed, Tensor):
        seed = _philox.seed_tensor(seed, mu.device)
    if check_dense("seed", seed).dtype != torch.int64:
        raise TypeError(f"seed: expected int64, got {seed.dtype}")
    if seed.numel() != 1:
        raise ValueError(f"seed: expected one element, got shape {tuple(seed.shape)}")
    check_device("seed", seed, "mu", mu)
    return call(torch.ops.fastgen.rsample_kl.default, mu, logvar, seed)
