"""Analysis: from a trace to a graph of feature maps, the reach of every channel, and whether the model is causal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_map

from . import lowering
from .builder import Argument, Arrangement, Builder, Given
from .graph import NEVER, AnyOperation, Attention, Graph, Linear, Operation, image_map
from .lookups import Lookup, lookup_of
from .lowering import whole_images
from .normalisers import Described
from .trace import BATCH, Constant, Node, Output, Trace, UnsupportedModelError, behind
from .traced_tensor import Value

#: What is left to a model that cannot be planned.
NAIVELY = "draw with sampling.NaiveSampler, which runs any causal model"


@dataclass
class Analysis:
    """The graph, what has to be computed from the condition before each batch, and embeddings of what is drawn."""

    graph: Graph
    given: list[Arrangement]
    told: list[Node]
    lookups: list[Lookup]


def analyse(
    trace: Trace,
    shape: tuple[int, int, int],
    params: int,
    dtype: torch.dtype,
    device: torch.device,
    inputs: int = 1,
    coupled: bool = False,
) -> Analysis:
    """Read a trace.

    Args:
        trace: of the model.
        shape: (C, H, W) of an image.
        params: P, channels of the distribution's parameters.
        dtype: of the model's inputs.
        device: likewise.
        inputs: channels in which the model reads one colour.
        coupled: whether every colour reads all parameters, and not one part of them each.

    Raises:
        UnsupportedModelError: an op that cannot be planned, a result of another shape, or a model that is not causal.
    """
    C, H, W = shape
    graph = Graph(image_map(shape, inputs), C, coupled)
    builder = Builder(graph, BATCH, dtype, device)
    values: dict[tuple[int, int], Argument] = {(id(trace.image), 0): Value.of(graph.image, BATCH)}

    def resolve(argument: Any) -> Any:
        if isinstance(argument, Constant):
            return argument.tensor
        if isinstance(argument, Output):
            known = values.get((id(argument.node), argument.index))
            if known is None and argument.node.on_image:
                raise UnsupportedModelError(f"the second result of {argument.node.op}")
            return known if known is not None else Given(argument)
        return argument

    needed = {id(node) for node in behind([trace.result.node])}
    for node in trace.nodes:
        if node.on_image and node.op != "image" and id(node) in needed:
            for index, value in enumerate(_apply(builder, node, resolve)):
                values[id(node), index] = value
    result = values.get((id(trace.result.node), trace.result.index))
    assert isinstance(result, Value)
    if isinstance(result, Described):
        raise UnsupportedModelError(f"model: expected parameters, got {result.WHY}")
    builder.path = "model"
    result = whole_images.brought_to_pixels(builder, result.settled())
    kinds = [result.kind(d) for d in range(len(result.shape))]
    if result.shape != (BATCH, params, H, W) or kinds != ["n", "c", "r", "s"]:
        got = f"(N, {', '.join(map(str, result.shape[1:]))})"
        if result.shape == (BATCH, params, H, W):
            got += f", of which the dimensions cannot be told apart in images of {H}x{W}"
        raise UnsupportedModelError(f"model: expected parameters of shape (N, {params}, {H}, {W}), got {got}")
    if result.stride != (1, 1):
        raise UnsupportedModelError(
            "model: expected parameters of each pixel at its place, got some whose positions stand at other pixels, "
            f"every {result.stride[0]} rows and {result.stride[1]} columns"
        )
    copied = builder.pointwise("", result)
    graph.params = copied.parts[0].read.map
    graph.params.ordered = True
    check_causal(graph)
    lookups = [lookup_of(graph, *embedding) for embedding in builder.embeddings]
    return Analysis(graph, builder.given, builder.told_nodes, lookups)


def _apply(builder: Builder, node: Node, resolve: Any) -> list[Argument]:
    handler = lowering.HANDLERS.get(node.op)
    if handler is None:
        reason = lowering.REFUSED.get(
            node.op, f"there is no rule for it; write it with ops that have one, or {NAIVELY}"
        )
        raise _refusal(node, reason)
    builder.path, builder.op, builder.shape = node.path, node.op, node.shapes[0]
    first = next((each for each in node.args if isinstance(each, Output)), None)
    builder.reads = None if first is None else first.node.dtypes[first.index]
    args, kwargs = tree_map(resolve, node.args), tree_map(resolve, node.kwargs)
    try:
        if node.dtypes[0] != builder.dtype and not _passes(node, builder.reads):
            raise UnsupportedModelError(
                f"a result of {node.dtypes[0]}, where a plan has the image's {builder.dtype} alone: leave casts and "
                f"autocast out of the forward, or {NAIVELY}"
            )
        args, kwargs = lowering.completed(node.function, handler, args, kwargs)
        result = handler(builder, *args, **kwargs)
        results = result if isinstance(result, list) else [result]
        for value, shape in zip(results, node.shapes, strict=False):
            if tuple(value.shape) != shape:
                raise UnsupportedModelError(f"a result of shape {shape}, of which a plan makes {tuple(value.shape)}")
    except UnsupportedModelError as error:
        raise _refusal(node, str(error)) from None
    return results


def _refusal(node: Node, reason: str) -> UnsupportedModelError:
    """Which names the layer, the op and, whatever the reason, a way out."""
    way = "" if NAIVELY in reason else f"; {NAIVELY}"
    return UnsupportedModelError(f"{node.path}: {node.op} cannot be planned: {reason}{way}")


def _passes(node: Node, reads: torch.dtype | None) -> bool:
    """Whether the op's result is a number of the plan though it is true or false, or an integer."""
    if node.dtypes[0] == torch.bool:
        return node.op in lowering.BOOLEAN
    made = node.op == "aten._to_copy" or (reads is not None and not reads.is_floating_point)
    return made and node.dtypes[0] in lowering.INTEGERS and node.op in lowering.INTEGER


