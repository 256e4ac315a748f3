"""Loads the compiled kernels, and remembers why one is missing."""

import os
import warnings
from pathlib import Path

import torch

#: Library → why it is not loaded. Empty when everything that was built has loaded.
MISSING: dict[str, str] = {}


def load_kernels() -> None:
    """Load ``_core`` (CPU) and ``_cuda``; each registers its kernels with torch's dispatcher.

    Without ``_core`` every op still runs, from its reference; this is said once. ``FASTGEN_REQUIRE_KERNELS=1`` makes it
    an error instead, for continuous integration.

    Raises:
        ImportError: ``_core`` is missing and ``FASTGEN_REQUIRE_KERNELS=1``.
    """
    for name in ("_core", "_cuda"):
        path = Path(__file__).with_name(f"{name}.so")
        if not path.exists():
            MISSING[name] = f"{path.name} was not built"
            continue
        try:
            torch.ops.load_library(path)
        except OSError as error:
            MISSING[name] = f"{path.name} did not load: {error}"
    if "_core" in MISSING:
        message = f"fastgen runs from its plain-torch reference, without compiled kernels: {MISSING['_core']}"
        if os.environ.get("FASTGEN_REQUIRE_KERNELS") == "1":
            raise ImportError(message)
        warnings.warn(message, stacklevel=3)
