"""Chains in a forward of one's own: ``x = F.relu(self.bn1(self.deconv1(x)))``.

``torch.fx`` traces the forward with every submodule as one call, and runs of calls with a chain in them become one call
of ``run_sequence``. A trace freezes what Python decided on the way, so it is taken only where Python had nothing to
decide: the forward has no defaults and gets tensors, uses torch's functions, its own modules and tensors,
``self.training`` and plain numbers (which are compared again at each call), computes with nothing but what comes from
its input, and is the same in training and in evaluation.
"""

from __future__ import annotations

import builtins
import dis
import inspect
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..nn.halving import halves
from ..nn.perceptron import perceptron_at
from ..nn.sequence import may_write, step_at
from .chain import flatten, run_sequence
from .code import ASKS, is_torchs
from .op_recorder import NotProvenError
from .swap import Fused, make_class, own_class

_BUILTINS = {"range", "len", "tuple", "list", "int", "float", "super", "enumerate", "zip", "reversed"}
_PLAIN = (int, float, str, bool, type(None))
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


class Rewritten(Fused):
    """Runs its forward as rewritten, as long as the numbers that were read in it are what they were."""

    _fastgen_run: Callable[..., Any]
    _fastgen_arguments: int
    _fastgen_numbers: tuple[tuple[str, Any], ...]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        same = all(getattr(self, name) == number for name, number in self._fastgen_numbers)
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
    if isinstance(module, (nn.Sequential, *_CONTAINERS)) or own.__module__.startswith(("torch.", "fastgen.")):
        return False
    children = [type(child) for child in module.children()]
    fusable = nn.ConvTranspose2d in children or children.count(nn.Linear) > 1
    return fusable or any(map(halves, module.children()))


def rewritten_class(module: nn.Module) -> tuple[type[nn.Module], list[list[nn.Module]]]:
    """The class that runs ``module`` with its chains fused, and the modules of each run that has one.

    Raises:
        NotProvenError: says why its forward cannot be rewritten.
    """
    base = type(module)
    _check_code(base)
    (graph, reads), (other, _) = (_trace(module, training) for training in (True, False))
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
        raise NotProvenError("no batch norm or activation that the op knows follows in its forward")
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


def _check_code(base: type[nn.Module]) -> None:
    forward = base.forward
    if not isinstance(forward, types.FunctionType):
        raise NotProvenError("its forward is not a plain function")
    parameters = list(inspect.signature(forward).parameters.values())
    if len(parameters) < 2 or any(
        p.kind is not p.POSITIONAL_OR_KEYWORD or p.default is not p.empty for p in parameters
    ):
        raise NotProvenError("its forward takes other than plain arguments, or one with a default")
    code = forward.__code__
    if any(isinstance(constant, types.CodeType) for constant in code.co_consts):
        raise NotProvenError("its forward has a function or a comprehension in it")
    if set(code.co_freevars) - {"__class__"}:
        raise NotProvenError("its forward reads variables of a function around it")
    if asked := sorted(ASKS.intersection(code.co_names)):
        raise NotProvenError(f"its forward asks torch for its state ({', '.join(asked)})")
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("STORE_GLOBAL", "STORE_ATTR", "IMPORT_NAME"):
            raise NotProvenError(f"its forward does more than compute ({instruction.opname} {instruction.argval})")
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") and not _is_torch(forward, instruction.argval):
            raise NotProvenError(f"its forward uses {instruction.argval}, which is not torch's")


def _is_torch(forward: types.FunctionType, name: str) -> bool:
    if name not in forward.__globals__:
        return name in _BUILTINS and hasattr(builtins, name)
    value = forward.__globals__[name]
    if not isinstance(value, (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type)):
        return False
    return is_torchs(value)


class _NothingIsComputed(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # saves the import of all of torch.compile

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotProvenError(f"its forward computes with tensors that do not come from its input ({func})")


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _trace(module: nn.Module, training: bool) -> tuple[fx.Graph, set[str]]:
    """The graph of ``module``'s forward, and the names of the numbers that it read."""
    base, read = type(module), set()
    code = base.forward.__code__

    class Watched(base):  # type: ignore[misc,valid-type]
        def __getattribute__(self, name: str) -> Any:
            if sys._getframe(1).f_code is code:
                read.add(name)
            return super().__getattribute__(name)

    twin = Watched.__new__(Watched)
    state = {name: dict(value) if isinstance(value, dict) else value for name, value in vars(module).items()}
    object.__setattr__(twin, "__dict__", {**state, "training": training})
    try:
        with _NothingIsComputed():
            graph = _Tracer().trace(twin)
    except NotProvenError:
        raise
    except Exception as error:
        raise NotProvenError(f"torch.fx cannot trace its forward: {error}") from error
    held = {*module._modules, *module._parameters, *module._buffers, "training"}
    for name in read:
        value = getattr(module, name)
        if isinstance(value, _CONTAINERS) or (name not in held and type(value) not in _PLAIN):
            raise NotProvenError(f"its forward reads self.{name}, a {type(value).__name__}")
    return graph, read - held


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
