"""Philox4x32-10, the counter-based generator behind every random number fastgen makes itself.

    (r0, r1, r2, r3) = philox(counter, key)        Salmon et al., SC 2011, "Parallel random numbers: as
                                                   easy as 1, 2, 3", section 3.3

A number depends on its key and its counter alone: not on the batch, the device or the number of threads. This is the
reference in plain torch (int64 arithmetic on 32-bit words); ``csrc/philox.h`` is its twin for CPU and CUDA.
"""

import math

import numpy as np
import torch
from torch import Tensor

from ._checks import describe

_LOW = 0xFFFFFFFF


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox4x32.

    Args:
        counter: four int64 tensors of 32-bit words, broadcastable against each other.
        seed: int64 tensor; the key is its low and high word.

    Returns:
        Four int64 tensors of words in [0, 2³²).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _LOW, (seed >> 32) & _LOW
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2  # wraps modulo 2⁶⁴, which keeps both words
        c0, c1, c2, c3 = (b >> 32) & _LOW ^ c1 ^ k0, b & _LOW, (a >> 32) & _LOW ^ c3 ^ k1, a & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return c0, c1, c2, c3


def _words(seed: Tensor, first: int, count: int, stream: Tensor | int = 0) -> Tensor:
    """Words ``first`` to ``first + count`` of each stream, four to a counter: streams (..., 1) → int64 (..., count)."""
    start = first // 4
    block = torch.arange(start, (first + count + 3) // 4, dtype=torch.int64, device=seed.device)
    stream = torch.as_tensor(stream, dtype=torch.int64, device=seed.device)
    blocks = philox4x32((block & _LOW, block >> 32, stream & _LOW, stream >> 32), seed)
    words = torch.stack(torch.broadcast_tensors(*blocks), dim=-1).flatten(-2)
    return words[..., first - 4 * start : first - 4 * start + count]


def normals(seed: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Standard normals by Box and Muller; element e comes from words (e // 4, keyed by ``seed``).

    Args:
        seed: int64 tensor of one element.
        count: how many.
        dtype: float32 or float64: the precision of logarithm, sine and cosine, on the same 32-bit words.

    Returns:
        (count,) of ``dtype``, on the device of ``seed``.
    """
    words = _words(seed.reshape(()), 0, 4 * math.ceil(count / 4)).view(-1, 2)
    radius = torch.sqrt(-2 * torch.log(((words[:, 0] >> 1).to(dtype) + 0.5) * 2.0**-31))
    signed = words[:, 1] - ((words[:, 1] & 0x80000000) << 1)
    angle = (signed.to(dtype) * 2.0**-31) * math.pi
    return torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=1).flatten()[:count]


def seed_or_any(seed: int | None) -> int:
    """``seed``, or one from torch's generator where there is none."""
    return int(torch.randint(2**63 - 1, (), dtype=torch.int64)) if seed is None else seed


def seed_tensor(seed: int, device: torch.device | str | None) -> Tensor:
    """A 64-bit integer, signed or unsigned, as an int64 tensor of one element.

    Raises:
        TypeError: ``seed`` is not an integer.
        ValueError: it has more than 64 bits.
    """
    if isinstance(seed, (bool, np.bool_)) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed: expected an integer, got {describe(seed)}")
    seed = int(seed)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed: expected a 64-bit integer, got {seed}")
    return torch.tensor(seed if seed < 2**63 else seed - 2**64, dtype=torch.int64, device=device)


def uniforms(
    seed: int | Tensor, n: int, shape: tuple[int, ...], *, first: int = 0, device: torch.device | str | None = None
) -> Tensor:
    """Uniform numbers for ``n`` images; image i depends on ``(seed, first + i)`` alone.

    Args:
        seed: any 64-bit integer, or an int64 tensor of one element.
        n: how many images.
        shape: of one image.
        first: index of the first image.
        device: where to put them; the numbers do not depend on it.

    Returns:
        float32 (n, *shape) in [0, 1), multiples of 2⁻²⁴.
    """
    seed = seed.reshape(()) if isinstance(seed, Tensor) else seed_tensor(seed, device)
    return uniforms_at(seed, torch.arange(first, first + n, dtype=torch.int64, device=seed.device), shape)


def uniforms_like(like: Tensor, seed: int | Tensor, n: int, shape: tuple[int, ...], first: int = 0) -> Tensor:
    """``uniforms`` on the device of ``like``: float64 as it, else float32, since 16 bits round some of them to 1."""
    u = uniforms(seed, n, shape, first=first, device=like.device)
    return u.double() if like.dtype == torch.float64 else u


def uniforms_at(seed: int | Tensor, images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``uniforms`` for the images of given indices.

    Args:
        seed: any 64-bit integer, or an int64 tensor of one element.
        images: int64 (N,), their indices.
        shape: of one image.

    Returns:
        float32 (N, *shape) in [0, 1), multiples of 2⁻²⁴.
    """
    seed = seed.reshape(()) if isinstance(seed, Tensor) else seed_tensor(seed, images.device)
    words = _words(seed, 0, math.prod(shape), stream=images[:, None] + 1)  # stream 0 is the latents' noise
    return ((words >> 8).to(torch.float32) * 2.0**-24).view(len(images), *shape)
