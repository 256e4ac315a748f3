"""What every ATen and fastgen op means to a plan. An op that is not here is refused by name.

A handler takes the builder and all of the op's arguments, in the order of its schema and with the schema's defaults:
values (what depends on the image), ``Given`` (on the condition), constant tensors, and
numbers.
"""

from . import attention, comparisons, linear, norms, pointwise, pooling, recurrences, reductions, views
from .registry import BOOLEAN, HANDLERS, INTEGER, INTEGERS, REFUSED, completed

__all__ = [
    "BOOLEAN", "HANDLERS", "INTEGER", "INTEGERS", "REFUSED", "attention", "comparisons", "completed", "linear", "norms",
    "pointwise", "pooling", "recurrences", "reductions", "views",
]  # fmt: skip
