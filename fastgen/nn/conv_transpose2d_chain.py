"""ConvTranspose2dChain: DCGAN's generator without normalised activations in memory."""

from collections import OrderedDict
from typing import Any

from torch import Tensor, fx, nn

from .._checks import check_instance, check_tensor
from ..ops._layouts import is_channels_last
from .sequence import run_sequence


class ConvTranspose2dChain(nn.Sequential):
    """``nn.Sequential`` that runs its transposed convolutions fused, and normalises in the next layer's load.

    It takes any modules and computes what ``nn.Sequential(*layers)`` computes, with its state_dict. Fused are
    ``ConvTranspose2dBatchNorm``, and runs of ``nn.ConvTranspose2d``[, ``nn.BatchNorm2d`` or ``nn.SyncBatchNorm``]
    [, ``nn.ReLU``, ``nn.LeakyReLU`` or ``nn.Tanh``] without hooks. Other modules are called as they are, also such that
    write over what they are given. Inside, images are channels_last; the result is channels_last if the input is, else
    contiguous. Weights may have either layout; on a CPU the chain is fastest where they are channels_last, too:
    ``chain.to(memory_format=torch.channels_last)``, before an optimiser has a state of them.
    """

    def __init__(self, *layers: Any) -> None:
        named = len(layers) == 1 and isinstance(layers[0], OrderedDict)
        for layer in layers[0].values() if named else layers:
            check_instance("layers", layer, nn.Module, "modules, or an OrderedDict of them")
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, fx.Proxy):  # whoever traces wants to see the modules
            return super().forward(x)
        channels_last = is_channels_last(check_tensor("x", x))
        return run_sequence(list(self), x, everything=True, channels_last=channels_last)
