"""ConvTranspose2dBatchNorm: a layer of DCGAN's generator, as one module and one op."""

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from .._checks import check_flag, check_instance, check_number
from ..ops._activations import check_activation
from ..ops._records import Activation
from ..ops._transposed import run_traced_layer
from ..ops.batch_norm import Deferred
from ._checks import check_placed, check_size, check_sizes
from ._records import activation_of, batch_norm_of, convolution_of


def run_conv_transpose2d_bn(
    conv: nn.ConvTranspose2d,
    bn: nn.BatchNorm2d | nn.SyncBatchNorm | None,
    activation: Activation,
    x: Tensor | Deferred,
    *,
    deferred: bool = False,
    channels_last: bool | None = None,
) -> Tensor | Deferred:
    """``activation(bn(conv(x)))`` with the parameters, buffers and modes of the given modules, whoever owns them.

    ``deferred`` and ``channels_last`` are those of ``run_layer``; the batch norm's mode decides, not the convolution's.
    """
    batch_norm = None if bn is None else batch_norm_of(bn)
    return run_traced_layer(x, convolution_of(conv), batch_norm, activation, deferred, channels_last)


class ConvTranspose2dBatchNorm(nn.Sequential):
    """``nn.Sequential(nn.ConvTranspose2d(...), nn.BatchNorm2d(...))`` and an activation, in one op.

    Parameters, initialisation and state_dict are those of the two modules, which it consists of. ``train()`` and
    ``eval()`` of the batch norm decide whether the batch or the running statistics normalise.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, output_padding, bias: of the convolution.
        activation: "none", "relu", "leaky_relu" or "tanh".
        negative_slope: of "leaky_relu", at least 0.
        eps, momentum, affine, track_running_stats: of the batch norm.

    Shapes: (N, in_channels, H, W) → (N, out_channels, H', W'), channels_last if the input is, else contiguous.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        output_padding: int | tuple[int, int] = 0,
        bias: bool = False,
        *,
        activation: Literal["none", "relu", "leaky_relu", "tanh"] = "none",
        negative_slope: float = 0.01,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_activation(Activation(activation, negative_slope))
        placed, out_channels = check_placed(device, dtype), check_size("out_channels", out_channels)
        conv = nn.ConvTranspose2d(
            check_size("in_channels", in_channels),
            out_channels,
            check_sizes("kernel_size", kernel_size),
            check_sizes("stride", stride),
            check_sizes("padding", padding, 0),
            check_sizes("output_padding", output_padding, 0),
            bias=check_flag("bias", bias),
            **placed,
        )
        bn = nn.BatchNorm2d(
            out_channels,
            check_number("eps", eps),
            momentum if momentum is None else check_number("momentum", momentum),
            check_flag("affine", affine),
            check_flag("track_running_stats", track_running_stats),
            **placed,
        )
        super().__init__(conv, bn)
        self.activation: str = activation
        self.negative_slope = check_number("negative_slope", negative_slope)

    @classmethod
    def from_modules(
        cls,
        conv: nn.ConvTranspose2d,
        bn: nn.BatchNorm2d | nn.SyncBatchNorm,
        activation: nn.Module | str | None = None,
        negative_slope: float = 0.01,
    ) -> "ConvTranspose2dBatchNorm":
        """The layer of these very modules, shared, not copied; ``nn.SyncBatchNorm`` takes statistics across processes.

        Args:
            conv: with as many output channels as ``bn`` has features.
            bn: decides by its own mode.
            activation: nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Identity, a name, or None for none.
            negative_slope: where ``activation`` is the name "leaky_relu".
        """
        check_instance("conv", conv, nn.ConvTranspose2d, "an nn.ConvTranspose2d")
        check_instance("bn", bn, (nn.BatchNorm2d, nn.SyncBatchNorm), "an nn.BatchNorm2d or nn.SyncBatchNorm")
        known = activation_of(activation, negative_slope)
        if known is None:
            raise TypeError(f"activation: expected ReLU, LeakyReLU, Tanh, Identity, a name or None, got {activation}")
        check_activation(known)
        if conv.out_channels != bn.num_features:
            raise ValueError(f"bn: expected the {conv.out_channels} channels of conv, got {bn.num_features}")
        layer = cls.__new__(cls)
        nn.Sequential.__init__(layer, conv, bn)
        layer.activation, layer.negative_slope = known
        return layer

    def forward(self, x: Tensor | Deferred, deferred: bool = False, channels_last: bool | None = None) -> Any:
        """The activation; with ``deferred``, in training, what the next layer computes it from while it loads."""
        check_instance("x", x, (Tensor, Deferred), "a tensor or what a deferred layer answered")
        deferred = check_flag("deferred", deferred)
        if channels_last is not None:
            channels_last = check_flag("channels_last", channels_last)
        conv, bn = cast("tuple[nn.ConvTranspose2d, nn.BatchNorm2d]", tuple(self))
        kind = Activation(self.activation, self.negative_slope)
        return run_conv_transpose2d_bn(conv, bn, kind, x, deferred=deferred, channels_last=channels_last)

    def extra_repr(self) -> str:
        return f"activation={self.activation!r}" * (self.activation != "none")
