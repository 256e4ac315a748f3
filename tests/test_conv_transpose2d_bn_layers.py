"""ConvTranspose2dBatchNorm and chains of it, against the torch modules that they consist of."""

import copy
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgen.nn import ConvTranspose2dBatchNorm, ConvTranspose2dChain
from fastgen.ops.conv_transpose2d_bn import Deferred, conv_transpose2d_bn
from ops import assert_raises, assert_runs, ops_run
from parity import assert_parity
from transposed import APPLY, FINALIZE, FOLD, NAMES, OP


def generator(z: int = 10, width: int = 4, activation: Any = nn.ReLU, **batch_norm: Any) -> nn.Sequential:
    """DCGAN's, for 32 × 32; its second layer has as many channels in as out."""
    layers: list[nn.Module] = []
    for i, (I, O) in enumerate(((z, 2 * width), (2 * width, 2 * width), (2 * width, width))):
        geometry = (4, 1, 0) if i == 0 else (4, 2, 1)
        layers += [nn.ConvTranspose2d(I, O, *geometry, bias=i == 1), nn.BatchNorm2d(O, **batch_norm), activation()]
    layers += [nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh()]
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d) and layer.affine:
            nn.init.normal_(layer.weight, 1.0, 0.2)
            nn.init.normal_(layer.bias, 0.0, 0.2)
    return nn.Sequential(*layers)


def chain_of(plain: nn.Sequential) -> ConvTranspose2dChain:
    """Of copies, with the state_dict of ``plain``."""
    return ConvTranspose2dChain(*copy.deepcopy(plain))


def assert_same_training(plain: nn.Module, fused: nn.Module, x: Tensor, steps: int = 2, ops: Any = None) -> None:
    """Outputs, every gradient and every buffer, as accurate as torch's, step after step.

    ``ops``: what ``fused`` has to run; None: what the layers of a chain run, by the batch or by running statistics.
    """
    exact = copy.deepcopy(plain).double()
    if ops is None:
        norms = [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]
        ops = (OP, FINALIZE if any(bn.training or bn.running_mean is None for bn in norms) else FOLD)
    for _ in range(steps):
        upstream = None
        results = []
        for model, dtype in ((fused, x.dtype), (plain, x.dtype), (exact, torch.float64)):
            leaf = x.detach().to(dtype).requires_grad_()
            with ops_run() if model is not fused else assert_runs(*ops):
                y = model(leaf)
                upstream = torch.randn_like(y) if upstream is None else upstream
                wanted = [leaf, *(p for p in model.parameters() if p.requires_grad)]
                grads = torch.autograd.grad(y, wanted, upstream.to(dtype))
            scale = upstream.abs().sum()  # a bias before batch norm has no gradient but rounding, on this scale
            results.append([y, *(torch.cat((g.flatten(), scale.to(dtype).view(1))) for g in grads)])
        for one, eager, truth in zip(*results, strict=True):
            assert_parity(one, eager, truth)
        for one, eager, truth in zip(fused.buffers(), plain.buffers(), exact.buffers(), strict=True):
            if one.dtype in (torch.bfloat16, torch.float16):  # of which eager's own are several roundings off
                assert_parity(one, eager, truth)
            else:
                torch.testing.assert_close(one, eager)


@pytest.mark.parametrize("activation", [nn.ReLU, lambda: nn.LeakyReLU(0.2), nn.Tanh, nn.Identity])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_chain_is_the_sequence(activation: Any, layout: torch.memory_format) -> None:
    plain = generator(activation=activation)
    fused = chain_of(plain)
    assert list(fused.state_dict()) == list(plain.state_dict())
    assert_same_training(plain, fused, torch.randn(9, 10, 1, 1))
    for model in (plain, fused):
        model.eval()
    assert_same_training(plain, fused, torch.randn(9, 10, 1, 1))
    y = nn.Sequential(*fused[3:])(torch.randn(2, 8, 4, 4))
    image = ConvTranspose2dChain(*fused[3:])(torch.randn(2, 8, 4, 4).contiguous(memory_format=layout))
    assert image.shape == y.shape
    assert image.is_contiguous(memory_format=layout)


@pytest.mark.parametrize(
    "batch_norm", [{"affine": False}, {"track_running_stats": False}, {"momentum": None}, {"eps": 0.5}]
)
def test_every_kind_of_batch_norm(batch_norm: dict[str, Any]) -> None:
    plain = generator(activation=nn.Tanh, **batch_norm)
    fused = chain_of(plain)
    assert_same_training(plain, fused, torch.randn(9, 10, 1, 1), steps=3)
    plain.eval()
    fused.eval()
    assert_same_training(plain, fused, torch.randn(9, 10, 1, 1), steps=1)


