"""fuse and unfuse: first everything is looked at and proven, then all of it is swapped, or nothing."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .matching import match
from .report import FuseReport
from .swap import restore


def fuse(model: nn.Module) -> FuseReport:
    """Replace, in place, what can be proven equivalent to fastgen's ops; the report says what, and what not and why.

    * Masked convolutions, in whatever way the mask is applied → ``fastgen.ops.masked_conv2d``, with a following
      ReLU, ELU or GatedActivation of the same Sequential. Dilated, or with another mask that leaves whole rows or
      columns without a tap, as a vertical stack's → torch's convolution of the live taps alone.
    * ConvTranspose2d → BatchNorm2d or SyncBatchNorm → ReLU, LeakyReLU or Tanh, in a Sequential or in a forward that
      calls them one after the other → ``fastgen.ops.conv_transpose2d_bn``; in a chain of them the normalised
      activations are never written.
    * Conv2d of kernel 4, stride 2 and padding 1, in a Sequential or in such a forward → Winograd's form of it on a CPU,
      see ``fastgen.nn.Conv2dChain``.
    * Linear → ReLU, LeakyReLU or Tanh → Linear, likewise → one op on a CPU, see ``fastgen.nn.LinearChain``.
    * Modules without parameters that draw z ~ N(mu, exp(logvar)), with or without its KL divergence of each example →
      ``fastgen.ops.rsample_kl``.

    The model stays the model: a swapped module is the same object with the same parameters, buffers and hooks, of a
    subclass of its class. A second call swaps nothing. Gradients of what was swapped are of first and second order.

    Args:
        model: any module; changed in place. Parameters, buffers and random generators are not touched.

    Returns:
        What was swapped and what was left. ``print`` it; ``undo()`` gives all swapped modules their own classes back.

    Raises:
        TypeError: ``model`` is not a module, or a ScriptModule. Nothing is changed then.
    """
    _check_model(model)
    with _on_its_own():
        matches = match(model)
    classes = matches.classes
    swapped: list[tuple[nn.Module, type[nn.Module]]] = []
    try:
        for module, made in classes.items():
            before = type(module)
            module.__class__ = made
            swapped.append((module, before))
    except BaseException:
        for module, before in swapped:
            module.__class__ = before
        raise
    modules = [(path, module) for path, module in model.named_modules() if module in classes]
    return FuseReport(list(matches.rows.values()), matches.left, modules)


def unfuse(model: nn.Module) -> list[str]:
    """Give every module that ``fuse`` swapped its own class back: in this model, or in a copy or a loaded one.

    Returns:
        The paths of these modules.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: the class of one was changed again since, as registering a parametrization does. Nothing is changed.
    """
    _check_model(model)
    return restore(list(model.named_modules()))


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(f"model: expected a module in Python, got a {type(model).__name__}; fuse before scripting")


@contextmanager
def _on_its_own() -> Iterator[None]:
    """Trials with gradients and without autocast, whatever surrounds the call; what they draw is not missing after."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    state, numpy = random.getstate(), sys.modules.get("numpy")
    numpys = numpy.random.get_state() if numpy else None
    try:
        with (
            torch.random.fork_rng(devices),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
        ):
            yield
    finally:
        random.setstate(state)
        if numpy:
            numpy.random.set_state(numpys)
