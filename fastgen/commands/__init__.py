"""The commands: in each module a dataclass is the options, and ``main(arguments)`` runs it and says what to print."""

from pathlib import Path
from typing import Any

import torch

from .._extras import require
from ..data import Dataset, load, load_for_training
from ..training import Run


def parse(kind: Any, command: str, arguments: list[str], default: Any = None) -> Any:
    """Read the options of a command from its arguments; --help and mistakes end the process as usual."""
    tyro = require("tyro")
    defaults = {} if default is None else {"default": default}
    return tyro.cli(kind, prog=f"fastgen {command}", args=arguments, **defaults)


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


def check_can_write(option: str, path: Path) -> None:
    """Raise ValueError if no file can be at ``path``: to be found out before the work, not after it."""
    if path.is_dir():
        raise ValueError(f"{option}: expected a file to write, got the folder {path}")
    if not path.parent.is_dir():
        raise ValueError(f"{option}: expected a file in a folder that exists, got {path}")


def load_images(run: Run, split: str = "test", data: str | None = None, root: str | None = None) -> Dataset:
    """Load images for the model of a run, at the levels it was trained on.

    Args:
        run: says which data set, how many levels, and what was held out of training.
        split: "test"; or "train" and "valid", the images the run was trained on and watched.
        data: other data than the run's.
        root: of the data; the run's by default.

    Raises:
        ValueError: their size, or their levels, are not the run's.
    """
    config = run.config()
    options, about = config["options"], config["data"]
    name, root = data or options["data"], root or options.get("data_root")
    if split == "test":
        images = load(name, root=root, split="test")
    elif split == "valid" and options["held_out"] == "test":
        raise ValueError(f"split: expected train or test, since the run in {run.folder} held out no others, got valid")
    else:
        images = load_for_training(name, root=root, watch=options["held_out"])[split == "valid"]
        if split == "train" and name == options["data"] and options.get("limit") is not None:
            images = images.subset(options["limit"])
    if list(images.shape) != about["shape"] or images.levels < about["levels"]:
        expected, got = (
            f"{shape[0]}x{shape[1]}x{shape[2]} images of {levels} levels"
            for shape, levels in ((about["shape"], about["levels"]), (images.shape, images.levels))
        )
        raise ValueError(f"data: expected {expected}, as in the run in {run.folder}; {name} has {got}")
    return images.quantise(about["levels"])
