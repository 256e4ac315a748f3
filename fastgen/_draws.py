"""Random numbers of a batch in training: of each image by its place in the whole batch.

Numbers of an image follow from (seed, step, who draws, how many draws came before, its place in the batch): the same in
whichever process or part of a step it is computed, however often the others move, and after a resumption.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from ._philox import uniforms_at


@dataclass(slots=True)
class _Batch:
    """Whose batch is under way, and which images of it are here."""

    key: str
    places: Tensor
    draws: int = 0


_BATCH: ContextVar[_Batch | None] = ContextVar("batch", default=None)


@contextmanager
def batch_of(seed: int, step: int, who: str, places: Tensor) -> Iterator[None]:
    """Inside, ``uniforms_of_batch`` is of images at ``places`` (N,) of the batch of ``step``, as ``who`` sees it."""
    token = _BATCH.set(_Batch(f"{seed} {step} {who}", places))
    try:
        yield
    finally:
        _BATCH.reset(token)


@torch._disable_dynamo  # torch.compiler.disable, but without its import: half of what a command takes to start
def uniforms_of_batch(n: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) for ``n`` images, (n, *shape), on the device of ``like``: float64 as it, else float32.

    Each call draws others. Outside of a batch in training, and for more or fewer images than are here, they come from
    torch's generator.
    """
    batch, dtype = _BATCH.get(), torch.float64 if like.dtype == torch.float64 else torch.float32
    if batch is None or len(batch.places) != n:
        return torch.rand(n, *shape, device=like.device, dtype=dtype)
    key = hashlib.blake2b(f"{batch.key} {batch.draws}".encode(), digest_size=8).digest()
    batch.draws += 1
    return uniforms_at(int.from_bytes(key, "little"), batch.places.to(like.device), shape).to(dtype)
