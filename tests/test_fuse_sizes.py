"""fuse: on a CPU, calls too small to pay run as they did before; the rule is told."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastgen
from fastgen.fusing import masked_conv, reparameterize, worth
from fastgen.nn import sequence
from fusable import ByData, ByProduct, Generator, Reparameterize, SampleAndKL


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ops that fused modules ran."""
    names: list[str] = []

    def spy(module: object, name: str) -> None:
        own: Callable[..., object] = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, **options: names.append(name) or own(*args, **options))

    spy(masked_conv, "masked_conv2d")
    spy(sequence, "run_conv_transpose2d_bn")
    spy(reparameterize, "draw")
    return names


def test_a_masked_convolution(ran: list[str]) -> None:
    """2^27 multiplications: 8 images of 64 by 64, 64 channels into 64 with one tap."""
    layer, relu = ByProduct("B", 64, 64, 1), nn.ReLU()
    plain = copy.deepcopy(layer)
    fastgen.fuse(layer)
    ran.clear()  # of the trials
    large = torch.randn(8, 64, 64, 64)
    with torch.no_grad():
        assert torch.equal(layer(large[:, :, 1:]), plain(large[:, :, 1:]))
        assert ran == []
        torch.testing.assert_close(layer(large), plain(large))
        assert ran == ["masked_conv2d"]
        model = nn.Sequential(plain, relu)
        fastgen.fuse(model)
        ran.clear()
        model(large[:1])
        assert ran == []
        model(large)
        assert ran == ["masked_conv2d"]


def test_a_small_one_writes_its_mask() -> None:
    layer = ByData("A", 16, 16, 3, padding=1)
    fastgen.fuse(layer)
    layer(torch.randn(1, 16, 4, 4))
    assert (layer.weight * (1 - layer.mask)).eq(0).all()


def test_a_chain(ran: list[str]) -> None:
    """Its first layer gives N × 32 × 4 × 4 values: 2^17 of them with a batch of 256, 2^18 with 512.

    In float32 with gradients torch's batch norm is the faster one at every size.
    """
    fused = Generator(nz=8, ngf=4, nc=1)
    plain = copy.deepcopy(fused)
    fastgen.fuse(fused)

    def inputs(n: int) -> Tensor:
        return torch.randn(n, 8, 1, 1)

    fused.main = fused.main[:3]
    plain.main = plain.main[:3]
    for model in (fused, plain):
        model.eval()
    with torch.no_grad():
        x = inputs(255)
        assert torch.equal(fused(x), plain(x))
        assert ran == []
        fused(inputs(256))
        assert len(ran) == 1
    fused.train()(inputs(512))
    fused.double()(inputs(511).double())
    assert len(ran) == 1
    fused(inputs(512).double())
    assert len(ran) == 2


@pytest.mark.parametrize("make", [Reparameterize, SampleAndKL])
def test_a_sampling_layer(make: type[nn.Module], ran: list[str]) -> None:
    """Of z alone from 2^13 values on and without gradients; with its KL divergence always."""
    module = make()
    fastgen.fuse(module)
    small, large = torch.randn(4, 3), torch.randn(64, 128)
    counts = []
    for x in (small, large, large.clone().requires_grad_()):
        module(x, x)
        counts.append(len(ran))
    assert counts == ([0, 1, 1] if make is Reparameterize else [1, 2, 3])


def test_a_compiled_program_has_the_op_at_every_size() -> None:
    layer = ByProduct("B", 16, 16, 3, padding=1)
    fastgen.fuse(layer)
    program = torch.export.export(layer, (torch.randn(2, 16, 4, 4),))
    assert "fastgen.masked_conv2d" in program.graph_module.code


def test_small_layers_are_left_on_a_cpu() -> None:
    model = nn.ModuleDict({
        "masked": nn.Sequential(ByProduct("B", 15, 16, 3, padding=1), nn.ReLU()),
        "transposed": nn.Sequential(nn.ConvTranspose2d(15, 16, 4), nn.BatchNorm2d(16), nn.ReLU()),
        "mixed": nn.Sequential(nn.ConvTranspose2d(15, 16, 4), nn.ReLU(), nn.ConvTranspose2d(16, 16, 4), nn.ReLU()),
    })  # fmt: skip
    report = fastgen.fuse(model)
    assert [each.path for each in report.swapped] == ["mixed.0, mixed.1", "mixed.2, mixed.3"]
    assert [(each.path, "it is small (below" in each.reason) for each in report.left] == [
        ("masked.0", True), ("transposed.0", True),
    ]  # fmt: skip
    assert type(model["masked"]) is nn.Sequential
    assert type(model["transposed"]) is nn.Sequential


def test_the_report_tells_the_rule() -> None:
    report = fastgen.fuse(Generator())
    assert str(report).splitlines()[-1] == worth.RULE
    assert worth.RULE not in str(fastgen.fuse(nn.ReLU()))


EXPORTED: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "a mask times a weight": (ByProduct("B", 32, 32, 3, padding=1), (32, 5, 6)),
    "DCGAN": (Generator(10, 16), (10, 1, 1)),
    "a method that samples": (SampleAndKL(), (5,)),
}


def ops_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> set[str]:
    sizes = tuple({0: torch.export.Dim("N", min=2)} for _ in inputs)
    graph = torch.export.export(model, inputs, dynamic_shapes=sizes).graph
    return {str(node.target) for node in graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("what", EXPORTED)
def test_onnx_has_no_such_ops_and_gets_the_torch_they_stand_for(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, shape = EXPORTED[what]
    model = copy.deepcopy(model).eval()
    assert fastgen.fuse(model).swapped
    inputs = tuple(torch.randn(3, *shape) for _ in range(1 + isinstance(model, SampleAndKL)))
    assert any("fastgen" in op for op in ops_of(model, inputs))
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    assert not any("fastgen" in op for op in ops_of(model, inputs))