# ---- causality


def check_causal(graph: Graph) -> None:
    """Raise unless every parameter depends only on values that are drawn before it is read."""
    assert graph.params is not None
    color = graph.color_of_params()
    late = np.flatnonzero(graph.params.reach >= color)
    if len(late) == 0:
        return
    worst = int(late[np.argmax(graph.params.reach[late] - color[late])])
    blamed, offset = _blame(graph, worst)
    rows, columns, colour = graph.split(int(graph.params.reach[worst]))
    seen = f"depend on {pixel(rows, columns)}"
    if graph.colors > 1:
        seen = f"of colour {color[worst]} depend on colour {colour} of {pixel(rows, columns)}"
    raise UnsupportedModelError(
        f"{blamed.path}: pixel (r, c) reads {pixel(*offset)[6:]}; "
        f"so the parameters of pixel (r, c) {seen}, which is drawn later"
    )


def pixel(rows: int, columns: int) -> str:
    def moved(name: str, offset: int) -> str:
        return name if offset == 0 else f"{name}{offset:+d}"

    return f"pixel ({moved('r', rows)}, {moved('c', columns)})"


def _blame(graph: Graph, channel: int) -> tuple[Operation, tuple[int, int]]:
    """Along the path by which a parameter sees its latest value: the operation that looks furthest ahead.

    If none looks ahead, it is the one that reads the image.
    """
    source, steps = graph.params, []
    while source is not graph.image:
        for operation in graph.operations:
            step = _cause(graph, operation, channel) if operation.out is source else None
            if step is not None:
                steps.append((operation, step[2]))
                source, channel = step[0], step[1]
                break
        else:  # the scan of a row, which has read all of it
            scan = next(operation for operation in graph.operations if operation.out is source)
            steps.append((scan, graph.split(int(scan.out.reach[channel]))[:2]))
            break
    ahead = [(offset, index) for index, (_, offset) in enumerate(steps) if offset > (0, 0)]
    if ahead:
        offset, index = max(ahead)
        return steps[index][0], offset
    linear = [step for step in steps if isinstance(step[0], Linear)]
    return (linear or steps)[-1]


def _cause(graph: Graph, operation: AnyOperation, channel: int) -> tuple[Any, int, tuple[int, int]] | None:
    """The map, its channel and the offset from which ``channel`` has its reach."""
    reach = operation.out.reach[channel]
    if isinstance(operation, Linear):
        for tap in operation.taps:
            offset = operation.offset(tap.read)
            arrives = tap.read.map.reach[tap.channels] + graph.shift(offset)
            arrives = np.where(tap.live[:, channel], arrives, NEVER)
            if arrives.max(initial=NEVER) == reach:
                return tap.read.map, int(tap.channels[arrives.argmax()]), offset
        return None
    if isinstance(operation, Attention):
        for source, shift in operation.accesses(graph):
            if source.reach.max() + shift == reach:
                offset = (0, 0) if source is operation.query else max(operation.offsets, key=graph.shift)
                return source, int(source.reach.argmax()), offset
        return None
    for operand in operation.reads():
        arrives = graph.operand_values(operation, operand, lambda m: m.reach)
        index = int(arrives.argmax()) if operation.op == "norm" else channel
        if arrives[index] == reach:
            read = operand.reads[operand.read[index]]
            return read.map, int(operand.channel[index]), operation.offset(read)
    return None
