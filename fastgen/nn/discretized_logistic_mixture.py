"""DiscretizedLogisticMixture: the loss of PixelCNN++ as a module."""

from torch import Tensor, nn

from .._checks import check_integer
from ..ops.discretized_logistic_mixture import CHANNELS, discretized_logistic_mixture
from ._checks import check_size


class DiscretizedLogisticMixture(nn.Module):
    """Negative log-likelihood of images, in nats, under mixtures of discretised logistics (arXiv:1701.05517, eq. 2-3).

    ``loss(params, images).mean()`` is what PixelCNN++ minimises; divided by ln 2 · C · H · W, it is bits per dimension.
    No parameters: its state_dict is empty. See ``fastgen.ops.discretized_logistic_mixture`` for the order of the
    channels.

    Args:
        mixtures: K, the number of logistics of a pixel.
        levels: values are integers in [0, levels).

    Shapes: params (N, param_channels(C), H, W), values (N, C, H, W) → (N,). C is 1 or 3.
    """

    def __init__(self, mixtures: int = 10, levels: int = 256) -> None:
        super().__init__()
        self.mixtures, self.levels = check_size("mixtures", mixtures), check_size("levels", levels, 2)

    def param_channels(self, channels: int) -> int:
        """P, the number of parameter channels for images of ``channels`` colours."""
        if check_integer("channels", channels) not in CHANNELS:
            raise ValueError(f"channels: expected 1 or 3 colours, got {channels}")
        return CHANNELS[channels] * self.mixtures

    def forward(self, params: Tensor, values: Tensor) -> Tensor:
        log_likelihood = discretized_logistic_mixture(params, values, self.levels)
        if params.shape[1] != self.param_channels(values.shape[1]):
            raise ValueError(
                f"params: expected {self.param_channels(values.shape[1])} channels for {self.mixtures} mixtures of "
                f"{values.shape[1]} colours, got {params.shape[1]}"
            )
        return -log_likelihood.sum((1, 2))

    def extra_repr(self) -> str:
        return f"mixtures={self.mixtures}, levels={self.levels}"
