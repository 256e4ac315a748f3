"""Malformed arguments: every public op and module says which argument was wrong."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgen import ops
from fastgen._checks import check_integer, check_option, check_tensor
from malformed import assert_clear, sweep
from op_arguments import ARGUMENTS


def _clear(x: Tensor, size: int, word: str) -> None:
    check_tensor("x", x, ("N", 3), (torch.float32,))
    check_integer("size", size, 1)
    check_option("word", word, ("one", "two"))


def test_the_sweep_tells_clear_errors_from_others() -> None:
    arguments = {"x": torch.ones(2, 3), "size": 2, "word": "one"}
    outcomes = sweep(_clear, arguments)
    assert_clear(outcomes)
    assert {one.kind for one in outcomes} == {"works", "clear"}
    assert {one.argument for one in outcomes} == set(arguments)

    def unclear(x: Tensor, size: int, word: str) -> None:
        _clear(x, 1, word)
        torch.zeros(size)

    def silent(x: Tensor, size: int, word: str) -> None:
        _clear(x, size, "one")

    def broken(x: Tensor, size: int, word: str) -> None:
        raise SystemError("error return without exception set") if word == "ONE" else ValueError("word: expected one")

    for call, kind in ((unclear, "unclear"), (silent, "silent")):
        outcomes = sweep(call, arguments)
        assert any(one.kind == kind for one in outcomes)
        with pytest.raises(AssertionError, match=kind):
            assert_clear(outcomes)
    with pytest.raises(SystemError):
        sweep(lambda **_: broken(**{**arguments, "word": "ONE"}), arguments)
    kinds = {
        one.kind
        for one in sweep(lambda **given: given["word"] == "one" or broken(**given), arguments)
        if one.argument == "word"
    }
    assert kinds == {"clear", "crash"}


VECTOR = torch.ones(4)
OPS: dict[str, tuple[Callable[..., Any], dict[str, Any], set[str]]] = {
    "gated_activation": (ops.gated_activation, {"x": torch.ones(2, 4, 3)}, set()),
    "rsample_kl": (
        ops.rsample_kl,
        {"mu": torch.ones(2, 3), "logvar": torch.ones(2, 3), "seed": torch.tensor([1])},
        set(),
    ),
    "discretized_logistic_mixture": (
        ops.discretized_logistic_mixture,
        {"params": torch.ones(2, 6, 3, 4), "values": torch.ones(2, 1, 3, 4, dtype=torch.int64), "levels": 256},
        set(),
    ),
    "binary_cross_entropy": (
        ops.binary_cross_entropy,
        {"logits": torch.ones(2, 1, 3, 4), "target": torch.ones(2, 1, 3, 4)},
        set(),
    ),
    "categorical_cross_entropy": (
        ops.categorical_cross_entropy,
        {
            "params": torch.ones(2, 6, 3, 4), "values": torch.ones(2, 1, 3, 4, dtype=torch.int64), "levels": 6,
            "label_smoothing": 0.1,
        },
        set(),
    ),
    "image_lstm": (
        ops.image_lstm,
        {
            "gates": torch.ones(2, 8, 3, 4), "weight": torch.ones(8, 2, 3), "hidden": torch.ones(2),
            "cell": torch.ones(2), "scan": "row",
        },
        set(),
    ),
    "masked_conv2d": (
        ops.masked_conv2d,
        {
            "x": torch.ones(2, 4, 5, 6), "weight": torch.ones(4, 4, 3, 3), "bias": VECTOR, "mask": "B",
            "activation": "relu", "residual": torch.ones(2, 4, 5, 6), "color_groups": 1, "groups_order": "contiguous",
        },
        {"bias", "residual"},
    ),
    "masked_conv2d_mask": (
        ops.masked_conv2d_mask,
        {
            "weight": torch.ones(4, 4, 3, 3), "mask": "A", "activation": "none", "color_groups": 2,
            "groups_order": "interleaved",
        },
        set(),
    ),
    "gated_residual_block": (
        ops.gated_residual_block,
        {
            "x": torch.ones(2, 4, 5, 6), "weight": torch.ones(8, 4, 3, 3), "bias": torch.ones(8),
            "weight_out": torch.ones(4, 4, 1, 1), "bias_out": VECTOR, "mask": "B", "color_groups": 1,
            "groups_order": "contiguous",
        },
        {"bias", "bias_out"},
    ),
    "batch_norm_activation": (
        ops.batch_norm_activation,
        {
            "x": torch.ones(2, 4, 5, 6), "weight": VECTOR, "bias": VECTOR, "running_mean": VECTOR,
            "running_var": VECTOR, "training": False, "momentum": 0.1, "eps": 1e-5, "activation": "leaky_relu",
            "negative_slope": 0.1,
        },
        {"weight", "bias", "momentum"},
    ),
    "conv_transpose2d_bn": (
        ops.conv_transpose2d_bn,
        {
            "x": torch.ones(2, 3, 5, 6), "weight": torch.ones(3, 4, 3, 3), "bias": VECTOR, "bn_weight": VECTOR,
            "bn_bias": VECTOR, "running_mean": VECTOR, "running_var": VECTOR, "training": False, "momentum": 0.1,
            "eps": 1e-5, "stride": 1, "padding": (1, 1), "output_padding": 0, "dilation": 1, "groups": 1,
            "activation": "leaky_relu", "negative_slope": 0.1,
        },
        {"bias", "bn_weight", "bn_bias", "momentum"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPS)
def test_ops_say_which_argument_is_wrong(name: str) -> None:
    call, arguments, optional = OPS[name]
    assert_clear(sweep(call, arguments, optional=optional))


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_every_tensor_of_an_op_is_on_one_device(name: str) -> None:
    """One on the meta device made a fake kernel answer for all: with memory that nobody had written."""
    args = ARGUMENTS[name][0](torch.float32)
    tensors = [i for i, arg in enumerate(args) if isinstance(arg, Tensor)]
    for i in tensors if len(tensors) > 1 else ():
        mixed = [arg.to("meta") if j == i else arg for j, arg in enumerate(args)]
        with pytest.raises(ValueError, match="expected the device of"):
            getattr(torch.ops.fastgen, name).default(*mixed)


def test_public_ops_name_a_tensor_of_another_device() -> None:
    for call, arguments, _ in OPS.values():
        names = [name for name, value in arguments.items() if isinstance(value, Tensor)]
        for name in names if len(names) > 1 else ():
            with pytest.raises(ValueError, match="expected the device of"):
                call(**{**arguments, name: arguments[name].to("meta")})


def test_fake_kernels_refuse_what_the_kernels_refuse() -> None:
    """A weight of no channels, or with an even kernel, has no result, on the meta device either."""
    fastgen, options = torch.ops.fastgen, ("B", "none", 1, "contiguous")
    for device, error in (("cpu", RuntimeError), ("meta", ValueError)):  # the kernel's own check, the fake's
        x, y, none = (torch.ones(2, channels, 5, 5, device=device) for channels in (2, 4, 0))
        weights = [torch.ones(size, device=device) for size in ((4, 0, 3, 3), (4, 2, 2, 3), (0, 0, 3, 3), (0, 0, 1, 1))]
        empty, even, gate, last = weights
        for image, weight in ((none, empty), (x, even)):
            with pytest.raises(error, match="weight: expected"):
                fastgen.masked_conv2d.default(image, weight, None, None, *options, False)
            with pytest.raises(error, match="weight: expected"):
                fastgen.masked_conv2d_backward.default(y, y, image, weight, *options, [True] * 3)
        up = (none, None, None, None, "none", 0.0, torch.ones(0, 4, 3, 3, device=device), None)
        geometry = ([1, 1], [0, 0], [0, 0], [1, 1], 1)
        with pytest.raises(error, match=r"weight(: expected| to be) at least"):
            fastgen.conv_transpose2d_bn.default(*up, *geometry, "none", 0.0, True, False)
        with pytest.raises(error, match="weight: expected"):
            fastgen.gated_residual_block.default(none, gate, None, last, None, "B", 1, "contiguous", False)
        with pytest.raises(error, match="weight: expected"):
            fastgen.gated_residual_block_backward.default(
                none, none, none, gate, last, "B", 1, "contiguous", [True] * 5
            )
