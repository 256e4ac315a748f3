"""A compiled sampler notices every change of what its model holds, and nothing else."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from architectures import randomise
from fastgen import sampling
from fastgen.distributions import Categorical
from fastgen.sampling.state import checksum, digest
from foreign import classic_pixelcnn
from held import BESIDE, SHAPE, Held, compiled, drawn


def _write_array(model: Any) -> None:
    model.third.weight.detach().numpy()[:] *= -1


def _exchange(model: Any) -> None:
    second, third = model.second.weight.data, model.third.weight.data
    kept = second.clone()
    second.copy_(third)
    third.copy_(kept)


def _write_plain_array(model: Any) -> None:
    model.array[:] = model.array[::-1].copy()


CHANGES: dict[str, Callable[[Any], object]] = {
    "a weight mirrored": lambda m: m.second.weight.data.copy_(m.second.weight.data.flip(-1)),
    "channels permuted": lambda m: m.output.weight.data.copy_(m.output.weight.data.roll(1, 1)),
    "a bias rolled": lambda m: m.second.bias.data.copy_(m.second.bias.data.roll(1)),
    "two tensors exchanged": _exchange,
    "a weight written by NumPy": _write_array,
    "a buffer rolled": lambda m: m.shift.data.copy_(m.shift.data.roll(1, 0)),
    "a plain tensor written": lambda m: m.scale.copy_(m.scale.flip(0)),
    "a plain tensor replaced": lambda m: setattr(m, "scale", m.scale.flip(0)),
    "a tensor in a container": lambda m: m.among["scales"].__setitem__(0, -m.among["scales"][0]),
    "an array written": _write_plain_array,
    "a tensor the model does not hold": lambda m: BESIDE.copy_(BESIDE.flip(0)),
    "a number": lambda m: setattr(m, "slope", -3.0),
    "a module without weights": lambda m: setattr(m, "activation", nn.ReLU()),
    "a hook": lambda m: m.output.register_forward_hook(lambda module, inputs, output: -output),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_noticed(change: str) -> None:
    model = randomise(Held()).eval()
    sampler, beside = compiled(model), BESIDE.clone()
    before = sampler.sample(8, seed=0)
    assert torch.equal(before, drawn(model))
    try:
        CHANGES[change](model)
        after = sampler.sample(8, seed=0)
        assert torch.equal(after, drawn(model))
        assert not torch.equal(after, before)
    finally:
        BESIDE.copy_(beside)


def test_a_checksum_sees_order_signs_and_single_bits() -> None:
    """Sums of bits, and sums weighted by odd numbers over 64-bit words, miss some of these."""
    for size in (1, 2, 7, 1 << 16, (1 << 17) + 3):
        ones = torch.ones(size)
        seen = {checksum(ones)}
        for index in {0, size // 2, size - 1}:
            flipped = ones.clone()
            flipped[index] = -1
            seen.add(checksum(flipped))
        assert len(seen) == 1 + len({0, size // 2, size - 1})
    pairs = torch.ones(8, 8).fill_diagonal_(-1).roll(1, 1) * torch.ones(8, 8).fill_diagonal_(-1)
    assert len({checksum(row) for row in pairs}) == 8
    for dtype in (torch.float64, torch.float16, torch.uint8, torch.bool, torch.complex64):
        values = (torch.arange(12) % 2).to(dtype)
        assert checksum(values) != checksum(values.flip(0))
        assert checksum(values.view(3, 4).t()) == checksum(values.view(3, 4).t().contiguous())
    assert digest(torch.zeros(2, 3)) != digest(torch.zeros(3, 2))


def test_what_a_forward_sets_for_itself_does_not_count() -> None:
    class Counting(Held):
        calls, last = 0, None

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.last = super().forward(x)
            return self.last

    model = randomise(Counting()).eval()
    model(torch.zeros(2, *SHAPE))
    sampler = compiled(model)
    plan = sampler.plan
    model(torch.zeros(4, *SHAPE))
    sampler.sample(2)
    assert sampler.plan is plan


def test_masks_that_forward_writes_into_weights_are_compiled_once() -> None:
    model = randomise(classic_pixelcnn()).eval()
    forwards = []
    model.register_forward_pre_hook(lambda module, inputs: forwards.append(len(inputs[0])))
    sampler = sampling.compile(model, SHAPE, Categorical(3), "[-1, 1]")
    assert forwards == [3]
    sampler.sample(2)
    assert forwards == [3]
