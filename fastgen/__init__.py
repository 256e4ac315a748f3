"""fastgen: classic generative models of images at the speed of the hardware."""

from . import nn, ops
from ._extension import load_kernels
from ._version import __version__

__all__ = ["__version__", "nn", "ops"]

load_kernels()
