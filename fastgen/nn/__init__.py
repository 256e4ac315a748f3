"""Drop-in modules, state_dict-compatible with the torch module they replace."""

from .conv2d_chain import Conv2dChain
from .conv_transpose2d_bn import ConvTranspose2dBatchNorm
from .conv_transpose2d_chain import ConvTranspose2dChain
from .discretized_logistic_mixture import DiscretizedLogisticMixture
from .double_backward import check_double_backward
from .gated_activation import GatedActivation
from .gated_residual_block import GatedResidualBlock
from .linear_chain import LinearChain
from .masked_conv2d import MaskedConv2d
from .pixel_lstm import DiagonalLSTM, RowLSTM
from .rsample_kl import GaussianRSample
from .sync_batch_norm import SyncBatchNorm
from .weight_norm import data_dependent_init

__all__ = [
    "Conv2dChain",
    "ConvTranspose2dBatchNorm",
    "ConvTranspose2dChain",
    "DiagonalLSTM",
    "DiscretizedLogisticMixture",
    "GatedActivation",
    "GatedResidualBlock",
    "GaussianRSample",
    "LinearChain",
    "MaskedConv2d",
    "RowLSTM",
    "SyncBatchNorm",
    "check_double_backward",
    "data_dependent_init",
]
