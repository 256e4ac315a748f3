"""Random numbers of a process: saved, restored, set aside; and the deterministic mode."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def get_state() -> dict[str, Any]:
    """States of the generators of torch, CUDA, Python and NumPy."""
    numpy: Any = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": (numpy[0], numpy[1].tolist(), *numpy[2:]),
    }


def set_state(state: dict[str, Any]) -> None:
    """Continue from what ``get_state`` returned.

    Raises:
        ValueError: a generator refuses its state.
    """
    try:
        torch.set_rng_state(state["torch"])
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"random: expected states of random numbers, got one that is refused: {error}") from error


@contextmanager
def set_aside(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from ``seed`` inside, and leave torch's random numbers outside as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Let torch refuse, inside, operations that may differ from run to run."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with this workspace only
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
