"""How values of so many levels are kept."""

import numpy as np
import torch

LARGEST = 65_536
"""Levels that a pixel, or a code of a vocabulary, may have."""


def dtype_of(levels: int) -> torch.dtype:
    """uint8 for up to 256 levels, int32 for more."""
    return torch.uint8 if levels <= 256 else torch.int32


def numpy_dtype_of(levels: int) -> type[np.integer]:
    """``dtype_of`` as NumPy has it."""
    return np.uint8 if levels <= 256 else np.int32
