"""What every ATen and fastgen op means to a plan. An op that is not here is refused by name.

A handler takes the builder and the op's arguments, in the order of its schema: values (what depends on the image),
:class:`~fastgen.sampling.builder.Given` (on the labels), constant tensors, and numbers.
"""

from . import linear, norms, pointwise, views
from .registry import HANDLERS, REFUSED

__all__ = ["HANDLERS", "REFUSED", "linear", "norms", "pointwise", "views"]