def test_statistics_that_are_no_longer_tracked_stay() -> None:
    """In evaluation they normalise all the same, as torch's."""
    plain = generator(activation=nn.Tanh)
    for layer in plain:
        if isinstance(layer, nn.BatchNorm2d):
            layer.track_running_stats = False
    fused = chain_of(plain)
    for training in (True, False):
        assert_same_training(plain.train(training), fused.train(training), torch.randn(9, 10, 1, 1), steps=1)


def test_geometries_of_modules() -> None:
    plain = nn.Sequential(
        nn.ConvTranspose2d(4, 6, 3, 2, 2, 1, groups=2, dilation=2), nn.BatchNorm2d(6), nn.Tanh(),
        nn.ConvTranspose2d(6, 3, (2, 3), (1, 2), (0, 1)),
    )  # fmt: skip
    fused = chain_of(plain)
    for training in (True, False):
        assert_same_training(plain.train(training), fused.train(training), torch.randn(7, 4, 5, 3))


def test_batch_norm_frozen_while_the_rest_trains() -> None:
    plain = generator(activation=nn.Tanh)
    plain(torch.randn(20, 10, 1, 1))
    plain[4].eval()
    plain[4].weight.requires_grad_(False)
    fused = chain_of(plain)
    assert_same_training(plain, fused, torch.randn(9, 10, 1, 1))


