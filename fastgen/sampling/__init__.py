"""Sampling: exact images from autoregressive models, fast (:func:`compile`) and slow (:class:`NaiveSampler`)."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .compiled import CompiledSampler
from .explain import explain
from .naive import NaiveSampler
from .sampler import Sampler
from .trace import UnsupportedModelError
from .verify import Report, verify

__all__ = [
    "CompiledSampler",
    "NaiveSampler",
    "Report",
    "Sampler",
    "UnsupportedModelError",
    "compile",
    "explain",
    "verify",
]


def compile(
    model: nn.Module,
    shape: tuple[int, int, int],
    distribution: Any = None,
    to_input: Callable[[Tensor], Tensor] | None = None,
    **options: Any,
) -> CompiledSampler:
    """The fast sampler of ``model`` for images of one shape: same uniforms, same images as :class:`NaiveSampler`'s.

    Takes any causal model in plain torch. It is traced, analysed and planned, so that every feature is computed once.

    Args:
        model: maps inputs (N, C, H, W), and labels (N,) if it has classes, to parameters (N, P, H, W).
        shape: (C, H, W) of one image.
        distribution: of a pixel value, see :mod:`fastgen.distributions`; by default ``model.distribution``.
        to_input: values → inputs, elementwise; by default ``distribution.to_input``.
        options: of :class:`CompiledSampler`.

    Raises:
        UnsupportedModelError: the model is not causal, or does something that cannot be planned; says where.
        ValueError: ``shape`` does not fit ``model``.
        TypeError: no distribution is known.
    """
    return CompiledSampler(model, shape, distribution, to_input, **options)
