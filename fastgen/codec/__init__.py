"""Lossless images in few bits: range coding with the probabilities of an autoregressive model (``Codec``)."""

from .coder import Codec, Decoded
from .container import Container

__all__ = ["Codec", "Container", "Decoded"]
