"""What a checkpoint holds beside the weights, and how it is compared with what it should be before any of it is loaded.

Torch and NumPy believe what they are given: the optimisers' kernels write as many numbers as a parameter has to
wherever their state lies, and NumPy reads at the position it is told. A state of other shapes, dtypes, layouts or
positions is refused here, by name.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from .._alike import check_alike, check_keys, is_odd
from .._checks import check_integer, check_number, describe
from .recipe import Recipe

STATE = 2
"""Version of what a checkpoint holds beside the weights."""


@dataclass
class Position:
    """Where a run stands."""

    epoch: int = 0  # epochs completed
    batch: int = 0  # batches done of the one under way
    step: int = 0  # batches done of all
    best: float = math.inf  # held-out loss
    loss: str = "loss"  # its name
    seconds: float = 0.0  # of the epoch under way
    stale: int = 0  # epochs since the best one


def optimizer_state(
    name: str, state: Any, optimizer: torch.optim.Optimizer, recipe: Recipe, most_steps: int
) -> dict[str, Any]:
    """``state`` for ``optimizer.load_state_dict``: each slot laid out in memory as its parameter is.

    Args:
        name: of the player, for messages.
        state: what ``optimizer.state_dict()`` was.
        optimizer: a new one, of the same parameters.
        recipe: that ``optimizer`` was made of.
        most_steps: that it can have taken.

    Raises:
        ValueError: an option differs from the optimiser's; a parameter there is not; a slot too many or too few, or of
            another shape or dtype than its parameter's.
    """
    check_keys(name, state, ("state", "param_groups"))
    own = optimizer.state_dict()["param_groups"]
    if not isinstance(state["param_groups"], list) or len(state["param_groups"]) != len(own):
        raise ValueError(f"{name}.param_groups: expected {len(own)}, got {describe(state['param_groups'])}")
    for group, mine in zip(state["param_groups"], own, strict=True):
        if not isinstance(group, dict) or "lr" not in group:
            raise ValueError(f"{name}.param_groups: expected options with an lr, got {describe(group)}")
        for key, option in mine.items():  # another version of torch may know others
            got = group.get(key, option)
            if key != "lr" and (type(got) is not type(option) or got != option):
                raise ValueError(f"{name}.{key}: expected {describe(option)}, got {describe(got)}")
        mine["lr"] = check_number(f"{name}.lr", group["lr"], 0)
    if not isinstance(state["state"], dict):
        raise ValueError(f"{name}.state: expected slots by parameter, got {describe(state['state'])}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    slots = {}
    for index, given in state["state"].items():
        at = check_integer(f"{name}: parameter", index, 0, len(parameters) - 1)
        slots[at] = _slots(f"{name}.{at}", given, parameters[at], recipe, most_steps)
    return {"state": slots, "param_groups": own}


def _slots(name: str, given: Any, parameter: nn.Parameter, recipe: Recipe, most_steps: int) -> dict[str, Any]:
    """The slots of one parameter, compared with those of a parameter that has taken a step."""
    probe = nn.Parameter(torch.zeros(2, 3, dtype=parameter.dtype))
    probe.grad = torch.zeros_like(probe)
    optimizer = recipe.make_optimizer([probe])
    optimizer.step()
    like = optimizer.state[probe]
    check_keys(name, given, like)
    slots: dict[str, Any] = {}
    for key, one in like.items():
        value, where = given[key], f"{name}.{key}"
        if not isinstance(one, Tensor) or one.shape != probe.shape:  # the count of steps
            check_alike(where, value, one)
            count = float(value)
            check_integer(where, int(count) if count.is_integer() else count, 0, most_steps)
            slots[key] = value
            continue
        if not isinstance(value, Tensor) or (value.shape, value.dtype) != (parameter.shape, one.dtype) or is_odd(value):
            expected = f"a tensor {tuple(parameter.shape)} of {one.dtype}, as its parameter is"
            raise ValueError(f"{where}: expected {expected}, got {describe(value)}")
        slots[key] = torch.empty_like(parameter, dtype=one.dtype, requires_grad=False).copy_(value.detach())
    return slots


def check_scaler(name: str, state: Any, scaler: torch.amp.GradScaler) -> None:
    """``state`` is one that ``scaler`` can continue from.

    Raises:
        ValueError: it is not.
    """
    own = scaler.state_dict()
    check_keys(name, state, own)
    for key in own:
        if key == "_growth_tracker":
            check_integer(f"{name}.{key}", state[key], 0)
        elif key == "scale":
            check_number(f"{name}.{key}", state[key], 2.0**-126)
        elif state[key] != own[key]:
            raise ValueError(f"{name}.{key}: expected {own[key]}, got {describe(state[key])}")


def check_position(state: Any) -> None:
    """``state`` are the fields of a ``Position``.

    Raises:
        ValueError: a field too many or too few, of another type, or negative.
    """
    check_keys("position", state, [field.name for field in fields(Position)])
    for name in ("epoch", "batch", "step", "stale"):
        check_integer(f"position.{name}", state[name], 0)
    if not isinstance(state["best"], float) or math.isnan(state["best"]) or not isinstance(state["loss"], str):
        got = f"{describe(state['best'])} and {describe(state['loss'])}"
        raise ValueError(f"position.best and loss: expected a number and its name, got {got}")
    check_number("position.seconds", state["seconds"], 0)


def check_sums(state: Any) -> None:
    """``state`` are the fields of a ``loss_monitor.Sums``.

    Raises:
        ValueError: a field too many or too few, or a number that is none.
    """
    check_keys("sums", state, ("losses", "images"))
    for name in ("losses", "images"):
        if not isinstance(state[name], dict):
            raise ValueError(f"sums.{name}: expected numbers by name, got {describe(state[name])}")
    check_keys("sums.images", state["images"], state["losses"])
    for name, loss in state["losses"].items():
        check_number(f"sums.losses.{name}", loss)
        check_integer(f"sums.images.{name}", state["images"][name], 1)


def check_random(state: Any, own: Mapping[str, Any]) -> None:
    """``state`` is what ``randomness.get_state`` returns, as ``own`` is, on any number of GPUs.

    Raises:
        ValueError: it is not; NumPy itself would read beyond its numbers.
    """
    check_keys("random", state, own)
    for name in ("torch", "python"):
        check_alike(f"random.{name}", state[name], own[name])
    if not isinstance(state["cuda"], list):
        raise ValueError(f"random.cuda: expected states of GPUs, got {describe(state['cuda'])}")
    for device, one in enumerate(state["cuda"]):
        if not isinstance(one, Tensor) or one.dtype != torch.uint8 or one.dim() != 1 or is_odd(one):
            raise ValueError(f"random.cuda.{device}: expected bytes, got {describe(one)}")
    check_alike("random.numpy", state["numpy"], own["numpy"])
    kind, key, position, has_gauss, _ = state["numpy"]
    if kind != own["numpy"][0]:
        raise ValueError(f"random.numpy.0: expected {own['numpy'][0]}, got {describe(kind)}")
    for index, number in enumerate(key):
        check_integer(f"random.numpy.1.{index}", number, 0, 2**32 - 1)
    check_integer("random.numpy.2", position, 0, len(key))
    check_integer("random.numpy.3", has_gauss, 0, 1)
