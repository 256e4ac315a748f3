"""Walker: a context model's parameters position by position."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen import sampling
from fastgen.nn import MaskedConv2d
from fastgen.sampling import UnsupportedModelError, Walker
from parity import LOGITS_AGREE


class ContextModel(nn.Module):
    """Of learned image compression: masked 5×5 on the values, and 1×1 layers on that and the hyperprior's features."""

    def __init__(self, channels: int = 6, hyper: int = 4) -> None:
        super().__init__()
        self.context = MaskedConv2d(channels, 2 * channels, 5, "A")
        self.parameters_of = nn.Sequential(
            nn.Conv2d(2 * channels + hyper, 9, 1), nn.LeakyReLU(), nn.Conv2d(9, 2 * channels, 1)
        )

    def forward(self, y: Tensor, hyper: Tensor) -> Tensor:
        return self.parameters_of(torch.cat([self.context(y), hyper], 1))


class Alone(ContextModel):
    def forward(self, y: Tensor) -> Tensor:  # type: ignore[override]
        return self.parameters_of(F.pad(self.context(y), (0, 0, 0, 0, 0, 4)))


@pytest.mark.parametrize("executor", ["native", "reference"])
def test_its_parameters_are_one_forwards(executor):
    model, hyper = ContextModel().eval(), torch.randn(3, 4, 5, 6)
    walker = Walker(model, (6, 5, 6), condition=hyper[0], executor=executor)
    seen, read, places = torch.zeros(3, 12, 5, 6), torch.zeros(3, 6, 5, 6), []
    for step in walker.walk(condition=hyper):
        places.append((step.row, step.column))
        seen[:, :, step.row, step.column] = step.params
        means, scales = step.params.chunk(2, 1)
        values = (means + scales * torch.randn_like(means)).mul(4).round()
        read[:, :, step.row, step.column] = values
        step.reveal(values)
    assert places == [(r, c) for r in range(5) for c in range(6)]
    with torch.no_grad():
        expected = model(read, hyper)
    assert (seen - expected).abs().max() < LOGITS_AGREE * expected.abs().max()


def decoded(walker: Walker, hyper: Tensor) -> Tensor:
    y = torch.zeros(len(hyper), 6, 4, 4)
    for step in walker.walk(condition=hyper):
        values = step.params[:, :6].mul(8).round()
        y[:, :, step.row, step.column] = values
        step.reveal(values)
    return y


def test_bits_depend_on_no_batch_and_new_weights_are_seen():
    model, hyper = ContextModel().eval(), torch.randn(5, 4, 4, 4)
    walker = Walker(model, (6, 4, 4), condition=hyper[0])
    together = decoded(walker, hyper)
    assert torch.equal(together[3:4], decoded(walker, hyper[3:4]))
    with torch.no_grad():
        model.parameters_of[0].bias.add_(1)
    assert not torch.equal(together, decoded(walker, hyper))


def test_without_a_condition_and_in_bfloat16():
    model = Alone().eval()
    seen = []
    for precision in ("float32", "bfloat16"):
        walker = Walker(model, (6, 3, 4), precision=precision)
        params = []
        for step in walker.walk(2):
            params.append(step.params)
            step.reveal(torch.full((2, 6), float(step.column)))
        seen.append(torch.stack(params))
        assert walker.plan.precision == precision
    assert 0 < (seen[0] - seen[1]).abs().max() < 0.05


