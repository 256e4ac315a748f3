"""fuse: modules that draw z ~ N(mu, exp(logvar)), with or without the KL divergence of each example."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastgen
from fastgen.nn import GaussianRSample
from fusable import MeanInEval, Reparameterize, SampleAndKL
from parity import assert_parity


class Module(nn.Module):
    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, mu: Tensor, logvar: Tensor) -> object:
        return self.function(self, mu, logvar)


def noise(x: Tensor) -> Tensor:
    return torch.randn_like(x)


def kl(mu: Tensor, logvar: Tensor) -> Tensor:
    return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).flatten(1).sum(1)


SWAPPED = {
    "z": (Reparameterize, "rsample_kl, z alone"),
    "z, mean in eval": (MeanInEval, "rsample_kl, z alone"),
    "z and KL": (SampleAndKL, "rsample_kl"),
    "clamped as the op": (
        lambda: Module(lambda s, m, v: m + v.clamp(-30, 20).div(2).exp() * noise(m)),
        "rsample_kl, z alone",
    ),
    "by a distribution": (
        lambda: Module(lambda s, m, v: torch.distributions.Normal(m, (v / 2).exp(), validate_args=False).rsample()),
        "rsample_kl, z alone",
    ),
    "noise of one dtype": (
        lambda: Module(lambda s, m, v: m + (v / 2).exp() * torch.randn(m.shape)),
        "rsample_kl, z al",
    ),
    "KL of rows alone": (
        lambda: Module(lambda s, m, v: (m + (v / 2).exp() * noise(m), kl(m, v) if m.dim() == 2 else kl(m, v).mean())),
        "rsample_kl",
    ),
}


@pytest.mark.parametrize("name", SWAPPED)
def test_what_is_swapped(name: str) -> None:
    """z, KL and gradients are those of the op with the seed that was drawn; the module's own formula with its noise."""
    make, now = SWAPPED[name]
    module, before = make(), make()
    (entry,) = fastgen.fuse(module).swapped
    assert entry.now.startswith(now)
    assert "other random numbers from the same seed" in entry.note
    mu, logvar = (torch.randn(6, 9, requires_grad=True) for _ in range(2))
    torch.manual_seed(2)
    results = module(mu, logvar)
    torch.manual_seed(2)
    expected = GaussianRSample()(mu, logvar)
    for one, two in zip(results if isinstance(results, tuple) else (results,), expected, strict=False):
        assert torch.equal(one, two)
        grads = [torch.autograd.grad(y.sum(), (mu, logvar), retain_graph=True) for y in (one, two)]
        assert all(map(torch.equal, *grads))
    theirs = before(mu, logvar)
    if isinstance(theirs, tuple):
        exact = before(mu.double(), logvar.double())
        assert_parity(results[1], theirs[1], exact[1])


def test_z_is_distributed_as_before() -> None:
    module = Reparameterize()
    fastgen.fuse(module)
    mu, logvar = torch.full((1, 200_000), 0.5), torch.full((1, 200_000), -1.0)
    z = (module(mu, logvar) - 0.5) / (-0.5 * torch.ones(())).exp()
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):  # standard errors are at most 0.022
        assert abs(z.pow(power).mean().item() - moment) < 0.1


def test_where_its_own_forward_runs() -> None:
    """In eval, where it returns the mean; where shapes are broadcast; where it was proven for rows alone."""
    module = MeanInEval()
    (entry,) = fastgen.fuse(module).swapped
    assert "when not training its own forward runs" in entry.note
    mu, logvar = torch.randn(3, 4), torch.randn(3, 4)
    assert module.eval()(mu, logvar) is mu
    broadcast, before = Reparameterize(), Reparameterize()
    fastgen.fuse(broadcast)
    torch.manual_seed(0)
    ours = broadcast(mu, logvar[:1])
    torch.manual_seed(0)
    assert torch.equal(ours, before(mu, logvar[:1]))
    rows = SWAPPED["KL of rows alone"][0]()
    fastgen.fuse(rows)
    image = torch.randn(2, 3, 4, 4)
    assert rows(image, image)[1].shape == ()
    one_dtype = SWAPPED["noise of one dtype"][0]()
    fastgen.fuse(one_dtype)
    assert one_dtype(mu.bfloat16(), mu.bfloat16()).dtype == torch.float32


