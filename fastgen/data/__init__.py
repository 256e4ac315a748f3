"""Data sets by name or path, read from the standard files without torchvision."""

from .dataset import Dataset
from .load import NAMES, load, load_for_training

__all__ = ["NAMES", "Dataset", "load", "load_for_training"]
