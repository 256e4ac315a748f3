"""``fastgen decompress``: images from a file of ``fastgen compress``, which is where both are."""

from .compress import decompress as main

__all__ = ["main"]