LEFT = {
    "sigma": (lambda s, m, v: m + v * noise(m), "its z is not that of"),
    "softplus": (lambda s, m, v: m + nn.functional.softplus(v) * noise(m), "also calls aten.softplus"),
    "other clamp": (lambda s, m, v: m + v.clamp(-10, 10).div(2).exp() * noise(m), "its z is not"),
    "detached": (lambda s, m, v: m.detach() + (v / 2).exp() * noise(m), "gradient of the z to mu is not"),
    "uniform": (lambda s, m, v: m + (v / 2).exp() * torch.rand_like(m), "drawn by aten.rand_like"),
    "wide": (lambda s, m, v: m + (v / 2).exp() * torch.empty_like(m).normal_(0, 2), "not standard normal"),
    "one for all": (lambda s, m, v: m + (v / 2).exp() * torch.randn(1, dtype=m.dtype), "one standard normal number"),
    "two draws": (lambda s, m, v: m + (v / 2).exp() * (noise(m) + noise(m)), "one standard normal number"),
    "mean of KLs": (lambda s, m, v: (m + (v / 2).exp() * noise(m), kl(m, v).mean()), r"second result has shape \(\)"),
    "another KL": (lambda s, m, v: (m + (v / 2).exp() * noise(m), 2 * kl(m, v)), "its KL is not that of"),
    "three results": (lambda s, m, v: (m + (v / 2).exp() * noise(m), m, v), "returns neither z nor"),
    "decides by values": (
        lambda s, m, v: m + (v / 2).exp() * noise(m) if v.max() < 50 else m,
        "also calls aten._local_scalar_dense",
    ),
    "more than its arguments": (lambda s, m, v: m + (v / 2).exp() * noise(m) * ONE, "reads a tensor that is not"),
}
ONE = torch.ones(1, dtype=torch.float64)


@pytest.mark.parametrize("case", LEFT)
def test_what_is_left(case: str) -> None:
    function, reason = LEFT[case]
    module = Module(function)
    report = fastgen.fuse(module)
    assert report.swapped == []
    assert re.search(reason, report.left[0].reason), report.left[0].reason
    assert type(module) is Module


class Stateful(nn.Module):
    """A module with an attribute that its forward reads or writes."""

    def __init__(self, writes: bool, scale: object = 1.0) -> None:
        super().__init__()
        self.scale, self.writes, self.kl = scale, writes, None

    def forward(self, mu: Tensor, logvar: Tensor) -> Tensor:
        if self.writes:
            self.kl = kl(mu, logvar)
        scale = self.scale if isinstance(self.scale, float) else self.scale["scale"]
        return mu + (logvar / 2).exp() * torch.randn_like(mu) * scale


def test_attributes() -> None:
    """A result beside the results would be missed; a number that is read is compared at each call."""
    (left,) = fastgen.fuse(Stateful(writes=True)).left
    assert left.reason == "its forward writes self.kl"
    (left,) = fastgen.fuse(Stateful(writes=False, scale={"scale": 1.0})).left
    assert left.reason == "its forward reads self.scale, a dict, which may change"
    module = Stateful(writes=False)
    assert len(fastgen.fuse(module).swapped) == 1
    mu = torch.randn(2, 3)
    assert not torch.equal(module(mu, mu), mu)
    module.scale = 0.0
    assert torch.equal(module(mu, mu), mu)


def test_modules_that_never_draw_are_not_spoken_of() -> None:
    model = nn.ModuleList([Module(lambda s, m, v: m + v), Module(lambda s, m, v: m.missing), nn.Bilinear(2, 2, 2)])
    report = fastgen.fuse(model)
    assert report.swapped == []
    assert report.left == []


def test_random_generators_are_not_touched() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fastgen.fuse(nn.ModuleList([SampleAndKL(), MeanInEval()]))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    module = SampleAndKL()
    fastgen.fuse(module)
    mu, logvar = torch.randn(3, 4, dtype=dtype), torch.randn(3, 4, dtype=dtype)
    z, divergence = module(mu, logvar)
    assert z.dtype == divergence.dtype == dtype
    assert_parity(divergence, SampleAndKL()(mu, logvar)[1], SampleAndKL()(mu.double(), logvar.double())[1])
