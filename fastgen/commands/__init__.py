"""The commands: in each module a dataclass is the options, and ``main(arguments)`` runs it and says what to print."""

from typing import Any

import torch

from .._extras import require
from .boxes import grouped


def parse(kind: Any, command: str, arguments: list[str], default: Any = None) -> Any:
    """Read the options of a command from its arguments; --help and mistakes end the process as usual."""
    tyro, prog = require("tyro"), f"fastgen {command}"
    if hasattr(kind, "boxes"):
        return tyro.cli(grouped(kind, prog, default), prog=prog, args=arguments).options
    defaults = {} if default is None else {"default": default}
    return tyro.cli(kind, prog=prog, args=arguments, **defaults)


def pick_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is CUDA where there is one, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type in ("cpu", "cuda"):
            return device
    except (RuntimeError, AssertionError):  # torch built without CUDA asserts
        pass
    raise ValueError(f"device: expected auto, cpu or a CUDA device of this machine, got {name!r}")


def check_seed(seed: int) -> None:
    """Raise ValueError if the random numbers know no such seed."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed: expected 0 or more, below 2**63, got {seed}")
