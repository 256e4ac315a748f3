"""``F.one_hot`` of the image as comparisons, so that a trace does not read a number of the image."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Comparing(TorchFunctionMode):
    """Where ``F.one_hot`` is told the number of classes; torch's own looks first whether all numbers fit.

    Args:
        on_image: whether a tensor depends on the image; others are left to torch.
    """

    def __init__(self, on_image: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.on_image = on_image

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.one_hot:
            index, count = _arguments(*args, **kwargs)
            if count > 0 and index.dtype == torch.int64 and self.on_image(index):
                return (index.unsqueeze(-1) == torch.arange(count, device=index.device)).to(torch.int64)
        return func(*args, **kwargs)


def _arguments(input: Tensor, num_classes: int = -1) -> tuple[Tensor, int]:
    return input, num_classes
