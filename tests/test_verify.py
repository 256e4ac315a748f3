"""verify is what a sceptic runs: it notices what draws alone do not show."""

import torch
from torch import Tensor

from architectures import randomise
from fastgen import sampling
from fastgen.distributions import Bernoulli
from fastgen.sampling import CompiledSampler
from foreign import CroppingGatedPixelCNN


class Off(CompiledSampler):
    """A sampler whose parameters are a little off: too little to change a draw."""

    def _see(self, values: Tensor, labels: Tensor | None) -> Tensor:
        return super()._see(values, labels) + 1e-2


def gated() -> CroppingGatedPixelCNN:
    return randomise(CroppingGatedPixelCNN()).eval()


def test_a_right_sampler_is_the_same():
    report = sampling.verify(sampling.compile(gated(), (1, 5, 4), Bernoulli(), "[-1, 1]"), n=3)
    assert report.same
    assert report.logit_error <= report.allowed
    assert ": the same; both give the model [-1, 1]" in str(report)


def test_parameters_that_are_off_are_not_the_same():
    report = sampling.verify(Off(gated(), (1, 5, 4), Bernoulli(), "[-1, 1]"), n=3)
    assert report.differing == 0
    assert not report.same
    assert ": NOT the same; " in str(report)


def test_without_a_seed_both_draw_from_the_same_uniforms():
    torch.manual_seed(0)
    report = sampling.verify(sampling.compile(gated(), (1, 5, 4), Bernoulli(), "[-1, 1]"), n=8, seed=None)
    assert report.differing == 0
