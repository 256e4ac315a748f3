"""Sampling: exact images from autoregressive models, fast (:func:`compile`) and slow (:class:`NaiveSampler`)."""

from torch import nn

from .cached import CachedSampler, Plan
from .naive import NaiveSampler
from .sampler import Sampler

__all__ = ["CachedSampler", "NaiveSampler", "Plan", "Sampler", "compile"]


def compile(model: nn.Module, shape: tuple[int, int, int]) -> Sampler:
    """The fast sampler of ``model`` for images of one shape: same uniforms, same images as :class:`NaiveSampler`'s.

    Args:
        model: a fastgen model, or one that describes its incremental evaluation as they do
            (:mod:`fastgen.sampling.cached`).
        shape: (C, H, W) of one image.

    Raises:
        TypeError: ``model`` does not describe it.
        ValueError: ``shape`` does not fit ``model``.
    """
    if not hasattr(model, "incremental"):
        raise TypeError(
            "model: expected one with a method `incremental`, as fastgen's models have, got "
            f"{type(model).__name__}; fastgen.sampling.NaiveSampler(model, shape, distribution) samples from any model"
        )
    return CachedSampler(model, shape)
