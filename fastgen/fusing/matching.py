"""What to do to a model: which module gets which class. Nothing is changed here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from ..nn.halving import follower, halves
from ..nn.normalizing import normalizes
from ..nn.perceptron import perceptron_at
from ..nn.sequence import observed, step_at
from . import forward_rewrite, masked_proof, methods, reparameterize, worth
from .chain import FusedSequential, flatten, is_alone, is_sequential, masked_epilogue
from .cropped_conv import CroppedConv, CropSpec
from .masked_conv import MaskedConv, MaskSpec, get
from .op_recorder import NotProvenError
from .report import Left, Swapped
from .swap import fused_class, is_fused, own_class

_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
_KINDS = {MaskSpec: MaskedConv, CropSpec: CroppedConv, reparameterize.SampleSpec: reparameterize.FusedRSample}
_UNKNOWN = "no batch norm or activation that the op knows follows it"


class Matches:
    """Attributes: ``classes``, module → new class; ``rows``, what is swapped, by the layer's id; what is ``left``."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = [
            (path, each) for path, each in model.named_modules() if not isinstance(each, torch.jit.ScriptModule)
        ]
        self.paths = {id(each): path for path, each in reversed(self.modules)}
        self.classes: dict[nn.Module, type[nn.Module]] = {}
        self.rows: dict[Any, Swapped] = {}
        self.left: list[Left] = []
        self.specs: dict[nn.Module, Any] = {}
        self.reasons: dict[int, str] = {}  # why a transposed convolution is left, by its id
        self.named: set[nn.Module] = set()  # layers of patterns that are left, once each
        self.covered: dict[int, int] = {}  # how many modules run in one op with the layer, by its id

    def path(self, module: nn.Module) -> str:
        """Its path; empty for what stands for a function in a forward."""
        return self.paths.get(id(module), "")

    def leave(self, module: nn.Module, reason: str) -> None:
        self.left.append(Left(self.paths[id(module)], own_class(module).__name__, reason))


def match(model: nn.Module) -> Matches:
    matches = Matches(model)
    for path, module in matches.modules:
        if is_fused(module):
            matches.leave(module, "it is fused already")
            continue
        try:
            spec = _proof(module, matches)
        except NotProvenError as error:
            matches.leave(module, str(error))
            continue
        if spec is None:
            _match_methods(path, module, matches)
        else:
            kind = _KINDS[type(spec)]
            matches.specs[module] = spec
            matches.classes[module] = fused_class(type(module), kind, spec)
            matches.rows[id(module)] = Swapped(path, type(module).__name__, str(spec), spec.note)
    for _, module in matches.modules:
        if is_fused(module):
            matches.covered |= {id(step[0]): len(step) for step, _ in _steps(_layers(module), matches)}
            if isinstance(module, forward_rewrite.Rewritten):  # functions in its forward may end a step
                matches.covered |= {id(each): len(matches.modules) for each in _layers(module)}
    for _, module in matches.modules:
        if not is_fused(module):
            _match_container(module, matches)
    for _, module in matches.modules:
        if isinstance(module, nn.ConvTranspose2d) and id(module) not in matches.covered:
            matches.leave(module, matches.reasons.get(id(module), _UNKNOWN))
    if not matches.rows and not any(is_fused(module) for _, module in matches.modules):
        _say_what_there_is(matches)
    return matches


def _say_what_there_is(matches: Matches) -> None:
    """Where nothing is swapped: why not the layers that a discriminator or a residual generator consists of, either."""
    said = {each.path for each in matches.left}
    for path, module in matches.modules:
        if path in said:
            continue
        if isinstance(module, _NORMS):
            matches.leave(module, worth.NORMALIZED_ALONE)
        elif type(module) is nn.Conv2d:
            matches.leave(module, worth.CONVOLVED_WHOLE)


def _proof(module: nn.Module, matches: Matches) -> Any:
    """What a module computes by itself; None if it was never meant to be anything that is known here."""
    masked = masked_proof.looks_masked(module)
    if not masked and not reparameterize.looks_like_sampling(module):
        return None
    if "forward" in vars(module):
        raise NotProvenError("it has a forward of its own, not of its class")
    if not masked:
        return reparameterize.prove(module)
    spec = masked_proof.prove(module)
    weight = get(module, spec.weight)
    if isinstance(spec, CropSpec) and weight.device.type != "cpu":
        raise NotProvenError(worth.CROPPED_ON_CPU)
    least = worth.CROPPED_WEIGHTS if isinstance(spec, CropSpec) else worth.MASKED_WEIGHTS
    if worth.small(weight, least):
        raise NotProvenError(worth.SMALL.format(least))
    if spec.in_place:
        inside = set(module.modules())
        for path, other in matches.modules:
            if other not in inside and any(tensor is weight for tensor in other._parameters.values()):
                raise NotProvenError(
                    f"its weight is also that of {path or 'model'}, which may count on the mask being written into it"
                )
    return spec


def _match_methods(path: str, module: nn.Module, matches: Matches) -> None:
    """Sampling steps that are methods of ``module``."""
    proven = []
    for name, meant in methods.candidates(module):
        where = f"{path}.{name}" if path else name
        try:
            spec = methods.prove(module, name)
        except NotProvenError as error:
            if meant:
                matches.left.append(Left(where, f"method of {type(module).__name__}", str(error)))
            continue
        if spec is not None:
            proven.append((name, spec))
            row = Swapped(where, f"method of {type(module).__name__}", str(spec), spec.note)
            matches.rows[id(module), name] = row
    if proven:
        matches.classes[module] = fused_class(type(module), methods.SampleMethods, tuple(proven))


