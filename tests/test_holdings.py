"""What a compiled sampler looks at before it draws: everything that a model holds, wherever it is, by its path."""

import enum
import threading
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fastgen.sampling.state import checksum, digest, holdings, state_of

Pair = namedtuple("Pair", "a b")
Level = enum.IntEnum("Level", "LOW HIGH")


class Own(nn.Parameter):
    """A type of tensor that is not met mostly."""


class Word(str):
    __slots__ = ()


@dataclass
class Record:
    a: int


class Called:
    def __call__(self, *_: Any) -> None:
        """An object that is a hook."""


class Everything(nn.Module):
    """Holds something in every way there is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.register_buffer("shift", torch.zeros(2))
        self.register_parameter("absent", None)
        self.tied = self.layer
        self.own, self.plain = Own(torch.ones(2)), torch.ones(2)
        self.half, self.sparse = torch.ones(3, dtype=torch.float16), torch.eye(2).to_sparse()
        self.array, self.record = np.ones(2), np.zeros(2, dtype=[("a", "i4"), ("b", "f8")])
        self.objects = np.array([None, None])
        self.numbers = [1, [2.0, [True, [3j, ["too deep"]]]]]
        self.by_name = {"a": {0: deque([torch.ones(1), b"b"])}, ("t", 1): Pair(1, np.ones(1))}
        self.ordered, self.default = OrderedDict(a=1), defaultdict(int, b=2)
        self.size, self.level, self.word, self.nothing = torch.Size([1, 2]), Level.LOW, Word("w"), None
        self.among = [nn.Linear(1, 1), self.layer]
        self.function, self.builtin, self.kind = torch.nn.functional.relu, len, nn.ReLU
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.number, self.range, self.slice, self.kinds = np.float32(1), range(2), slice(3), {1, 2}
        self.settings, self.record_of = SimpleNamespace(scale=1.0, more=[2]), Record(1)
        self.bound, self.partial = "word".upper, partial(max, 1)
        self.quantized = torch.quantize_per_tensor(torch.ones(5), 0.1, 0, torch.qint8)
        self.unread = (object(), Counter("a"))
        self.layer.register_forward_hook(hook)
        self.layer.register_forward_pre_hook(nn.Identity())
        self.layer.register_forward_pre_hook(self.looks)
        self.layer.register_forward_pre_hook(Called())

    def looks(self, *_: Any) -> None:
        """A hook that is a method."""


def hook(*_: Any) -> None:
    """Does nothing."""


PATHS = """
__class__ layer.__class__ layer.weight layer.bias layer.in_features layer.out_features layer._forward_hooks[0]
layer._forward_pre_hooks[0].__class__ shift absent own plain half sparse array record objects numbers[0] numbers[1][0]
numbers[1][1][0] numbers[1][1][1][0] by_name['a'][0][0] by_name['a'][0][1] by_name[('t',1)][0] by_name[('t',1)][1]
ordered['a'] default['b'] size[0] size[1] level word nothing among[0].__class__ among[0].weight among[0].bias
among[0].in_features among[0].out_features function builtin kind dtype device tied among[1] number range slice kinds
settings.scale settings.more[0] record_of.a bound partial quantized layer._forward_pre_hooks[1]
layer._forward_pre_hooks[2]
"""


def test_all_that_is_held_is_found_once() -> None:
    model = Everything()
    found = holdings(model)
    assert sorted(path.replace(" ", "") for path in found) == sorted(PATHS.split())
    assert found["layer.weight"] is model.layer.weight
    assert found["by_name['a'][0][0]"] is model.by_name["a"][0][0]
    assert found["__class__"] is Everything
    assert found["layer._forward_hooks[0]"] is hook


def _turn(array: np.ndarray) -> None:
    array[:] = array + np.arange(len(array)) + 1


CHANGES: dict[str, Callable[[Any], object]] = {
    "layer.weight": lambda m: m.layer.weight.data.copy_(m.layer.weight.data.flip(0)),
    "shift": lambda m: m.shift.data.__setitem__(1, -0.0),
    "absent": lambda m: setattr(m, "absent", nn.Parameter(torch.zeros(1))),
    "own": lambda m: m.own.data.neg_(),
    "plain": lambda m: m.plain.numpy().__setitem__(0, 2),
    "half": lambda m: m.half.__setitem__(2, 2),
    "sparse": lambda m: m.sparse.values().mul_(2),
    "array": lambda m: _turn(m.array),
    "record": lambda m: m.record["b"].__setitem__(1, 1.0),
    "objects": lambda m: setattr(m, "objects", m.objects.copy()),
    "numbers[1][1][1][0]": lambda m: m.numbers[1][1][1].__setitem__(0, 4j),
    "by_name['a'][0][0]": lambda m: m.by_name["a"][0][0].neg_(),
    "by_name['a'][0][1]": lambda m: m.by_name["a"][0].__setitem__(1, b"c"),
    "by_name[('t', 1)][1]": lambda m: _turn(m.by_name["t", 1].b),
    "ordered['z']": lambda m: m.ordered.update(z=1),
    "default['b']": lambda m: m.default.pop("b"),
    "size[1]": lambda m: setattr(m, "size", torch.Size([1, 3])),
    "level": lambda m: setattr(m, "level", Level.HIGH),
    "word": lambda m: setattr(m, "word", Word("v")),
    "nothing": lambda m: setattr(m, "nothing", 0),
    "among[0].weight": lambda m: m.among[0].weight.data.neg_(),
    "function": lambda m: setattr(m, "function", hook),
    "builtin": lambda m: setattr(m, "builtin", max),
    "kind": lambda m: setattr(m, "kind", nn.Tanh),
    "dtype": lambda m: setattr(m, "dtype", torch.float64),
    "layer._forward_hooks[1]": lambda m: m.layer.register_forward_hook(lambda *_: None),
    "layer._forward_pre_hooks[2]": lambda m: m.layer._forward_pre_hooks.popitem(),
    "layer.__class__": lambda m: setattr(m.layer, "__class__", nn.Identity),
    "tied": lambda m: delattr(m, "tied"),
    "among[1]": lambda m: m.among.pop(),
    "number": lambda m: setattr(m, "number", np.float32(-3)),
    "range": lambda m: setattr(m, "range", range(3)),
    "slice": lambda m: setattr(m, "slice", slice(4)),
    "kinds": lambda m: m.kinds.add(3),
    "settings.scale": lambda m: setattr(m.settings, "scale", 2.0),
    "settings.more[0]": lambda m: m.settings.more.__setitem__(0, 3),
    "record_of.a": lambda m: setattr(m.record_of, "a", 2),
    "bound": lambda m: setattr(m, "bound", "word".lower),
    "partial": lambda m: setattr(m, "partial", partial(max, 2)),
    "quantized": lambda m: setattr(m, "quantized", torch.quantize_per_tensor(2 * torch.ones(5), 0.2, 0, torch.qint8)),
    "forward": lambda m: setattr(m, "forward", MethodType(hook, m)),
    "layer._forward_pre_hooks[3]": lambda m: m.layer.register_forward_pre_hook(Called()),
    "new": lambda m: setattr(m, "new", [torch.zeros(1)]),
}


@pytest.mark.parametrize("path", CHANGES)
def test_a_change_is_seen_at_its_path_and_nowhere_else(path: str) -> None:
    model = Everything()
    before = state_of(model)
    assert state_of(model) == before
    CHANGES[path](model)
    after = state_of(model)
    changed = {each for each in {**before, **after} if before.get(each, ...) != after.get(each, ...)}
    assert {each.removesuffix("[0]") if path == "new" else each for each in changed} == {path}
    assert state_of(model, frozenset(changed)) == {each: held for each, held in before.items() if each not in changed}


def test_hooks_of_every_module_are_seen() -> None:
    model = Everything()
    before = state_of(model)
    handles = [nn.modules.module.register_module_forward_hook(hook)]
    handles.append(nn.modules.module.register_module_forward_pre_hook(Called()))
    seen = set(state_of(model)) - set(before)
    for handle in handles:
        handle.remove()
    assert len(seen) == 2
    assert state_of(model) == before


def test_digests_tell_dtypes_shapes_and_kinds_apart() -> None:
    zeros = torch.zeros(4)
    others = (zeros.view(2, 2), zeros.int(), zeros.to("meta"), zeros.numpy(), zeros.numpy().astype(np.int32), 0)
    assert len({digest(each) for each in (zeros, *others)}) == 1 + len(others)
    assert digest(zeros) == digest(nn.Parameter(zeros)) == (torch.float32, (4,), torch.device("cpu"), 0)
    assert checksum(torch.arange(6).view(2, 3).t()) == checksum(torch.arange(6).view(2, 3).t().contiguous())
    with torch.inference_mode():
        assert checksum(torch.arange(6)) == checksum(torch.arange(6).clone())


def test_attributes_that_come_and_go_meanwhile() -> None:
    """Another thread's forward sets them; what is walked are copies."""
    model, stop = Everything(), threading.Event()
    expected = set(holdings(model))

    def work() -> None:
        while not stop.is_set():
            for name in range(50):
                setattr(model.layer, f"kept{name}", name)
                model.by_name[name] = [name]
            for name in range(50):
                delattr(model.layer, f"kept{name}")
                del model.by_name[name]

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(300):
            assert expected <= set(holdings(model))
    finally:
        stop.set()
        thread.join()
