"""Which dtypes the ops take, and what autocast makes of mixed ones."""

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_floating(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in FLOATING:
        raise TypeError(f"{name}: expected float32, float64, float16 or bfloat16, got {tensor.dtype}")


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """The dtype that ``torch.autocast`` wants on the device of ``tensor``; None where it is off."""
    device = tensor.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)
