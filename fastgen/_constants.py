"""What torch's compiler takes for constants of our Python."""

from collections.abc import Callable
from typing import TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., object])


def constant(function: Function) -> Function:
    """``function``, whose answer is the same whenever it is asked the same: of types, or of a whole trace.

    A compiler asks it once while it traces, and guards no more than what it was asked of: not what it reads. As
    ``torch.compiler.assume_constant_result`` says it, which would load the compiler. Each name that traced code reads
    is looked at again at every call, and after a training step none of them is in the caches.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant
def is_exporting() -> bool:
    """Whether ``torch.export`` traces. Asked in the code itself, torch 2.11's compiler says so of its own programs."""
    return torch.compiler.is_exporting()
