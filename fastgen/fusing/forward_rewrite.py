"""Chains in a forward of one's own: ``x = F.relu(self.bn1(self.deconv1(x)))``.

``torch.fx`` traces the forward with every submodule as one call, and runs of calls with a chain in them become one call
of ``run_sequence``. A trace freezes what Python decided on the way, so it is taken only where Python had nothing to
decide: the forward has no defaults and gets tensors, uses torch's ops, its own modules and tensors, ``self.training``
and plain numbers (which are compared again at each call), asks its layers for nothing, has no contexts, computes with
nothing but what comes from its input, and is the same in training and in evaluation.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..nn.halving import halves
from ..nn.perceptron import perceptron_at
from ..nn.sequence import may_write, step_at
from .chain import flatten, run_sequence
from .forward_trace import CONTAINERS, check_code, trace
from .op_recorder import NotProvenError
from .swap import Fused, make_class, own_class

_NO_CHAIN = "no batch norm or activation that the op knows follows in its forward"


class Rewritten(Fused):
    """Runs its forward as rewritten, as long as the numbers that were read in it are what they were."""

    _fastgen_run: Callable[..., Any]
    _fastgen_arguments: int
    _fastgen_numbers: tuple[tuple[str, Any], ...]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        now = ((getattr(self, name), number) for name, number in self._fastgen_numbers)
        same = all(type(value) is type(number) and value == number for value, number in now)
        tensors = len(args) == self._fastgen_arguments and all(isinstance(each, Tensor) for each in args)
        if kwargs or not tensors or not same:
            return super().forward(*args, **kwargs)
        return type(self)._fastgen_run(self, *args)

    def __setstate__(self, state: Any) -> None:
        """A copy is rewritten anew, from its own modules."""
        super().__setstate__(state)
        base = type(self)._fastgen_base
        self.__class__ = base  # type: ignore[assignment]
        try:
            self.__class__ = rewritten_class(self)[0]  # type: ignore[assignment]
        except NotProvenError as error:
            warnings.warn(f"a fused {base.__name__} was loaded and is no longer fused: {error}", stacklevel=2)


def has_direct_layers(module: nn.Module) -> bool:
    """Whether its own forward calls a ConvTranspose2d, a Conv2d that halves, or two Linear, as its attributes tell."""
    own = own_class(module)
    if isinstance(module, (nn.Sequential, *CONTAINERS)) or own.__module__.startswith(("torch.", "fastgen.")):
        return False
    children = [type(child) for child in module.children()]
    fusable = nn.ConvTranspose2d in children or children.count(nn.Linear) > 1
    return fusable or any(map(halves, module.children()))


def is_missed(module: nn.Module, reason: str) -> bool:
    """Whether it is to be told of a module itself why its forward is not rewritten: no transposed layer of it tells."""
    children = list(module.children())
    if reason == _NO_CHAIN or any(isinstance(child, nn.ConvTranspose2d) for child in children):
        return False
    dense = [child for child in children if isinstance(child, nn.Linear)]
    return any(map(halves, children)) or any(perceptron_at([one, nn.ReLU(), two], 0) for one, two in pairwise(dense))


def rewritten_class(module: nn.Module) -> tuple[type[nn.Module], list[list[nn.Module]]]:
    """The class that runs ``module`` with its chains fused, and the modules of each run that has one.

    Raises:
        NotProvenError: says why its forward cannot be rewritten.
    """
    base = type(module)
    check_code(base)
    (graph, reads), (other, _) = (trace(module, training) for training in (True, False))
    if graph.python_code("self").src != other.python_code("self").src:
        raise NotProvenError("its forward does something else in training than in evaluation")
    runs = []
    for run in list(_runs(graph, module)):
        layers = [_layer(node, module) for node in run]
        flat = flatten(layers)
        if any(step_at(flat, i) or halves(layer) or perceptron_at(flat, i) for i, layer in enumerate(flat)):
            _replace(graph, run, layers)
            runs.append(flat)
    if not runs:
        raise NotProvenError(_NO_CHAIN)
    graph.lint()
    code = graph.python_code("self")
    namespace = dict(code.globals)
    exec(compile(code.src, f"<{base.__name__}, fused>", "exec"), namespace)
    numbers = tuple((name, getattr(module, name)) for name in sorted(reads))
    members = {
        "_fastgen_run": staticmethod(namespace["forward"]),
        "_fastgen_numbers": numbers,
        "_fastgen_arguments": len(inspect.signature(base.forward).parameters) - 1,
    }
    return make_class(base, Rewritten, None, **members), runs


def _runs(graph: fx.Graph, module: nn.Module) -> Iterator[list[fx.Node]]:
    """Longest runs of calls, each of which takes what the one before answered and nobody else takes."""
    run: list[fx.Node] = []
    for node in graph.nodes:
        single = len(node.args) == 1 and not node.kwargs if node.op == "call_module" else _function(node) is not None
        if run and not (single and node.args[0] is run[-1] and len(run[-1].users) == 1):
            yield _seen_by_nobody(run, module)
            run = []
        if single and isinstance(node.args[0], fx.Node):
            run.append(node)
    if run:
        yield _seen_by_nobody(run, module)


def _seen_by_nobody(run: list[fx.Node], module: nn.Module) -> list[fx.Node]:
    """``run``, without what writes over a tensor that others read as well: they would read it before, not after."""
    if len(run[0].args[0].users) == 1:  # type: ignore[union-attr]
        return run
    layers = [_layer(node, module) for node in run]
    for i, layer in enumerate(layers):
        if isinstance(
            layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
        ):  # what follows writes into its result, if at all
            return run[i:] if any(map(may_write, layers[:i])) else run
    return []


def _layer(node: fx.Node, module: nn.Module) -> nn.Module:
    """What a node of a run calls."""
    called = module.get_submodule(str(node.target)) if node.op == "call_module" else _function(node)
    assert called is not None
    return called


def _function(node: fx.Node) -> nn.Module | None:
    """The module that computes what a call of a function or method does."""
    if node.op not in ("call_function", "call_method") or not node.args:
        return None
    options = {**dict(zip(("negative_slope", "inplace"), node.args[1:], strict=False)), **node.kwargs}
    target = node.target
    if target is F.leaky_relu and set(options) <= {"negative_slope", "inplace"}:
        slope, inplace = options.get("negative_slope", 0.01), options.get("inplace", False)
        return nn.LeakyReLU(slope, inplace) if isinstance(slope, (int, float)) and isinstance(inplace, bool) else None
    if target is F.relu and len(node.args) <= 2 and set(node.kwargs) <= {"inplace"}:
        inplace = (*node.args[1:], *node.kwargs.values(), False)[0]
        return nn.ReLU(inplace) if isinstance(inplace, bool) else None
    if options:
        return None
    if target in (torch.relu, "relu"):
        return nn.ReLU()
    if target in (torch.sigmoid, F.sigmoid, "sigmoid"):
        return nn.Sigmoid()
    return nn.Tanh() if target in (torch.tanh, F.tanh, "tanh") else None


def _replace(graph: fx.Graph, run: list[fx.Node], layers: list[nn.Module]) -> None:
    """One call of run_sequence in the place of ``run``; modules are looked up at each call, functions are constant."""
    paths = [node.target if node.op == "call_module" else None for node in run]
    functions = [layer if path is None else None for path, layer in zip(paths, layers, strict=True)]

    def fused_run(x: Any, *held: nn.Module) -> Any:
        modules = iter(held)
        return run_sequence([function or next(modules) for function in functions], x)

    with graph.inserting_before(run[0]):
        held = [graph.create_node("get_attr", path) for path in paths if path is not None]
        call = graph.call_function(fused_run, (run[0].args[0], *held))
    run[-1].replace_all_uses_with(call)
    for node in reversed(run):
        graph.erase_node(node)
