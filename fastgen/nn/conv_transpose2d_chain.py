"""ConvTranspose2dChain: DCGAN's generator without normalised activations in memory."""

from torch import Tensor

from ..ops._layouts import is_channels_last
from ._chain import Chain
from .sequence import run_sequence


class ConvTranspose2dChain(Chain):
    """``nn.Sequential`` that runs its transposed convolutions fused, and normalises in the next layer's load.

    It takes any modules and computes what ``nn.Sequential(*layers)`` computes, with its state_dict. Fused are
    ``ConvTranspose2dBatchNorm``, and runs of ``nn.ConvTranspose2d``[, ``nn.BatchNorm2d`` or ``nn.SyncBatchNorm``]
    [, ``nn.ReLU``, ``nn.LeakyReLU`` or ``nn.Tanh``] without hooks. Other modules are called as they are, also such that
    write over what they are given. Inside, images are channels_last; the result is channels_last if the input is, else
    contiguous. Weights may have either layout; on a CPU the chain is fastest where they are channels_last, too:
    ``chain.to(memory_format=torch.channels_last)``, before an optimiser has a state of them.
    """

    def _run(self, x: Tensor) -> Tensor:
        y: Tensor = run_sequence(list(self), x, everything=True, channels_last=is_channels_last(x))
        return y
