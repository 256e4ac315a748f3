"""Malformed arguments: every public op and module says which argument was wrong."""

import pytest
import torch
from torch import Tensor

from fastgen._checks import check_integer, check_option, check_tensor
from malformed import assert_clear, sweep


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
