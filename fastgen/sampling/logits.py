"""Whether what a model answers are probabilities: its distribution would take them for logits, and nothing shows it."""

from __future__ import annotations

from torch.utils._pytree import tree_leaves

from .trace import Node, Output

PROBABILITIES = {"aten.sigmoid", "aten.hardsigmoid", "aten._softmax", "aten.softmax"}
"""Ops after which a number is a probability."""

KEEPING = {
    *("aten.view", "aten._unsafe_view", "aten.reshape", "aten.permute", "aten.transpose", "aten.t", "aten.clone"),
    *("aten.squeeze", "aten.unsqueeze", "aten.expand", "aten.slice", "aten.contiguous", "aten.clamp", "aten.clamp_min"),
    *("aten.clamp_max", "aten.alias", "aten.detach", "aten.cat", "aten.stack", "aten.where", "fastgen.part"),
    "fastgen.fixed",
}
"""Ops after which it is one still: views, clamps, and what puts several together."""


def probabilities(result: Output) -> Node | None:
    """The op that made probabilities of what the forward answers, or of a part of it; None where there is none."""
    waiting, seen = [result.node], set[int]()
    while waiting:
        node = waiting.pop()
        if node.op in PROBABILITIES:
            return node
        if node.op in KEEPING and id(node) not in seen:
            seen.add(id(node))
            waiting += [source.node for source in tree_leaves(node.args) if isinstance(source, Output)]
    return None
