"""verify: what a sceptic would run. The compiled sampler beside the naive one, on the same random numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .._checks import check_instance, check_integer
from ..conditions import AnyCondition, Classes, Labels
from .naive_sampler import NaiveSampler
from .sampler import Sampler


@dataclass(frozen=True)
class Report:
    """What was compared.

    Attributes:
        images: how many were drawn by both samplers.
        values: how many values they have in all.
        differing: values that are not the same.
        logit_error: the largest difference between a parameter along the sampling path and one full forward's.
        largest_logit: the largest parameter, for scale.
        inputs: what both gave the model to read for a value: what it was trained on has to be the same.
        allowed: what of ``logit_error`` rounding explains: 512 roundings of the largest parameter in the model's dtype.
        precision: of the sampler.
        nats: by how much the sampler's parameters make an image of the model less likely, in the mean; None for a
            distribution that does not say how likely a value is.
    """

    images: int
    values: int
    differing: int
    logit_error: float
    largest_logit: float
    allowed: float
    inputs: str
    precision: str = "float32"
    nats: float | None = None

    @property
    def same(self) -> bool:
        """Whether every value is the same, and every parameter but for rounding: a wrong one need not show in draws."""
        return self.differing == 0 and self.logit_error <= self.allowed

    def __str__(self) -> str:
        verdict = "the same" if self.same else "NOT the same"
        if self.precision != "float32" and not self.same:
            verdict += f", as {self.precision} makes them"
            verdict += "" if self.nats is None else f", at {self.nats:.2g} nats an image"
        return (
            f"{self.images} images drawn twice: {self.differing} of {self.values} values differ; "
            f"parameters along the way are within {self.logit_error:.1e} of one full forward "
            f"(the largest is {self.largest_logit:.3g}; rounding explains {self.allowed:.1e}): "
            f"{verdict}; both give the model {self.inputs} to read"
        )


def verify(
    sampler: Sampler,
    n: int = 4,
    *,
    seed: int | None = 0,
    labels: Labels | None = None,
    condition: AnyCondition | None = None,
) -> Report:
    """Draw ``n`` images with ``sampler`` and with ``NaiveSampler``, from the same uniforms, and compare.

    Slow: naive sampling is one full forward for every value.

    Args:
        sampler: what to check.
        n: images.
        seed: of the uniforms; with None they come from torch's generator, once for both.
        labels: int64 (N,), for a model with classes; by default all of them in turn.
        condition: as ``Sampler.sample`` takes it, of ``n`` images or one for all.
    """
    check_instance("sampler", sampler, Sampler, "a sampler")
    n = check_integer("n", n, 1)
    kind = sampler.condition_kind
    if labels is None and condition is None and isinstance(kind, Classes) and kind.count is not None:
        labels = torch.arange(n) % kind.count
    naive = NaiveSampler(sampler.model, sampler.shape, sampler.distribution, sampler.to_input, condition=kind)
    told: dict[str, Any] = {"labels": labels, "condition": condition}
    uniforms = sampler._uniforms(n, seed, None)
    drawn = sampler.sample(uniforms=uniforms, **told)
    expected = naive.sample(uniforms=uniforms, **told)
    seen, exact = sampler.forced(expected, **told), naive.forward(expected, **told)
    largest = exact.abs().max().item()
    nats = None
    if hasattr(naive.distribution, "log_prob"):
        told_by = [naive.distribution.log_prob(params, expected).double().sum() for params in (exact, seen)]
        nats = ((told_by[0] - told_by[1]) / n).item()
    return Report(
        images=n,
        values=drawn.numel(),
        differing=int((drawn != expected).sum()),
        logit_error=(seen - exact).abs().max().item(),
        largest_logit=largest,
        inputs=str(sampler.to_input),
        precision=getattr(sampler, "precision", "float32"),
        nats=nats,
        allowed=512 * torch.finfo(exact.dtype).eps * max(1.0, largest),
    )