class OfCodes(nn.Module):
    """Of integers: two channels that one embedding of 7 rows reads, the second from 4 on, and one with rows of its own.

    What the first embedding reads of the second channel is of the pixel to the left.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.more = nn.Embedding(7, 3), nn.Embedding(3, 3)
        self.register_buffer("offsets", torch.tensor([0, 4]).view(1, 2, 1, 1))
        self.out = MaskedConv2d(9, 5, 3, "A")

    def forward(self, y: Tensor) -> Tensor:
        beside = torch.cat([y[:, :1], F.pad(y[:, 1:2], (1, 0))[..., :-1]], 1)
        read = self.tokens(beside.long() + self.offsets).permute(0, 1, 4, 2, 3).flatten(1, 2)
        return self.out(torch.cat([read, self.more((y[:, 2] + 0.5).floor().long()).movedim(-1, 1)], 1))


@pytest.mark.parametrize("executor", ["native", "reference"])
def test_values_for_which_an_embedding_has_no_row(executor):
    walker = Walker(OfCodes().eval(), (3, 2, 3), executor=executor)
    steps = walker.walk(2)
    step = next(steps)
    for value, message in {
        (7, 0, 0): r"integers in \[0, 7\), the rows of the embedding tokens, got some from 6 to 7 at \(0, 0\)",
        (-1, 0, 0): "embedding tokens, got some from -1 to 6 at",
        (0, 3, 0): "embedding tokens, got some from 6 to 7 at",
        (0, -5, 0): "embedding tokens, got some from -1 to 6 at",
        (0, 0, 3): r"integers in \[0, 3\), the rows of the embedding more, got some from 2 to 3 at \(0, 0\)",
        (0, 0, 2.6): "embedding more, got some from 2 to 3 at",
    }.items():
        with pytest.raises(ValueError, match=f"^values: expected .*{message}"):
            step.reveal(torch.tensor([[6.0, 2, 2], value]))
    values = torch.tensor([[6.9, 2, 2], [-0.9, -4, -0.4]])
    model, seen = walker._sampler.model, []
    for step in walker.walk(2):
        seen.append(step.params)  # which stay what they are
        step.reveal(values)
    with torch.no_grad():
        expected = model(values[:, :, None, None].expand(-1, -1, 2, 3).contiguous())
    assert (torch.stack(seen, 2).unflatten(2, (2, 3)) - expected).abs().max() < LOGITS_AGREE * expected.abs().max()


def test_a_position_sees_no_channel_of_its_own():
    model = nn.Conv2d(4, 4, 1)
    with pytest.raises(UnsupportedModelError, match="drawn later"):
        Walker(model, (4, 3, 3))


def test_errors():
    walker = Walker(Alone().eval(), (6, 3, 4))
    steps = walker.walk()
    step = next(steps)
    assert step.params.shape == (1, 12)
    with pytest.raises(ValueError, match=r"values: expected shape \(1, 6\), got \(6,\)"):
        step.reveal(torch.zeros(6))
    with pytest.raises(ValueError, match=r"values: expected finite numbers at \(0, 0\)"):
        step.reveal(torch.full((1, 6), torch.inf))
    with pytest.raises(ValueError, match=r"values: expected finite numbers at \(0, 0\)"):
        step.reveal(torch.full((1, 6), 1e300, dtype=torch.float64))
    with pytest.raises(RuntimeError, match=r"expected reveal\(values\) at \(0, 0\) before the next"):
        next(steps)
    steps = walker.walk()
    step = next(steps)
    step.reveal(torch.zeros(1, 6))
    with pytest.raises(RuntimeError, match="got a second one"):
        step.reveal(torch.zeros(1, 6))
    step = next(steps)
    steps.close()
    with pytest.raises(
        RuntimeError, match=r"expected reveal\(values\) at \(0, 1\) before its walk ended, got it after"
    ):
        step.reveal(torch.zeros(1, 6))
    with pytest.raises(ValueError, match=r"shape: expected three positive integers \(C, H, W\)"):
        Walker(Alone(), (6, 3))
    with pytest.raises(ValueError, match=r"model: expected parameters of shape \(1, P, 3, 4\), got \(1, 72\)"):
        Walker(nn.Flatten(), (6, 3, 4))
    with pytest.raises(ValueError, match="condition: expected"):
        next(Walker(ContextModel().eval(), (6, 4, 4), condition=torch.zeros(4, 4, 4)).walk(2))
    with torch.no_grad():
        model = Alone().eval()
        model.parameters_of[2].bias.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"got inf or nan at \(0, 0\)"):
        next(Walker(model, (6, 3, 4)).walk())


def test_it_is_shown():
    assert sampling.Walker is Walker
    assert repr(Walker(Alone().eval(), (6, 3, 4))) == "Walker(Alone, (6, 3, 4))"