def test_nothing_normalised_is_kept_for_backward() -> None:
    """Between the layers a chain keeps each raw result once, and vectors."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    x = torch.randn(16, 10, 1, 1)
    fused = generator(width=8)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = ConvTranspose2dChain(*fused)(x)
    weights = {p.untyped_storage().data_ptr() for p in fused.parameters()}
    images = sorted(n for pointer, n in kept.items() if pointer not in weights and n >= 16 * 16 * 16)
    assert images == sorted([16 * 16 * 16, 16 * 16 * 64, 16 * 8 * 256, y.numel()])


def test_layer_is_the_two_modules() -> None:
    torch.manual_seed(3)
    unusual = {"eps": 0.5, "momentum": 0.3}
    plain = nn.Sequential(nn.ConvTranspose2d(6, 6, 4, 2, 1, bias=False), nn.BatchNorm2d(6, **unusual))
    torch.manual_seed(3)
    layer = ConvTranspose2dBatchNorm(6, 6, 4, 2, 1, activation="relu", **unusual)
    assert {k: v.tolist() for k, v in layer.state_dict().items()} == {
        k: v.tolist() for k, v in plain.state_dict().items()
    }
    layer.load_state_dict(plain.state_dict())
    plain.append(nn.ReLU())
    assert_same_training(plain, layer, torch.randn(7, 6, 5, 5), ops=())  # torch's own: nothing defers it
    last = nn.ConvTranspose2d(6, 2, 2)
    chain = ConvTranspose2dChain(layer, copy.deepcopy(last))
    assert_same_training(nn.Sequential(*plain, last), chain, torch.randn(7, 6, 5, 5))
    assert "activation='relu'" in repr(layer)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_vectors_may_have_another_dtype(dtype: torch.dtype, device: str) -> None:
    x, weight = torch.randn(3, 6, 5, 3, device=device), torch.randn(6, 10, 4, 4, device=device)
    vectors = [torch.ones(10, device=device, dtype=dtype), torch.zeros(10, device=device, dtype=dtype)]
    ops = [NAMES.batch_norm_train.default] if device == "cpu" else [FINALIZE, APPLY]
    with assert_runs(OP, *ops, backward=False):
        y, plain = (
            conv_transpose2d_bn(x, weight, None, *given, None, None, training=True, stride=2, padding=1)
            for given in (vectors, (None, None))
        )
    torch.testing.assert_close(y, plain)


def test_layers_hand_each_other_what_is_not_normalised_yet() -> None:
    layers = [ConvTranspose2dBatchNorm(5, 5, 4, 2, 1, activation="relu") for _ in range(2)]
    x = torch.randn(7, 5, 3, 3)
    handle = layers[0](x, deferred=True)
    assert isinstance(handle, Deferred)
    torch.testing.assert_close(handle.materialize(), copy.deepcopy(layers[0])(x))
    torch.testing.assert_close(layers[1](handle), copy.deepcopy(layers[1])(layers[0](x)))
    for layer in layers:
        layer.eval()
    assert isinstance(layers[0](x, deferred=True), Tensor)


def test_from_modules_shares_them() -> None:
    conv, bn = nn.ConvTranspose2d(4, 6, 4, 2, 1), nn.BatchNorm2d(6)
    layer = ConvTranspose2dBatchNorm.from_modules(conv, bn, nn.LeakyReLU(0.3))
    assert (layer[0], layer[1], layer.activation, layer.negative_slope) == (conv, bn, "leaky_relu", 0.3)
    plain = nn.Sequential(conv, bn, nn.LeakyReLU(0.3))
    torch.testing.assert_close(copy.deepcopy(layer)(torch.ones(2, 4, 3, 3)), plain(torch.ones(2, 4, 3, 3)))
    with torch.no_grad():
        conv.weight.data.mul_(2)  # not seen by version counters: nothing may have been kept
    bn.eval()
    torch.testing.assert_close(layer(torch.ones(2, 4, 3, 3)), plain(torch.ones(2, 4, 3, 3)))
    make = ConvTranspose2dBatchNorm.from_modules
    assert_raises(
        [
            (lambda: make(conv, bn, nn.GELU()), TypeError, "activation: expected ReLU, .* got GELU"),
            (lambda: make(conv, nn.BatchNorm2d(4)), ValueError, "bn: expected the 6 channels of conv, got 4"),
            (lambda: ConvTranspose2dBatchNorm(4, 4, 4, activation="elu"), ValueError, "activation: expected one of"),
        ]
    )


@pytest.mark.parametrize("training", [True, False])
def test_compile(training: bool) -> None:
    fused = chain_of(generator()).train(training)
    other = copy.deepcopy(fused)
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 10, 1, 1)
    compiled(x).square().sum().backward()
    with assert_runs(OP, FINALIZE if training else FOLD):
        other(x).square().sum().backward()
    assert torch.equal(compiled(x), other(x))
    for one, two in zip(fused.parameters(), other.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)
    assert all(torch.equal(a, b) for a, b in zip(fused.buffers(), other.buffers(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes_of_modules(dtype: torch.dtype) -> None:
    plain = generator(activation=nn.Tanh).to(dtype)
    assert_same_training(plain, chain_of(plain), torch.randn(9, 10, 1, 1, dtype=dtype), steps=1)


def test_autocast() -> None:
    plain = generator(activation=nn.Tanh)
    fused, exact, x = chain_of(plain), copy.deepcopy(plain).double(), torch.randn(9, 10, 1, 1)
    for training in (True, False):
        for model in (plain, fused, exact):
            model.train(training)
        with torch.autocast("cpu", torch.bfloat16):
            y, eager = fused(x), plain(x)
        assert_parity(y, eager, exact(x.double()))


def test_as_many_channels_in_as_out_fold_along_the_right_ones() -> None:
    """Where torch.compile's freezing scales the input channels instead."""
    layer = ConvTranspose2dBatchNorm(8, 8, 4, 2, 1, activation="relu")
    layer(torch.randn(20, 8, 5, 5))
    nn.init.normal_(layer[1].weight)
    layer.eval()
    x = torch.randn(3, 8, 5, 5)
    exact = copy.deepcopy(layer).double()
    assert_parity(layer(x), torch.relu(layer[1](layer[0](x))), torch.relu(exact[1](exact[0](x.double()))))


def test_a_weight_is_folded_as_its_convolution_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Winograd's form takes it as it is; torch's convolutions want their channels together."""
    module = sys.modules["fastgen.ops.conv_transpose2d_bn"]
    plain, layouts = module.conv_transpose2d, []

    def look(x: Tensor, convolution: Any, *options: Any) -> Tensor:
        layouts.append(convolution.weight.is_contiguous())
        return plain(x, convolution, *options)  # type: ignore[no-any-return]

    monkeypatch.setattr(module, "conv_transpose2d", look)
    for kernel, stride in ((4, 2), (3, 1)):
        layer = ConvTranspose2dBatchNorm(64, 32, kernel, stride, 1).eval()
        layer[1].running_var.uniform_(0.5, 2.0)  # type: ignore[operator]
        x = torch.randn(8, 64, 16, 16)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), layer[1](layer[0](x)), atol=1e-5, rtol=1e-5)
    assert layouts == [True, False]
