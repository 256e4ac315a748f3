"""A model in layers of torch's own."""

from collections import OrderedDict

from torch import nn

from ..nn import Conv2dChain, ConvTranspose2dBatchNorm, ConvTranspose2dChain, LinearChain
from ..nn.sequence import observed

CHAINS = (Conv2dChain, ConvTranspose2dChain, LinearChain)
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "none": nn.Identity}


def plain(module: nn.Module) -> None:
    """Make the layers inside of ``module`` torch's own, in place: fastgen's that generators and decoders have."""
    for name, child in [*module._modules.items()]:  # one that has two names as often
        if child is None:
            continue
        plain(child)
        if type(child) is ConvTranspose2dBatchNorm and not any(map(observed, (child, *child))):
            leaky = child.activation == "leaky_relu"
            after = nn.LeakyReLU(child.negative_slope) if leaky else ACTIVATIONS[child.activation]()
            setattr(module, name, nn.Sequential(*child, after))
        elif isinstance(child, CHAINS) and type(child) in CHAINS and not observed(child):
            setattr(module, name, nn.Sequential(OrderedDict(child._modules)))
