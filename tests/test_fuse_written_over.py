"""fuse: activations in place, at the head of what runs in one op, whose input others read as well."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastgen
from ops import assert_runs

SMALL = torch.ops.fastgen.winograd_to_small


class Skipping(nn.Module):
    """Who reads what an activation writes over, before it is convolved and after."""

    def __init__(self, conv: nn.Module, skip: nn.Module, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.conv, self.skip, self.same = nn.Conv2d(3, 16, 3, 1, 1), conv, skip, nn.Identity()
        self.leaky = nn.LeakyReLU(0.2, inplace=True)
        self.activation = activation


class SkippingLeaky(Skipping):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        g = self.conv(F.leaky_relu(h, 0.2, inplace=True))
        return g + self.skip(h)


class SkippingReLU(Skipping):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        s = self.skip(h)
        g = F.relu(self.same(h), True)
        s = s + self.skip(h)
        return self.conv(g) + s


class SkippingModule(Skipping):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        g = self.leaky(self.same(h))
        s = self.skip(h)
        return self.conv(g) + s


@pytest.mark.parametrize("make", [SkippingLeaky, SkippingReLU, SkippingModule])
@pytest.mark.parametrize("doubling", [False, True])
def test_others_read_what_an_activation_writes_over(make: type[Skipping], doubling: bool) -> None:
    torch.manual_seed(0)
    conv, skip = nn.Conv2d(16, 32, 4, 2, 1), nn.Conv2d(16, 32, 2, 2)
    transposed = nn.Sequential(nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
    plain = make(transposed, nn.Upsample(scale_factor=2), F.relu) if doubling else make(conv, skip, F.relu)
    model, x = copy.deepcopy(plain.eval()), torch.randn(8, 3, 16, 16)
    assert fastgen.fuse(model).swapped
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(model(x), plain(x), atol=1e-5, rtol=1e-5)


def test_what_comes_is_written_over_as_it_was() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(16, 32, 4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(F.leaky_relu(x, 0.2, True))

    plain, x, y = Writing(), *[torch.randn(8, 16, 8, 8)] * 2
    x, y = x.clone(), y.clone()
    model = copy.deepcopy(plain)
    assert fastgen.fuse(model).swapped
    with torch.no_grad(), assert_runs(SMALL.default, backward=False):
        torch.testing.assert_close(model(x), plain(y), atol=1e-5, rtol=1e-5)
    assert torch.equal(x, y)
