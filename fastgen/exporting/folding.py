"""What a program need not compute at each call: what depends on weights alone, and batch norms behind convolutions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from ..ops._conv_transpose2d_bn_fold import conv_transpose2d_bn_fold_reference

aten = torch.ops.aten
CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv2d.padding)


class Folded(NamedTuple):
    """A program's graph as a module with no other weights than it reads, and how many batch norms it took in."""

    module: fx.GraphModule
    batch_norms: int


def fold(program: torch.export.ExportedProgram) -> Folded:
    """The same function, with constants computed, and batch norms part of the convolution or linear layer before them.

    A batch norm by running statistics scales and shifts each channel: γ (x − μ) / √(σ² + ε) + β. Both are multiplied
    into weight and bias in float64, and rounded once.

    Raises:
        ValueError: a batch norm goes by the batch: what it answers for an image depends on those beside it.
    """
    module = program.module(check_guards=False)
    graph, constants = module.graph, _Constants(module)
    constants.evaluate()
    norms = 0
    for node in [*graph.nodes]:
        if node.target is aten.batch_norm.default:
            if node.args[5]:
                raise ValueError(f"model: expected batch norms with running statistics, got none in {_where(node)}")
            norms += _fold_into(node, constants)
    graph.eliminate_dead_code()
    held: dict[str, Tensor] = {}
    for node in graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
        if node.op == "get_attr":
            value = constants.read(node)
            floating = value.is_floating_point()
            held[node.target] = torch.nn.Parameter(value, requires_grad=False) if floating else value
    return Folded(fx.GraphModule(held, graph), norms)


class _Constants:
    """The tensors of a graph that depend on weights alone, by node."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module, self.graph = module, module.graph
        self._count = 0

    def evaluate(self) -> None:
        """Compute every result that depends on weights alone, and keep those that others read."""
        values: dict[fx.Node, Any] = {}
        for node in [*self.graph.nodes]:
            if node.op == "get_attr":
                values[node] = self.read(node)
            elif node.op == "call_function" and all(each in values for each in node.all_input_nodes) and _pure(node):
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
                with torch.no_grad():
                    values[node] = node.target(*args, **kwargs)
        for node, value in values.items():
            read = isinstance(value, Tensor) and any(user not in values for user in node.users)
            if read and node.op == "call_function":
                node.replace_all_uses_with(self.put(node, value))

    def put(self, before: fx.Node, value: Tensor) -> fx.Node:
        """A new weight, to be read before a node."""
        name, self._count = f"folded_{self._count}", self._count + 1
        value = value.detach().clone(memory_format=torch.contiguous_format)
        self.module.register_buffer(name, value)
        with self.graph.inserting_before(before):
            node = self.graph.create_node("get_attr", name, name=name)
        node.meta["val"] = value
        return node

    def read(self, node: Any) -> Tensor:
        """The tensor of a ``get_attr``."""
        owner, _, name = str(node.target).rpartition(".")
        return getattr(self.module.get_submodule(owner), name)


def _pure(node: fx.Node) -> bool:
    """Whether a call depends on what it is given alone, and changes nothing of it."""
    schema, tags = getattr(node.target, "_schema", None), getattr(node.target, "tags", ())
    return schema is not None and not schema.is_mutable and torch.Tag.nondeterministic_seeded not in tags


def _fold_into(norm: fx.Node, constants: _Constants) -> int:
    """Make a batch norm part of what is before it: 1; 0 where that is nothing it can be part of, or others read it."""
    layer = norm.args[0]
    assert isinstance(layer, fx.Node)
    way = _way(layer)
    if way is None or len(layer.users) > 1:
        return 0
    given = [*layer.args, None][:3] if len(layer.args) < 3 else [*layer.args]
    tensors = [*given[1:3], *norm.args[1:5]]
    if not all(each is None or (isinstance(each, fx.Node) and each.op == "get_attr") for each in tensors):
        return 0
    dtype = constants.read(given[1]).dtype
    wide = [None if each is None else constants.read(each).double() for each in tensors]
    folded = way(wide, norm.args[7])
    given[1:3] = [constants.put(layer, each.to(dtype)) for each in folded]
    layer.args = tuple(given)
    norm.replace_all_uses_with(layer)
    layer.graph.erase_node(norm)
    return 1


def _way(layer: fx.Node) -> Callable[[list[Any], Any], tuple[Tensor, Tensor]] | None:
    """How the weight and bias of a layer take in a batch norm: of [weight, bias, γ, β, μ, σ²] and ε."""
    if layer.target is aten.conv_transpose2d.input:
        groups: Any = layer.args[6] if len(layer.args) > 6 else 1
        return lambda t, eps: conv_transpose2d_bn_fold_reference(t[0], t[1], t[2], t[3], t[4], t[5], groups, eps)
    if layer.target in CONVOLUTIONS:
        return lambda t, eps: fuse_conv_bn_weights(t[0], t[1], t[4], t[5], eps, t[2], t[3])
    if layer.target is aten.linear.default and layer.meta["val"].dim() == 2:
        return lambda t, eps: fuse_linear_bn_weights(t[0], t[1], t[4], t[5], eps, t[2], t[3])
    return None


def _where(node: fx.Node) -> str:
    """The module that a node was called in."""
    stack = node.meta.get("nn_module_stack") or {}
    return [name for name, _ in stack.values()][-1] if stack else node.name
