"""Where every op's meaning is found by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Handler = Callable[..., Any]
HANDLERS: dict[str, Handler] = {}

#: Ops that see a whole image, or compare its pixels with each other, and what they are called.
REFUSED = {
    "aten.softmax": "attention, or a softmax inside the model",
    "aten._softmax": "attention, or a softmax inside the model",
    "aten._scaled_dot_product_flash_attention_for_cpu": "attention",
    "aten._scaled_dot_product_flash_attention": "attention",
    "aten._scaled_dot_product_efficient_attention": "attention",
    "aten._scaled_dot_product_attention_math": "attention",
    "aten._adaptive_avg_pool2d": "global pooling",
    "aten.adaptive_max_pool2d": "global pooling",
    "aten.native_group_norm": "group norm mixes all pixels of an image",
}


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for ops of these names; without a namespace they are ATen's."""

    def register(handler: Handler) -> Handler:
        for name in names:
            HANDLERS[name if "." in name else f"aten.{name}"] = handler
        return handler

    return register
