"""Pixels and parameters that the tests of discretized_logistic_mixture share."""

import torch
from torch import Tensor

#: Colours → parameter channels of a component.
CHANNELS = {1: 3, 3: 10}


def pixels(
    shape: tuple[int, int, int, int, int],
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    levels: int = 256,
    log_scale: float = -1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """(N, C, K, H, W) → params (N, P, H, W), values (N, C, H, W), a gradient (N, H, W).

    Log-scales lie near ``log_scale``, every tenth value is the lowest and every tenth the highest.
    """
    N, C, K, H, W = shape
    params = torch.randn((N, CHANNELS[C] * K, H, W), device=device)
    for c in range(C):
        means = K + c * (CHANNELS[C] * K - K) // C
        params[:, means : means + K] *= 0.3
        params[:, means + K : means + 2 * K] *= 0.2
        params[:, means + K : means + 2 * K] += log_scale
    values = (torch.rand((N, C, H, W), device=device) * 1.25 - 0.125).clamp(0, 1).mul(levels - 1).round().long()
    grad = torch.randn((N, H, W), device=device, dtype=torch.promote_types(dtype, torch.float32))
    return params.to(dtype), values, grad
