"""Models that go over an image row by row in Python, Row LSTMs among them, are planned like any other."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures import randomise
from fastgen import sampling
from fastgen.distributions import Bernoulli
from row_lstm import RowPixelRNN
from samplers import assert_same_as_naive

STYLES = ("cat", "stack", "assign")


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("style", STYLES)
def test_a_row_lstm_draws_what_naive_sampling_draws(style: str, n: int) -> None:
    torch.manual_seed(0)
    assert_same_as_naive(randomise(RowPixelRNN(style)), (1, 6, 7), Bernoulli(), n)


@pytest.mark.parametrize("executor", ["native", "reference"])
@pytest.mark.parametrize("style", STYLES)
def test_verify_says_so(style: str, executor: str) -> None:
    torch.manual_seed(0)
    sampler = sampling.compile(
        randomise(RowPixelRNN(style)).eval(), (1, 6, 7), Bernoulli(), "[-1, 1]", executor=executor
    )
    for n in (1, 5):
        assert sampling.verify(sampler, n).same


class OneByOne(nn.Module):
    """One-dimensional convolutions along each row of the image above, down and up again, and down each column left."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv1d(1, 4, 3, stride=2, padding=2, dilation=2)
        self.up = nn.ConvTranspose1d(4, 4, 3, stride=2, groups=2, output_padding=1)
        self.column = nn.Conv1d(1, 4, 2)
        self.output = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, _, H, W = x.shape
        above, left = F.pad(x, (0, 0, 1, -1)), F.pad(x, (1, -1, 1, 0))
        rows = [self.up(torch.tanh(self.down(above[:, :, r])))[..., :W] for r in range(H)]
        columns = [self.column(left[..., c]) for c in range(W)]
        return self.output(torch.tanh(torch.cat((torch.stack(rows, 2), torch.stack(columns, 3)), dim=1)))


@pytest.mark.parametrize("size", [(4, 6), (5, 1), (1, 6)])
def test_convolutions_along_one_row_or_column(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    assert_same_as_naive(randomise(OneByOne()), (1, *size), Bernoulli())
