"""Layers inside of ``torch.utils.checkpoint``, which runs them again when their gradients are asked for."""

import ast
import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import fastgen
from fastgen import nn as fnn
from ops import ops_run

Make = Callable[[], nn.Module]
#: What is made, the images that it takes, and an op that has to run.
LAYERS: dict[str, tuple[Make, tuple[int, ...], str]] = {
    "convolution, batch norm, ReLU": (
        lambda: nn.Sequential(nn.Conv2d(3, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU()), (16, 3, 32, 32),
        "batch_norm_train",
    ),
    "transposed convolutions": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(64, 64, 4, 2, 1), nn.BatchNorm2d(64), nn.ReLU(), nn.ConvTranspose2d(64, 3, 4, 2, 1),
            nn.Tanh(),
        ),
        (4, 64, 8, 8), "conv_transpose2d_image",
    ),
    "a halving convolution": (
        lambda: nn.Sequential(nn.Conv2d(64, 128, 4, 2, 1), nn.BatchNorm2d(128), nn.LeakyReLU(0.2)), (4, 64, 16, 16),
        "winograd_to_small",
    ),
    "a perceptron": (lambda: nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 20)), (8, 784), "mlp"),
    "a layer with batch norm": (
        lambda: fnn.ConvTranspose2dBatchNorm(32, 32, 4, stride=2, padding=1), (4, 32, 8, 8), "winograd_to_large",
    ),
    "a masked convolution": (
        lambda: fnn.MaskedConv2d(32, 32, 3, mask="B", activation="relu"), (4, 32, 14, 14), "masked_conv2d",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "shape", "op"), LAYERS.values(), ids=LAYERS)
def test_gradients_are_those_without_a_checkpoint(make: Make, shape: tuple[int, ...], op: str) -> None:
    torch.manual_seed(0)
    model = make()
    fastgen.fuse(model)
    other, x = copy.deepcopy(model), torch.randn(shape)
    found = []
    for each, run in ((model, lambda m, v: checkpoint(m, v, use_reentrant=False)), (other, lambda m, v: m(v))):
        leaf = x.clone().requires_grad_()
        with ops_run() as ran:
            run(each, leaf).square().sum().backward()
        assert op in ran, ran
        found.append([leaf.grad, *(parameter.grad for parameter in each.parameters())])
    for checkpointed, plain in zip(*found, strict=True):
        assert torch.equal(checkpointed, plain)


def test_what_is_kept_is_read_once() -> None:
    """A second look at ``saved_tensors`` is an error in a checkpoint, and takes time elsewhere."""
    sources = sorted((Path(fastgen.__file__).parent / "ops").glob("*.py"))
    reads = {
        f"{source.name}: {function.name}": sum(
            isinstance(node, ast.Attribute) and node.attr == "saved_tensors" for node in ast.walk(function)
        )
        for source in sources
        for function in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef)
    }
    assert sum(reads.values()) > 20
    assert [name for name, count in reads.items() if count > 1] == []