def _layers(module: nn.Module) -> list[nn.Module]:
    return flatten(module._modules.values())  # type: ignore[arg-type]


def _match_container(module: nn.Module, matches: Matches) -> None:
    """A Sequential, or a module whose forward calls layers one after the other."""
    own = "forward" in vars(module)
    if _is_small(module, matches):
        for layer in _layers(module):
            matches.reasons[id(layer)] = worth.SMALL.format(worth.TRANSPOSED_WEIGHTS)
    elif module in matches.classes:
        for child in module.children():
            matches.reasons[id(child)] = f"{type(module).__name__} holds it, of which a method is swapped already"
    elif is_sequential(module) and not own:
        if _describe(_layers(module), matches):
            matches.classes[module] = fused_class(type(module), FusedSequential, None)
    elif forward_rewrite.has_direct_layers(module):
        try:
            if own:
                raise NotProvenError("its forward is its own, not its class's")
            matches.classes[module], runs = forward_rewrite.rewritten_class(module)
            for flat in runs:
                _describe(flat, matches)
        except NotProvenError as error:
            if forward_rewrite.is_missed(module, str(error)):
                matches.leave(module, str(error))
            for child in module.children():
                matches.reasons[id(child)] = f"{type(module).__name__} calls it, and {error}"
    elif isinstance(module, nn.Sequential):
        for child in module.children():
            matches.reasons[id(child)] = f"{type(module).__name__} has a forward or an __iter__ of its own"


def _is_small(module: nn.Module, matches: Matches) -> bool:
    """Whether all that could run in one op are transposed convolutions of a few weights, each."""
    layers = _layers(module)
    weights = [layer.weight for layer in layers if type(layer) is nn.ConvTranspose2d]
    masked = any(isinstance(layer, MaskedConv) or layer in matches.specs for layer in layers)
    return bool(weights) and not masked and all(worth.small(weight, worth.TRANSPOSED_WEIGHTS) for weight in weights)


def _steps(flat: Sequence[nn.Module], matches: Matches) -> Iterator[tuple[Sequence[nn.Module], str]]:
    """What ``run_sequence`` will run in one op, and as what."""
    i, after, any_before = 0, False, False
    while i < len(flat):
        step = step_at(flat, i, after)
        epilogue = masked_epilogue(flat, i, matches.specs)
        if step is not None:
            any_before = True
            after, activation = step.bn is not None, step.activation.name
            now = "conv_transpose2d" + "_bn" * after + f" + {activation}" * (activation != "none")
            if after and step_at(flat, step.end, after):
                now += f", normalised in the load of {matches.path(flat[step.end])}"
            yield flat[i : step.end], now
            i = step.end
            continue
        after = False
        if any_before and is_alone(flat[i]):
            yield flat[i : i + 1], "conv_transpose2d, as products of pixels where that pays"
        if halves(flat[i]):
            yield flat[i : i + 1], "conv2d in Winograd's form, where that pays"
        perceptron = perceptron_at(flat, i)
        if perceptron is not None:
            _, between, end = perceptron
            yield flat[i:end], f"linear + {between.name} + linear as one op, where that pays"
            i = end
            continue
        if normalizes(flat[i]):
            kind, end = follower(flat, i + 1, kept=False)
            yield flat[i:end], f"batch_norm{f' + {kind.name}' * (end > i + 1)} in one op, where that pays"
        if epilogue is not None:
            yield flat[i : i + 2], f"{matches.specs.get(flat[i]) or flat[i]._fastgen_spec} + {epilogue}"
        i += 1 if epilogue is None else 2


def _describe(flat: Sequence[nn.Module], matches: Matches) -> bool:
    """Rows for the steps of ``flat``; whether there is one that nothing else runs already."""
    found = False
    for step, now in _steps(flat, matches):
        if matches.covered.get(id(step[0]), 0) >= len(step):
            continue
        found = True
        matches.covered[id(step[0])] = len(step)
        row = matches.rows.get(id(step[0]))
        paths = ", ".join(filter(None, map(matches.path, step)))
        names = ", ".join(own_class(each).__name__ for each in step)
        matches.rows[id(step[0])] = Swapped(paths, names, now, row.note if row else "")
    for conv, after in pairwise([*flat, nn.Module()]):
        if isinstance(conv, nn.Upsample) and isinstance(after, nn.Conv2d) and conv not in matches.named:
            matches.named.add(conv)
            matches.leave(conv, "it upsamples before a convolution, and the op is that of ConvTranspose2d")
        known = after in matches.named or id(after) in matches.covered
        if type(conv) is nn.Conv2d and isinstance(after, _NORMS) and not known:
            matches.named.add(after)
            matches.leave(after, worth.NORMALIZED)
        if not isinstance(conv, nn.ConvTranspose2d):
            continue
        if type(conv) is not nn.ConvTranspose2d:
            matches.reasons[id(conv)] = f"it is a subclass of ConvTranspose2d, {type(conv).__name__}"
        elif observed(conv):
            matches.reasons[id(conv)] = f"it {observed(conv)}"
        elif isinstance(after, _NORMS) and observed(after):
            matches.leave(after, f"it {observed(after)}, and would not be called")
            matches.reasons[id(conv)] = f"{matches.path(after)} after it {observed(after)}, and would not be called"
        elif type(after) is not nn.Module:
            matches.reasons[id(conv)] = f"{_UNKNOWN}, but {own_class(after).__name__}"
    return found
