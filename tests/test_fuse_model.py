"""fuse: a fused model is the model it was: state, copies, files, devices, compilation, DDP, and the way back."""

import copy
import io
import pickle
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

import fastgen
from fastgen.fusing import swap
from fastgen.training.distributed import leave
from fusable import (
    ByData,
    ByProduct,
    DirectGenerator,
    Generator,
    MeanInEval,
    PixelCNN,
    SampleAndKL,
    assert_same_results,
    parametrized,
)
from sizes import fuse_at_every_size


class Model(nn.Module):
    """One of each: the input goes through masked convolutions, a sampling layer, and two generators."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = PixelCNN(ByData)
        self.product = ByProduct("B", 3, 3, 3, padding=1)
        self.sample = SampleAndKL()
        self.mean = MeanInEval()
        self.generator = Generator(ngf=2)
        self.direct = DirectGenerator(ngf=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.product(self.pixels(x)).mean((2, 3))
        z, kl = self.sample(h.repeat(1, 4)[:, :10], 0 * h.repeat(1, 4)[:, :10])
        z = self.mean(z, -20 + z)
        return self.generator(z[:, :, None, None]) + self.direct(z), kl


def images(batch: int = 3) -> Tensor:
    return torch.randn(batch, 1, 6, 7)


def results(model: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    y, kl = model(x)
    return [y, kl, *torch.autograd.grad(y.square().sum() + kl.sum(), list(model.parameters()))]


def assert_equal(one: list[Tensor], two: list[Tensor]) -> None:
    assert len(one) == len(two)
    assert all(map(torch.equal, one, two))


@pytest.fixture
def fused() -> nn.Module:
    model = Model()
    report = fastgen.fuse(model)
    assert [entry.reason for entry in report.left] == []
    return model


def test_nothing_is_written_into_the_model() -> None:
    model = Model()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = [(type(m), dict(vars(m)), list(m._parameters.items()), list(m._buffers.items())) for m in model.modules()]
    parameters = list(model.parameters())
    report = fastgen.fuse(model)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
    for module, (own, attributes, *_) in zip(model.modules(), before, strict=True):
        assert isinstance(module, own)
        assert type(module).__name__ == own.__name__
        assert vars(module) == attributes
    assert isinstance(model.product, nn.Conv2d)
    assert [type(module) for module in model.modules()] != [own for own, *_ in before]
    report.undo()
    assert [type(module) for module in model.modules()] == [own for own, *_ in before]
    report.undo()
    assert "[fused]" not in repr(model)


def test_undone_it_computes_what_it_did() -> None:
    model = Model()
    twin = copy.deepcopy(model)
    fastgen.fuse(model).undo()
    x = images()
    assert_equal(results(model, x), results(twin, x))


def test_a_second_call_swaps_nothing(fused: nn.Module) -> None:
    classes = [type(module) for module in fused.modules()]
    again = fastgen.fuse(fused)
    assert again.swapped == []
    assert {entry.reason for entry in again.left} == {"it is fused already"}
    assert str(again).startswith("nothing was swapped")
    again.undo()
    assert [type(module) for module in fused.modules()] == classes


def test_parts_first_then_the_whole() -> None:
    model = Model()
    first = fastgen.fuse(model.generator)
    assert "generator.main" in {entry.path for entry in fastgen.fuse(model).left}
    first.undo()
    assert "[fused]" not in repr(model.generator)
    assert fastgen.unfuse(model) != []


def round_trip(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": round_trip,
}


@pytest.mark.parametrize("how", COPIES)
def test_copies_are_fused_and_their_own(fused: nn.Module, how: str) -> None:
    twin = COPIES[how](fused)
    x = images()
    assert repr(twin) == repr(fused)
    assert_equal(results(twin, x), results(fused, x))
    with torch.no_grad():
        twin.direct.deconv1.weight.zero_()
    assert not torch.equal(results(twin, x)[0], results(fused, x)[0])
    assert len(fastgen.unfuse(twin)) == len(fastgen.unfuse(copy.deepcopy(fused))) == 11
    assert "[fused]" not in repr(twin)
    assert "[fused]" in repr(fused)


def test_a_parametrized_layer_is_copied_and_unfused() -> None:
    layer = parametrized("B", 2, 3, 3, padding=1)
    own = type(layer)
    fastgen.fuse(layer)
    twin = copy.deepcopy(layer)
    x = torch.randn(2, 2, 4, 4)
    assert torch.equal(twin(x), layer(x))
    assert fastgen.unfuse(twin) == [""]
    assert type(twin) is own


def test_state_dicts_before_and_after(fused: nn.Module) -> None:
    plain = Model()
    fused.load_state_dict(plain.state_dict(), strict=True)
    other = Model()
    other.load_state_dict(fused.state_dict(), strict=True)
    assert all(map(torch.equal, other.state_dict().values(), plain.state_dict().values()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_after_fusing(dtype: torch.dtype) -> None:
    """The model is moved and goes on fused; a move by ``to`` makes new buffers, which are compared with the op's."""
    fused, plain = Generator(), Generator()
    plain.load_state_dict(fused.state_dict())
    fastgen.fuse(fused)
    masked = ByProduct("B", 3, 4, 3, padding=1)
    twin = copy.deepcopy(masked)
    fastgen.fuse(masked)
    for module in (fused, plain, masked, twin):
        module.to(dtype)
    if dtype == torch.float64:
        assert_same_results(masked, twin, twin, lambda: torch.randn(2, 3, 4, 5))
    y = fused(torch.randn(2, 10, 1, 1, dtype=dtype))
    assert y.dtype == masked(torch.randn(2, 3, 4, 5, dtype=dtype)).dtype == dtype
    assert bool(y.isfinite().all())


