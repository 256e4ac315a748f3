"""Functions of ours as ops, which torch's compiler calls in its graph and does not read.

Of what traced Python reads, each name is looked at again at every call of the program, function by function: of a small
VAE's step these were two thirds of 460 looks, 50 to 100 µs where a product has swept the caches. An op is one name.
Its function runs when the compiler differentiates the graph, on what stands for tensors there, so that the program is
the same. Eager code and exported programs call the function.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch.autograd import forward_ad

from .._constants import constant
from ._layouts import is_vectorized
from ._registry import _LIBRARIES, NAMESPACE, is_compiled

Function = TypeVar("Function", bound=Callable[..., object])


def composite(schema: str) -> Callable[[Function], Function]:
    """Define ``schema`` as what the function computes, which consists of ops that are differentiable themselves."""

    def define(function: Function) -> Function:
        name = schema[: schema.index("(")]
        torch.library.define(f"{NAMESPACE}::{name}", schema[len(name) :])
        _LIBRARIES[NAMESPACE].impl(name, function, "CompositeImplicitAutograd")
        return function

    return define


def is_program() -> bool:
    """Whether torch's compiler traces a program of its own, in which an op stands for what it consists of.

    Not of dual numbers, whose tangents it would drop from a program that was traced without them, without a word: the
    level of these is looked at, and only it.
    """
    return forward_ad._current_level < 0 and _is_traced()


@constant
def _is_traced() -> bool:
    return is_compiled() and not is_vectorized()
