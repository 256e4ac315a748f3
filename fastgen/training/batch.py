"""What is done to a batch, its images and what the model is told beside them alike: both or neither."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import conditions


def mirrored(values: Tensor, condition: Any, which: np.ndarray) -> tuple[Tensor, Any]:
    """Images left to right where ``which`` says so, and with them the maps of the condition: these show the same."""
    flip = torch.from_numpy(which).to(values.device)[:, None, None, None]
    return _each(lambda images: torch.where(flip, images.flip(-1), images), values, condition)


def channels_last(values: Tensor, condition: Any) -> tuple[Tensor, Any]:
    """Images and maps laid out in memory with channels last."""
    return _each(partial(Tensor.contiguous, memory_format=torch.channels_last), values, condition)


def parts(values: Tensor, condition: Any, n: int) -> Iterator[tuple[Tensor, Any]]:
    """``n`` parts that follow each other, and differ in size by one at most."""
    for part in torch.arange(len(values)).tensor_split(n):
        here = slice(int(part[0]), int(part[-1]) + 1)
        yield values[here], conditions.select(condition, here)


def _each(function: Callable[[Tensor], Tensor], values: Tensor, condition: Any) -> tuple[Tensor, Any]:
    """``function`` of the images and of every map; labels and vectors have no sides and no layout."""
    return function(values), conditions.apply(lambda part: function(part) if part.dim() == 4 else part, condition)
