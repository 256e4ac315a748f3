"""Sampling: exact images from autoregressive models, fast (``compile``) and slow (``NaiveSampler``)."""

from typing import Any

from torch import nn

from ..conditions import AnyCondition, Kinds
from .compiled_sampler import CompiledSampler
from .explain import explain
from .inputs import ToInput
from .naive_sampler import NaiveSampler
from .sampler import Sampler
from .trace import UnsupportedModelError
from .verify import Report, verify
from .walker import Step, Walker

__all__ = [
    "CompiledSampler",
    "NaiveSampler",
    "Report",
    "Sampler",
    "Step",
    "UnsupportedModelError",
    "Walker",
    "compile",
    "explain",
    "verify",
]


def compile(
    model: nn.Module,
    shape: tuple[int, int, int],
    distribution: Any = None,
    to_input: ToInput | None = None,
    *,
    condition: AnyCondition | Kinds | None = None,
    **options: Any,
) -> CompiledSampler:
    """The fast sampler of ``model`` for images of one shape: same uniforms, same images as ``NaiveSampler``'s.

    Takes any causal model in plain torch. It is traced, analysed and planned, so that every feature is computed once.

    Args:
        model: maps inputs (N, C·k, H, W), and a condition of N examples if it takes one, to parameters (N, P, H, W).
        shape: (C, H, W) of one image.
        distribution: of a pixel value, see ``fastgen.distributions``; by default ``model.distribution``.
        to_input: what the model reads for a value, as it was trained: "[-1, 1]", "[0, 1]", "[0, 255]", "integers",
            "one-hot", a pair (mean, std), or an elementwise function. Required, but for a model that says it itself,
            as fastgen's do by ``model.distribution``.
        condition: one example of what ``forward`` takes as its second argument, if that is not labels: floating point
            (D,) for a vector, (C', H', W') for an image or a feature map, or a dict of these, and of integers for
            labels, by name. Only shape and dtype count. Not needed where a model says it itself by ``condition_kind``.
        options: of ``CompiledSampler``.

    Raises:
        UnsupportedModelError: the model is not causal, or does something that cannot be planned; says where.
        ValueError: ``shape`` does not fit ``model``, an embedding has no row for a level, or a weight is beyond what
            ``precision`` has.
        TypeError: no distribution is known, or nobody says what the model reads.
    """
    return CompiledSampler(model, shape, distribution, to_input, condition=condition, **options)
