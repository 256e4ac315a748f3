"""Exploring a model with a latent space: what its codes mean, as tensors and as pictures.

A model takes part by what it has: ``latent`` and ``decode`` (codes → images); ``encode`` (images → codes), if it can;
``posterior``, if its codes have a distribution; ``sample``, if they have a prior, which is N(0, I); ``draw_codes``, if
it can say of which code a drawn image is: then pictures begin with drawn images where there is no encoder.
"""

from ..metrics import nearest
from .codes import draw_code_traversals, draw_walk
from .compare import draw_nearest, draw_reconstructions, draw_samples, reconstruction_error
from .draw import draw_arithmetic, draw_interpolations, draw_manifold, draw_traversals
from .latent import (
    arithmetic,
    codes_of,
    combine,
    importance,
    lerp,
    manifold_codes,
    slerp,
    traversal_codes,
)
from .prior import draw_code_arithmetic, draw_code_interpolations, draw_grid, draw_prior_traversals
from .scatter import draw_scatter

__all__ = [
    "arithmetic",
    "codes_of",
    "combine",
    "draw_arithmetic",
    "draw_code_arithmetic",
    "draw_code_interpolations",
    "draw_code_traversals",
    "draw_grid",
    "draw_interpolations",
    "draw_manifold",
    "draw_nearest",
    "draw_prior_traversals",
    "draw_reconstructions",
    "draw_samples",
    "draw_scatter",
    "draw_traversals",
    "draw_walk",
    "importance",
    "lerp",
    "manifold_codes",
    "nearest",
    "reconstruction_error",
    "slerp",
    "traversal_codes",
]
