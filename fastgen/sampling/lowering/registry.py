"""Where every op's meaning is found by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from ..trace import UnsupportedModelError

Handler = Callable[..., Any]
HANDLERS: dict[str, Handler] = {}
#: Ops that answer with true and false, or pass them on, as 1 and 0.
BOOLEAN: set[str] = set()
#: Ops that answer with integers, or pass them on: as numbers of the image's dtype, which holds those of pixels exactly.
INTEGER: set[str] = set()
#: What integers may be of; narrower ones wrap around.
INTEGERS = (torch.int64, torch.int32)

#: Ops that see a whole image, or compare its pixels with each other, and what they are called.
REFUSED = {
    "aten._native_multi_head_attention": "attention",
    "aten._transformer_encoder_layer_fwd": "attention",
    "aten._scaled_dot_product_flash_attention_for_cpu": "attention",
    "aten._scaled_dot_product_flash_attention": "attention",
    "aten._scaled_dot_product_efficient_attention": "attention",
    "aten._scaled_dot_product_attention_math": "attention",
    "aten._adaptive_avg_pool2d": "global pooling",
    "aten.adaptive_max_pool2d": "global pooling",
}


def handles(*names: str, boolean: bool = False, integer: bool = False) -> Callable[[Handler], Handler]:
    """Register a handler for ops of these names; without a namespace they are ATen's.

    ``boolean``: whether the result may be one of true and false; ``integer``: of int64 or int32.
    """

    def register(handler: Handler) -> Handler:
        for name in names:
            name = name if "." in name else f"aten.{name}"
            HANDLERS[name] = handler
            if boolean:
                BOOLEAN.add(name)
            if integer:
                INTEGER.add(name)
        return handler

    return register


def completed(function: Any, handler: Handler, args: Any, kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    """An op's arguments as its schema has them: positional ones by position, and what was left out by its default.

    Dispatch drops what equals a default, and one handler has several schemas, so no handler may have defaults of its
    own to stand in for these.

    Raises:
        UnsupportedModelError: the handler does not take this overload.
    """
    schema = getattr(function, "_schema", None)
    if schema is None:
        return list(args), dict(kwargs)
    positional, named = [], {}
    for index, argument in enumerate(schema.arguments):
        if argument.is_out:
            continue
        value = args[index] if index < len(args) else kwargs.get(argument.name, argument.default_value)
        if argument.kwarg_only:
            named[argument.name] = value
        else:
            positional.append(value)
    try:
        inspect.signature(handler).bind(None, *positional, **named)
    except TypeError:
        raise UnsupportedModelError(f"the form {function} of this op") from None
    return positional, named
