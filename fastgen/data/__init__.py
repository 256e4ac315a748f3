"""Data sets by name or path, read from the standard files without torchvision."""

from .dataset import Dataset
from .given import Downsampled, Given, Grey, Subsampled, given_by
from .load import NAMES, load, load_for_training

__all__ = [
    "NAMES",
    "Dataset",
    "Downsampled",
    "Given",
    "Grey",
    "Subsampled",
    "given_by",
    "load",
    "load_for_training",
]