def test_frozen_parameters(fused: nn.Module) -> None:
    fused.requires_grad_(False)
    y, kl = fused(images())
    assert not y.requires_grad
    assert not kl.requires_grad
    fused.generator.requires_grad_(True)
    fused(images())[0].sum().backward()
    assert all((p.grad is not None) == n.startswith("generator") for n, p in fused.named_parameters())


@pytest.mark.parametrize("part", ["pixels", "generator", "direct"])
def test_compile(fused: nn.Module, part: str) -> None:
    module = getattr(fused, part).train(part != "direct")
    compiled = torch.compile(copy.deepcopy(module), fullgraph=True, backend="aot_eager")
    x = images() if part == "pixels" else torch.randn(3, 10, *([1, 1] if part == "generator" else []))
    results = []
    for model in (compiled, module):
        y = model(x)
        results.append([y, *torch.autograd.grad(y.sum(), list(model.parameters())), *model.buffers()])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)


def test_autocast(fused: nn.Module) -> None:
    plain = copy.deepcopy(fused)
    fastgen.unfuse(plain)
    x, z = images(), torch.randn(3, 10)
    for one, two, inputs in ((fused.pixels, plain.pixels, x), (fused.direct, plain.direct, z)):
        with torch.autocast("cpu", torch.bfloat16):
            ours, theirs = one(inputs), two(inputs)
            ours.sum().backward()
        assert ours.dtype == theirs.dtype == torch.bfloat16
        torch.testing.assert_close(ours, theirs, rtol=0.1, atol=0.1)


def worker(rank: int, port: int) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    torch.manual_seed(0)
    fuse_at_every_size()
    gradients = []
    for fuse in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(ByProduct("A", 1, 4, 3, padding=1), nn.ReLU(), *Generator(nz=4, ngf=1).main)
        if fuse:
            assert fastgen.fuse(model).swapped
        parallel = nn.parallel.DistributedDataParallel(model)
        torch.manual_seed(rank)
        for _ in range(2):
            parallel(torch.randn(2, 1, 2, 2)).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)
    everyone = [torch.empty_like(gradients[0][-1]) for _ in range(2)]
    dist.all_gather(everyone, gradients[0][-1])
    assert torch.equal(*everyone)
    dist.destroy_process_group()
    leave(0)


def test_ddp(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("WORLD_SIZE", "2")  # by which a process knows that it is one of several
    mp.spawn(worker, (port,), nprocs=2)


def test_errors() -> None:
    for call in (fastgen.fuse, fastgen.unfuse):
        with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got function"):
            call(images)
    script = torch.jit.trace(nn.ReLU(), torch.ones(1))
    with pytest.raises(TypeError, match=r"model: expected a module in Python, got a .*; fuse before scripting"):
        fastgen.fuse(script)
    layer = ByProduct("B", 2, 3, 3, padding=1)
    fastgen.fuse(layer)
    nn.utils.parametrizations.weight_norm(layer)
    with pytest.raises(ValueError, match="expected modules with the classes that fuse gave them, got model of class"):
        fastgen.unfuse(layer)


def test_all_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that cannot be given takes all others back."""
    model = nn.Sequential(ByProduct("A", 1, 2, 3, padding=1), nn.Sequential(*Generator().main))
    classes = [type(module) for module in model.modules()]
    made = swap.make_class

    def last_fails(base: type, kind: type, spec: object, **members: object) -> type:
        return object if base is nn.Sequential else made(base, kind, spec, **members)

    monkeypatch.setattr(swap, "make_class", last_fails)
    monkeypatch.setattr(swap, "_CLASSES", {})  # what the plant makes is not for later tests
    with pytest.raises(TypeError):
        fastgen.fuse(model)
    assert [type(module) for module in model.modules()] == classes
