"""Distributions of pixels: how a model's parameters become likelihoods and draws.

A model ends in ``P = distribution.param_channels(C)`` channels for images of C colours. Colour k reads the k-th of C
equal, contiguous parts of them and nothing else, so a sampler may hand ``draw`` one colour at a time; unless the
distribution ``couples_colors``. Then every colour reads all P, and the values of the colours before it in its pixel:
a sampler asks ``draw_color``. Drawing a value takes ``uniforms_per_value`` uniform numbers; those of colour k are the
k-th of C equal, contiguous parts.

Values are integers in [0, levels). Likelihoods are in nats.
"""

from .discrete import Bernoulli, Categorical
from .distribution import Distribution, check_temperature
from .logistic_mixture import DiscretizedLogisticMixture

__all__ = ["Bernoulli", "Categorical", "DiscretizedLogisticMixture", "Distribution", "check_temperature"]
