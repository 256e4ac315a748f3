"""Where a condition meets the image in a forward: what is planned, computed before the walk, or refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures import randomise
from fastgen import sampling
from fastgen.distributions import Bernoulli
from fastgen.nn import MaskedConv2d
from fastgen.sampling import UnsupportedModelError, compiled_sampler
from samplers import assert_same_as_naive


class Told(nn.Module):
    """A masked convolution, and what ``meets`` makes of it and the condition."""

    def __init__(self, meets: object) -> None:
        super().__init__()
        self.meets = meets
        self.conv, self.output = MaskedConv2d(1, 4, 3, "A"), nn.Conv2d(4, 1, 1)
        self.linear = nn.Linear(2, 4)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.output(torch.tanh(self.meets(self, self.conv(x), condition)))  # type: ignore[operator]


HOW = ((1, 4, 5), Bernoulli(), "[-1, 1]")


def over(self: nn.Module, h: Tensor, z: Tensor) -> Tensor:
    h = h.clone()
    h[:, 1, :2] = z[:, 0, None, None].expand(-1, 2, h.shape[3])
    h[:, :, :, 0] = torch.full((), 0.5, dtype=h.dtype).expand(h.shape[:3])
    return h


def under(self: nn.Module, h: Tensor, z: Tensor) -> Tensor:
    base = self.linear(z)[:, :, None, None].repeat(1, 1, *h.shape[2:])
    base[:, 1:3] = h[:, 1:3]
    return base


def beside(self: nn.Module, h: Tensor, z: Tensor) -> Tensor:
    return torch.cat((self.linear(z)[:, :, None, None].expand(-1, -1, 1, h.shape[3]), h), dim=2)[:, :, :-1]


MEETS = {
    "chosen by it": lambda self, h, z: torch.where(z.sum(1)[:, None, None, None] > 0, h, -h),
    "chosen from one": lambda self, h, z: torch.where(z[:, :1, None, None] > 0, h, 0.25),
    "chosen for it": lambda self, h, z: torch.where(h > 0, self.linear(z)[:, :, None, None], h),
    "by a mask": lambda self, h, z: h.masked_fill(self.linear(z)[:, :, None, None] > 0, 0.0),
    "from where a mask is": lambda self, h, z: torch.where(torch.arange(5) % 2 > 0, self.linear(z)[..., None, None], h),
    "compared": lambda self, h, z: h * ((h > self.linear(z)[..., None, None]) & (z[:, :1, None, None] > 0)).to(h.dtype),
    "a multiple of it": lambda self, h, z: torch.add(h, self.linear(z)[:, :, None, None], alpha=-0.5),
    "products of it": lambda self, h, z: torch.addcmul(h, *[self.linear(z)[:, :, None, None]] * 2, value=2),
    "stacked": lambda self, h, z: torch.stack([h, self.linear(z)[..., None, None].expand_as(h)], 1).sum(1),
    "assigned over": over,
    "assigned under": under,
    "rows beside it": beside,
}  # fmt: skip


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("meets", MEETS)
def test_where_it_meets_the_image(meets: str, n: int) -> None:
    torch.manual_seed(0)
    assert_same_as_naive(randomise(Told(MEETS[meets])), (1, 4, 5), Bernoulli(), n, torch.randn(n, 2))


def test_a_number_read_from_real_numbers_is_refused() -> None:
    def reads(self: nn.Module, h: Tensor, z: Tensor) -> Tensor:
        return h if z.sum().item() > 0 else -h

    def compares(self: nn.Module, h: Tensor, z: Tensor) -> Tensor:
        return h if torch.equal(z, torch.zeros_like(z)) else -h

    for meets in (reads, compares):
        with pytest.raises(
            UnsupportedModelError, match="model: reads a number that depends on the condition's numbers"
        ):
            sampling.compile(Told(meets), *HOW, condition=torch.zeros(2))
    with pytest.raises(UnsupportedModelError, match="model: reads a number that depends on the image"):
        sampling.compile(Told(lambda self, h, z: h if torch.equal(h, h) else z), *HOW, condition=torch.zeros(2))


def test_a_shape_that_depends_on_numbers_is_refused_where_it_differs() -> None:
    def chooses(self: nn.Module, h: Tensor, z: Tensor) -> Tensor:
        return h + F.pad(z[z > 0], (0, 9))[:4].view(1, 4, 1, 1).expand(len(h), -1, -1, -1)

    sampler = sampling.compile(Told(chooses), *HOW, condition=torch.zeros(2))
    with pytest.raises(ValueError, match=r"model: aten\.index of this condition is \(0,\), and was \(\d,\) of another"):
        sampler.sample(seed=0, condition=torch.full((3, 2), -1.0))


def test_a_forward_that_mixes_the_conditions_of_images_is_refused() -> None:
    def mixes(self: nn.Module, h: Tensor, z: Tensor) -> Tensor:
        return h + self.linear(z - z.mean(0))[:, :, None, None]

    def mixes_labels(self: nn.Module, h: Tensor, y: Tensor) -> Tensor:
        hot = F.one_hot(y, 4).float()
        return h + (hot - hot.mean(0))[:, :, None, None]

    message = "condition: expected a forward that reads for each image its own example, got one that mixes them"
    with pytest.raises(UnsupportedModelError, match=message):
        sampling.compile(Told(mixes), *HOW, condition=torch.zeros(2))
    labelled = Told(mixes_labels)
    labelled.classes = 4
    with pytest.raises(UnsupportedModelError, match=message):
        sampling.compile(labelled, *HOW).sample(2, labels=[1, 2])


def test_a_function_without_a_value_at_what_was_traced() -> None:
    """Conditions that are always positive may be read by their logarithm: traced numbers have none."""
    told = randomise(Told(lambda self, h, z: h + self.linear(z.log())[:, :, None, None])).eval()
    condition, uniforms = torch.rand(5, 2) + 0.1, torch.rand(5, 1, 4, 5)
    compiled, naive = (make(told, *HOW, condition=torch.ones(2)) for make in (sampling.compile, sampling.NaiveSampler))
    drawn = compiled.sample(uniforms=uniforms, condition=condition)
    assert torch.equal(drawn, naive.sample(uniforms=uniforms, condition=condition))


class Own(Bernoulli):
    """Draws as Bernoulli does; no compiled code knows it."""


@pytest.mark.parametrize(("executor", "law"), [("native", Bernoulli()), ("native", Own()), ("reference", Bernoulli())])
def test_what_depends_on_the_condition_is_computed_once_for_a_batch(
    monkeypatch: pytest.MonkeyPatch, executor: str, law: Bernoulli
) -> None:
    told = randomise(Told(lambda self, h, z: h + self.linear(z)[:, :, None, None])).eval()
    sampler = sampling.CompiledSampler(told, HOW[0], law, HOW[2], executor=executor, condition=torch.ones(2))
    compute, batches = compiled_sampler.evaluate_given, []
    monkeypatch.setattr(compiled_sampler, "evaluate_given", lambda *args: batches.append(args) or compute(*args))
    sampler.sample(5, seed=0, condition=torch.rand(5, 2))
    assert len(batches) == 1
    sampler.forced(torch.zeros(5, *HOW[0], dtype=torch.int64), condition=torch.rand(5, 2))
    assert len(batches) == 2
