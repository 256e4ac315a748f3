"""What a person needs to know when a number stops being finite."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

SHOWN = 3
"""Names that a list of the largest shows."""


class NonFiniteError(ArithmeticError):
    """A loss, a gradient or a weight became infinite or not a number."""


def largest(named: Iterable[tuple[str, Tensor | None]]) -> str:
    """The names with the largest absolute values, those that are no numbers first."""
    found = {name: tensor.abs().max().item() for name, tensor in named if tensor is not None and tensor.numel()}
    order = sorted(found, key=lambda name: -found[name] if math.isfinite(found[name]) else -math.inf)
    return ", ".join(f"{name} {found[name]:.3g}" for name in order[:SHOWN])


def activations(model: nn.Module, run: Callable[[], object]) -> str:
    """The largest outputs of the modules of ``model`` while ``run()`` runs without gradients."""
    outputs: dict[str, Tensor] = {}
    names = {module: name for name, module in model.named_modules() if not any(True for _ in module.children())}

    def keep(module: nn.Module, _: object, output: object) -> None:
        tensors = [t for t in (output if isinstance(output, tuple | list) else [output]) if isinstance(t, Tensor)]
        if tensors and names[module] and tensors[0].numel():
            outputs[names[module]] = tensors[0].abs().max()

    hooks = [module.register_forward_hook(keep) for module in names]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return largest(outputs.items())


def terms(losses: dict[str, float]) -> str:
    """Which losses are finite and which are not, in words."""
    broken = [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
    whole = [f"{name} {value:.4g}" for name, value in losses.items() if math.isfinite(value)]
    return " and ".join(broken or ["all losses are finite"]) + (f" ({', '.join(whole)})" if whole else "")


def advice(precision: str, step: int, loss_is_finite: bool) -> str:
    """What to try."""
    tries = ["a smaller lr", "a longer warmup", "a smaller clip"]
    if precision != "float32":
        tries.insert(0, "precision float32" + (" or bfloat16" if precision == "float16" else ""))
    if step == 1 and not loss_is_finite:
        return "it is the first step, so look at the model and the data, not at the optimiser"
    return f"try {', '.join(tries[:-1])} or {tries[-1]}"
