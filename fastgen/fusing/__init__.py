"""Swapping fastgen's ops into a model that knows nothing of them: ``fastgen.fuse(model)``."""

from .api import fuse, unfuse
from .report import FuseReport, Left, Swapped

__all__ = ["FuseReport", "Left", "Swapped", "fuse", "unfuse"]
