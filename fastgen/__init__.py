"""fastgen: classic generative models of images at the speed of the hardware."""

from . import _interrupt

_interrupt.prepare()

from . import nn, ops
from ._extension import load_kernels
from ._version import __version__
from .fusing import fuse, unfuse

__all__ = ["__version__", "fuse", "nn", "ops", "unfuse"]

load_kernels()
