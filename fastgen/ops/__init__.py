"""The ops: one module each, with docstring, reference, fake kernel, autograd and public function."""

from . import sample
from .conv_transpose2d_bn import conv_transpose2d_bn
from .gated_activation import gated_activation
from .masked_conv2d import masked_conv2d, masked_conv2d_mask
from .rsample_kl import rsample_kl

__all__ = ["conv_transpose2d_bn", "gated_activation", "masked_conv2d", "masked_conv2d_mask", "rsample_kl", "sample"]
