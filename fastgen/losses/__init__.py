"""Losses of games between networks: pure functions of scores, one number for each example, each with its equation.

A score is what a discriminator says of an image: a logit, the log-odds that it is of the data; or, of a critic, any
real number. The first player is the discriminator, which makes its loss small; the second is the generator.
"""

from .adversarial import (
    EQUILIBRIUM,
    LOSSES,
    AdversarialLoss,
    equilibrium,
    hinge_discriminator,
    hinge_generator,
    least_squares_discriminator,
    least_squares_generator,
    log_loss_discriminator,
    minimax_generator,
    non_saturating_generator,
    smallest_loss,
    wasserstein_critic,
    wasserstein_generator,
)
from .began import (
    began_balance,
    began_convergence,
    began_discriminator,
    began_generator,
    reconstruction_error,
)
from .information import categorical_information, gaussian_information
from .penalties import clip_weights, gradient_penalty, r1_penalty

__all__ = [
    "EQUILIBRIUM",
    "LOSSES",
    "AdversarialLoss",
    "began_balance",
    "began_convergence",
    "began_discriminator",
    "began_generator",
    "categorical_information",
    "clip_weights",
    "equilibrium",
    "gaussian_information",
    "gradient_penalty",
    "hinge_discriminator",
    "hinge_generator",
    "least_squares_discriminator",
    "least_squares_generator",
    "log_loss_discriminator",
    "minimax_generator",
    "non_saturating_generator",
    "r1_penalty",
    "reconstruction_error",
    "smallest_loss",
    "wasserstein_critic",
    "wasserstein_generator",
]
