"""A model in layers of torch's own, with batch norms that go by running statistics folded into what is before them."""

from collections import OrderedDict
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from ..nn import ConvTranspose2dBatchNorm, ConvTranspose2dChain
from ..nn.sequence import observed
from ..ops._conv_transpose2d_bn_fold import conv_transpose2d_bn_fold_reference

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "none": nn.Identity}
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


def plain(model: nn.Module) -> list[nn.Module]:
    """Make the layers of ``model`` torch's own, in place, for eval mode, in the dtype that they have.

    A batch norm that follows a convolution, transposed or not, or a linear layer in an ``nn.Sequential`` or one of
    fastgen's becomes part of it, and an ``nn.Identity``; a parametrised weight (spectral norm) becomes what it is.

    Returns:
        The layers that took a batch norm in.

    Raises:
        ValueError: a batch norm has no running statistics: what it answers for an image depends on those beside it.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is None:
            raise ValueError(f"model: expected running statistics in every batch norm, got none in {name}")
        for weight in [*getattr(module, "parametrizations", ())]:
            parametrize.remove_parametrizations(module, weight, leave_parametrized=True)
    return _children(model)


def _children(module: nn.Module) -> list[nn.Module]:
    """Replace what is not torch's own inside of ``module``; the layers that took a batch norm in."""
    folded: list[nn.Module] = []
    if type(module).forward in (nn.Sequential.forward, ConvTranspose2dChain.forward):
        folded += _fold_pairs(module)
    for name, child in [*module._modules.items()]:  # one that has two names as often
        if child is None:
            continue
        new: nn.Module = child
        if type(child) is ConvTranspose2dBatchNorm and not any(map(observed, (child, *child))):
            slope = {"leaky_relu": nn.LeakyReLU(child.negative_slope)}
            after = slope.get(child.activation) or ACTIVATIONS[child.activation]()
            conv = _folded(*child)
            assert conv is not None  # the layer is made of two that fit
            new, inside = nn.Sequential(conv, after), [conv]
        else:
            inside = _children(child)
            if type(child) is ConvTranspose2dChain and not observed(child):
                new = nn.Sequential(OrderedDict(child._modules))
        setattr(module, name, new)
        folded += inside
    return folded


def _fold_pairs(sequence: nn.Module) -> list[nn.Module]:
    """Fold those batch norms of a sequence that follow what they can be folded into; the layers that took them in."""
    names, folded = [*sequence._modules], list[nn.Module]()
    for first, second in pairwise(names):
        layer, norm = sequence._modules[first], sequence._modules[second]
        if type(norm) in NORMS and not observed(norm) and layer is not None and not observed(layer):  # type: ignore[arg-type]
            new = _folded(layer, norm)
            if new is not None:
                sequence._modules[first], sequence._modules[second] = new, nn.Identity()
                folded.append(new)
    return folded


@torch.no_grad()
def _folded(layer: nn.Module, norm: Any) -> nn.Module | None:
    """``layer`` and ``norm`` in one layer; None where ``layer`` is of no kind that a batch norm is folded into."""
    kind: Any = type(layer)
    if kind is nn.ConvTranspose2d and norm.num_features == layer.out_channels:
        weight, bias = conv_transpose2d_bn_fold_reference(
            layer.weight, layer.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var,  # type: ignore[arg-type]
            layer.groups, norm.eps,  # type: ignore[arg-type]
        )  # fmt: skip
    elif kind is nn.Conv2d and norm.num_features == layer.out_channels:
        weight, bias = fuse_conv_bn_weights(
            layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias  # type: ignore[arg-type]
        )  # fmt: skip
    elif kind is nn.Linear and norm.num_features == layer.out_features:
        weight, bias = fuse_linear_bn_weights(
            layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias  # type: ignore[arg-type]
        )  # fmt: skip
    else:
        return None
    new = kind.__new__(kind)
    new.__dict__ = {**layer.__dict__, "_parameters": {}}
    new.weight, new.bias = (nn.Parameter(part.contiguous(), requires_grad=False) for part in (weight, bias))
    return new
