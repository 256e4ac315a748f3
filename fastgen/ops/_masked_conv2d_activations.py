"""What a masked convolution's result goes through, and the gradient of that: differentiable as often as one likes."""

import torch
import torch.nn.functional as F
from torch import Tensor


def activate(pre: Tensor, activation: str) -> Tensor:
    if activation == "relu":
        return F.relu(pre)
    if activation == "elu":
        return F.elu(pre)
    if activation == "concat_elu":
        return F.elu(torch.cat((pre, -pre), dim=1))
    if activation == "gated":
        a, b = pre.chunk(2, dim=1)
        return torch.tanh(a) * torch.sigmoid(b)
    return pre


def activate_backward(grad_y: Tensor, pre: Tensor, activation: str) -> Tensor:
    """Exponentials of the other branch are kept finite: ``where`` multiplies what it does not choose by zero."""
    if activation == "relu":  # a NaN passes the gradient, as in torch
        return torch.where(pre <= 0, 0, grad_y)
    if activation == "elu":
        return torch.where(pre > 0, grad_y, grad_y * torch.exp(pre.clamp(max=0)))
    if activation == "concat_elu":
        plus, minus = grad_y.chunk(2, dim=1)
        above, below = torch.exp(-pre.clamp(min=0)), torch.exp(pre.clamp(max=0))
        return torch.where(pre > 0, plus - minus * above, plus * below - minus)
    if activation == "gated":
        return torch.ops.fastgen.gated_activation_backward.default(grad_y, pre)
    return grad_y
