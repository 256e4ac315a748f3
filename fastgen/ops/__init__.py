"""The ops: one module each, with docstring, reference, fake kernel, autograd and public function."""

from .._compile_cache import keep_apart
from .._extension import load_kernels
from . import (  # noqa: F401  but for sample: for models alone, for the codec, and for samplers
    activation,
    batch_norm_train,
    checksum,
    concat_elu,
    conv2d_image,
    gated_layer,
    image_conv2d,
    mlp,
    pixel_head,
    residual_block,
    residual_gate,
    row_lstm_layer,
    sample,
    shifted_conv2d,
    value_frequencies,
    winograd,
)
from .batch_norm_activation import batch_norm_activation
from .binary_cross_entropy import binary_cross_entropy
from .categorical_cross_entropy import categorical_cross_entropy
from .conv_transpose2d_bn import conv_transpose2d_bn
from .discretized_logistic_mixture import discretized_logistic_mixture
from .gated_activation import gated_activation
from .gated_residual_block import gated_residual_block
from .image_lstm import image_lstm
from .masked_conv2d import masked_conv2d, masked_conv2d_mask
from .rsample_kl import rsample_kl

__all__ = [
    "batch_norm_activation",
    "binary_cross_entropy",
    "categorical_cross_entropy",
    "conv_transpose2d_bn",
    "discretized_logistic_mixture",
    "gated_activation",
    "gated_residual_block",
    "image_lstm",
    "masked_conv2d",
    "masked_conv2d_mask",
    "rsample_kl",
    "sample",
]

load_kernels()
keep_apart()
