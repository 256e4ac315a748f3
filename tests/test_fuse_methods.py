"""fuse: the sampling step as a method of the model, as every public VAE has it; and what is told of the rest."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastgen
from fastgen.nn import GaussianRSample


class VAE(nn.Module):
    """As in PyTorch's examples."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(12, 8)
        self.fc21, self.fc22 = nn.Linear(8, 5), nn.Linear(8, 5)
        self.fc3 = nn.Linear(5, 12)
        self.temperature = 1.0

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.fc1(x))
        return self.fc21(h), self.fc22(h)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        eps = torch.randn_like(std)
        return mu + eps * std

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encode(x)
        z = self.reparameterize(mu, logvar)
        return torch.sigmoid(self.fc3(z)), mu, logvar


class MeanInEval(VAE):
    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        if not self.training:
            return mu
        return torch.normal(0.0, 1.0, mu.shape) * logvar.mul(0.5).exp_() * self.temperature + mu


class Keywords(VAE):
    def sample_z(self, z_mean: Tensor, z_log_var: Tensor, repeat: int = 1) -> Tensor:
        eps = z_mean.new_empty(z_mean.shape).normal_()
        return z_mean * repeat + eps * torch.exp(z_log_var / 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encode(x)
        return torch.sigmoid(self.fc3(self.sample_z(z_log_var=logvar, z_mean=mu))), mu, logvar


class Inherited(MeanInEval):
    pass


METHODS = {VAE: "reparameterize", MeanInEval: "reparameterize", Keywords: "sample_z", Inherited: "reparameterize"}


def results(model: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(3)
    y, mu, logvar = model(x)
    return [y, mu, logvar, *torch.autograd.grad((y.sum() + mu.sum() + logvar.sum()), list(model.parameters()))]


def formula(model: VAE, x: Tensor) -> list[Tensor]:
    """The model's forward with the op in the place of its method."""
    torch.manual_seed(3)
    mu, logvar = model.encode(x)
    y = torch.sigmoid(model.fc3(GaussianRSample()(mu, logvar)[0]))
    return [y, mu, logvar, *torch.autograd.grad((y.sum() + mu.sum() + logvar.sum()), list(model.parameters()))]


@pytest.mark.parametrize("make", METHODS)
def test_the_method_is_swapped(make: type[VAE]) -> None:
    """Results and gradients are those of the op; the modes that were not proven, other arguments and undo() its own."""
    model = make()
    plain = copy.deepcopy(model)
    report = fastgen.fuse(model)
    assert (METHODS[make], "rsample_kl, z alone") in [(entry.path, entry.now) for entry in report.swapped]
    assert report.left == []
    x = torch.randn(4, 12)
    for twin in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(map(torch.equal, results(twin, x), formula(model, x)))
    for each in (model, plain):
        each.eval()
    if issubclass(make, MeanInEval):
        assert all(map(torch.equal, results(model, x), results(plain, x)))
    report.undo()
    assert type(model) is make
    assert all(map(torch.equal, results(model.train(), x), results(plain.train(), x)))


def test_numbers_and_arguments_that_were_not_proven() -> None:
    model, plain = MeanInEval(), Keywords()
    mu = torch.randn(3, 5)
    for each in (model, plain):
        fastgen.fuse(each)
    model.temperature = 0.0
    assert torch.equal(model.reparameterize(mu, mu), mu)
    assert plain.sample_z(mu, mu, 1).shape == mu.shape
    assert plain.sample_z(mu[:1], mu).shape == mu.shape  # shapes that differ: as it was written


def test_a_model_is_compiled_and_exported() -> None:
    model = VAE()
    fastgen.fuse(model)
    x = torch.randn(4, 12)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert compiled(x)[0].shape == x.shape
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("N")},)).module()
    for N in (1, 2, 7):
        x = torch.randn(N, 12)
        torch.testing.assert_close(program(x)[1:], model(x)[1:])
        torch.manual_seed(1)
        ours = program(x)[0]
        torch.manual_seed(1)
        torch.testing.assert_close(ours, model(x)[0])


LEFT: dict[str, tuple[Callable[..., Tensor], str]] = {
    "sigma": (lambda s, mu, sigma: mu + sigma * torch.randn_like(mu), "its z is not that of"),
    "a layer": (lambda s, mu, logvar: s.fc3(mu + torch.randn_like(mu)), "it reads self.fc3, which is more than"),
    "a tensor": (lambda s, mu, logvar: mu + torch.randn_like(mu) * s.ones, "it reads self.ones"),
    "kept": (lambda s, mu, logvar: setattr(s, "z", torch.randn_like(mu)) or s.z, "it writes self.z"),
    "uniform": (lambda s, mu, logvar: mu + torch.rand_like(mu) + torch.randn_like(mu), "drawn by aten.rand_like"),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_left(case: str) -> None:
    method, reason = LEFT[case]
    make = type("Model", (VAE,), {"reparameterize": method})
    model = make()
    model.ones = torch.ones(1)
    report = fastgen.fuse(model)
    assert report.swapped == []
    (left,) = report.left
    assert (left.path, left.what) == ("reparameterize", "method of Model")
    assert reason in left.reason
    assert type(model) is make


def test_methods_that_mean_something_else_are_not_spoken_of() -> None:
    def q_sample(self: nn.Module, x: Tensor, t: Tensor) -> Tensor:
        return self.fc3.weight[t] * x + torch.randn_like(x)

    def sample(self: nn.Module, count: int, device: str) -> Tensor:
        return torch.randn(count, 5, device=device)

    model = type("Model", (VAE,), {"reparameterize": None, "q_sample": q_sample, "sample": sample})()
    report = fastgen.fuse(model)
    assert report.swapped == report.left == []


def test_what_is_alike_is_told_in_one_line() -> None:
    """Weight-normed plain convolutions were never masked; layers that upsample, and batch norms, are told together."""
    layers = [nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 3)) for _ in range(6)]
    model = nn.Sequential(*layers)
    model(torch.randn(1, 2, 20, 20))  # leaves tensors in them that cannot be copied
    assert fastgen.fuse(model).left == []
    block = (nn.Upsample(scale_factor=2), nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2))
    report = fastgen.fuse(nn.Sequential(*(copy.deepcopy(each) for _ in range(6) for each in block)))
    assert [each.what for each in report.left].count("Upsample") == 6
    assert [each.what for each in report.left].count("BatchNorm2d") == 6
    assert [each.what for each in report.left].count("Conv2d") == 6
    assert len(report.left) == 18
    for word, paths in (("upsamples", "0, 3, 6 and 3 more"), ("follows a Conv2d", "2, 5, 8 and 3 more")):
        (line,) = [line for line in str(report).splitlines() if word in line]
        assert line.startswith(paths)
