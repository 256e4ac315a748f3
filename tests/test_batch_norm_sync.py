"""Statistics across processes: two of them, with uneven parts of a batch, are one process with the whole batch."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastgen.nn import ConvTranspose2dBatchNorm, ConvTranspose2dChain, SyncBatchNorm
from fastgen.ops import batch_norm_activation
from ops import assert_runs
from parity import assert_parity
from transposed import OP

SCRIPT = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, {tests!r})
from fastgen.training.distributed import leave
from test_batch_norm_sync import run
torch.set_num_threads(1)
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://{folder}/meeting", rank=rank, world_size=2)
given, firsts = torch.load("{folder}/given.pt", weights_only=False), {firsts}
torch.save({{first: run(*given, first, rank) for first in firsts}}, "{folder}/" + sys.argv[1])
dist.destroy_process_group()
leave(0)
"""


class Alone(nn.BatchNorm2d):
    """A batch norm after what is no convolution of ours; nothing normalises the layer's result before on its load."""

    def forward(self, x: Tensor) -> Tensor:
        group = dist.group.WORLD if dist.is_initialized() else None
        return batch_norm_activation(
            x, self.weight, self.bias, self.running_mean, self.running_var, training=True, activation="tanh",
            process_group=group,
        )  # fmt: skip


def chain(synchronised: bool) -> ConvTranspose2dChain:
    """The same modules in both; with torch's own batch norm where nobody else has a part."""
    layers = []
    for I, O, geometry in ((5, 6, (4, 1, 0)), (6, 6, (4, 2, 1))):
        bn = (nn.SyncBatchNorm if synchronised else nn.BatchNorm2d)(O)
        layers.append(ConvTranspose2dBatchNorm.from_modules(nn.ConvTranspose2d(I, O, *geometry), bn, "tanh"))
    flat = nn.Sequential(nn.Flatten(2), nn.BatchNorm1d(6), nn.Unflatten(2, (8, 8)))
    layers += [SyncBatchNorm.convert_sync_batchnorm(flat) if synchronised else flat]
    return ConvTranspose2dChain(*layers, Alone(6), nn.ConvTranspose2d(6, 3, 4, 2, 1), nn.Tanh())


def run(state: dict[str, Tensor], x: Tensor, upstream: Tensor, first: int, rank: int) -> list[Tensor]:
    """Of this process: its part of the batch ends, or starts, at sample ``first``."""
    model = chain(True)
    model.load_state_dict(state)
    part = slice(0, first) if rank == 0 else slice(first, None)
    with assert_runs(OP):
        return results(model, x[part], upstream[part])


def results(model: nn.Module, x: Tensor, upstream: Tensor) -> list[Tensor]:
    leaf = x.detach().requires_grad_()
    y = model(leaf)
    grads = torch.autograd.grad(y, [leaf, *model.parameters()], upstream)
    return [y.detach(), *grads, *(b for b in model.buffers() if b.is_floating_point())]


FIRSTS = (3, 1, 0)
"""The first sample of the second process: the parts are uneven, and one is empty."""


def whole() -> tuple[nn.Module, Tensor, Tensor]:
    """Model, batch and gradients, the same at each call."""
    torch.manual_seed(0)
    return chain(False), torch.randn(7, 5, 1, 1), torch.randn(7, 3, 16, 16)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[int, list[Tensor]]]:
    """The results of both processes, by the first sample of the second."""
    folder = tmp_path_factory.mktemp("two")
    model, *batch = whole()
    torch.save((model.state_dict(), *batch), folder / "given.pt")
    script = SCRIPT.format(tests=str(Path(__file__).parent), folder=folder, firsts=FIRSTS)
    environment = os.environ | {"WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen([sys.executable, "-c", script, str(rank)], cwd=Path(__file__).parent.parent, env=environment)
        for rank in (0, 1)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    return [torch.load(folder / str(rank)) for rank in (0, 1)]


@pytest.mark.parametrize("first", FIRSTS)
def test_two_processes_are_one_with_the_whole_batch(first: int, two: list[dict[int, list[Tensor]]]) -> None:
    model, x, upstream = whole()
    exact = results(copy.deepcopy(model).double(), x.double(), upstream.double())
    eager = results(model, x, upstream)
    parameters = len(list(model.parameters()))
    scale = upstream.abs().sum()  # a bias before batch norm has no gradient but rounding, on this scale
    for i, (a, b, plain, truth) in enumerate(zip(*(rank[first] for rank in two), eager, exact, strict=True)):
        if i < 2:  # of the samples
            assert_parity(torch.cat((a, b)), plain, truth)
        elif i < 2 + parameters:
            together, plain, truth = (
                torch.cat((g.flatten(), scale.to(g.dtype).view(1))) for g in (a + b, plain, truth)
            )
            assert_parity(together, plain, truth)
        else:
            assert torch.equal(a, b)
            torch.testing.assert_close(a, plain)


def test_alone_it_is_batch_norm() -> None:
    """Without a process group, and in a group of one, ``SyncBatchNorm`` has nobody to ask."""
    plain = chain(False)
    model = chain(True)
    model.load_state_dict(plain.state_dict())
    x, upstream = torch.randn(7, 5, 1, 1), torch.randn(7, 3, 16, 16)
    assert not dist.is_initialized()
    for one, two in zip(results(model, x, upstream), results(plain, x, upstream), strict=True):
        assert torch.equal(one, two)


def test_batch_norms_are_converted_in_place() -> None:
    """Parameters, buffers, names and modes are the same; a layer in two places stays one; alone, nothing changes."""
    shared = nn.BatchNorm2d(4, momentum=None, eps=1e-3)
    module = nn.Sequential(shared, nn.Sequential(nn.SyncBatchNorm(4), shared), nn.BatchNorm1d(3, affine=False).eval())
    before, weights, x = module.state_dict(), [*module.parameters()], torch.randn(3, 4, 2, 2)
    plain = copy.deepcopy(module)
    assert SyncBatchNorm.convert_sync_batchnorm(module) is module
    assert [type(layer) for layer in (module[0], module[1][0], module[2])] == [SyncBatchNorm] * 3
    assert module[1][1] is module[0]
    assert not module[2].training
    assert all(map(torch.equal, before.values(), module.state_dict().values()))
    assert before.keys() == module.state_dict().keys()
    assert all(one is other for one, other in zip(weights, module.parameters(), strict=True))
    for training in (True, False):
        one, other = (each.train(training) for each in (module[:2], plain[:2]))
        assert torch.equal(one(x), other(x))
        assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))
    assert type(SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm2d(2))) is SyncBatchNorm
    with pytest.raises(TypeError, match="module: expected a module, got 3"):
        SyncBatchNorm.convert_sync_batchnorm(3)
    with pytest.raises(ValueError, match=r"x: expected \(N, C, …\), got \(4,\)"):
        module[0](torch.zeros(4))
