"""From a part of a model to its ``torch.export`` program."""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .folding import fold
from .layers import plain
from .parts import Part


class Program(NamedTuple):
    """A program in torch's own ops, and how many batch norms are part of the layers before them."""

    exported: torch.export.ExportedProgram
    folded: int


def program_of(model: Any, part: Part, example: tuple[Tensor, ...]) -> Program:
    """The program of a part of ``model``, for a batch of any size, in the model's dtype; other parts are not in it.

    Args:
        model: in eval mode; it stays as it is.
        part: of it.
        example: inputs of two images or more.

    Raises:
        ValueError: it has ops of fastgen's, which nobody else knows; a batch norm goes by the batch.
    """
    module = copy.deepcopy(model)
    plain(module)
    batch = tuple({0: torch.export.Dim("N")} for _ in example)
    folded = fold(torch.export.export(part.of(module), example, dynamic_shapes=batch))
    program = torch.export.export(folded.module, example, dynamic_shapes=batch)
    for node in program.graph.nodes:
        if str(node.target).startswith("fastgen."):
            raise ValueError(f"model: expected a {part.name} of torch's own ops, got {node.target}")
        node.meta.pop("stack_trace", None)  # paths of this machine
    return Program(program, folded.batch_norms)
