"""Conv2dChain: DCGAN's discriminator, and encoders like it, in fewer multiplications on a CPU."""

from collections import OrderedDict
from typing import Any

from torch import Tensor, fx, nn

from .._checks import check_instance, check_tensor
from .halving import run_halving
from .sequence import run_sequence


class Conv2dChain(nn.Sequential):
    """``nn.Sequential`` whose convolutions of kernel 4, stride 2 and padding 1 take 9/16 of their multiplications.

    It takes any modules and computes what ``nn.Sequential(*layers)`` computes, with its state_dict: in fewer
    multiplications in float32 on a CPU; elsewhere, and where sizes do not suit, it runs the modules as they are. Of an
    ``nn.Conv2d`` without hooks, of multiples of 16 channels, of the result no fewer than of the image, which has even
    sides, forward and gradients are Winograd's F(2×2, 2×2) on the four phases of the stride (Lavin and Gray,
    arXiv:1509.09308). Rounding errors are one to four times those of torch's, in units of the largest pixels around;
    what sees an infinite pixel is NaN. The weight may be made by a parametrization, as spectral norm does. Inside,
    images are channels_last; the result has the layout of the input.
    """

    def __init__(self, *layers: Any) -> None:
        named = len(layers) == 1 and isinstance(layers[0], OrderedDict)
        for layer in layers[0].values() if named else layers:
            check_instance("layers", layer, nn.Module, "modules, or an OrderedDict of them")
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, fx.Proxy):  # whoever traces wants to see the modules
            return super().forward(x)
        y: Tensor = run_sequence(list(self), check_tensor("x", x), other=run_halving)
        return y
