"""Batch norms with their activation in sequences: chains, and what ``fuse`` makes of an nn.Sequential."""

import copy
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import fastgen
from fastgen.nn import Conv2dChain
from ops import ops_run
from parity import channels_last, contiguous

TRAINED, RUNNING = {"batch_norm_train", "batch_norm_track"}, {"batch_norm_running"}
ACTIVATIONS = (nn.ReLU(), nn.LeakyReLU(0.2), nn.LeakyReLU(0.2, inplace=True), nn.Tanh(), nn.Sigmoid())
#: Large enough in either layout.
SIZE = (16, 64, 16, 17)


def made(plain: nn.Sequential) -> list[nn.Module]:
    fused = copy.deepcopy(plain)
    assert fastgen.fuse(fused).swapped
    return [fused, Conv2dChain(*copy.deepcopy(plain))]


def results(model: nn.Module, x: Tensor) -> list[Tensor]:
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = model(leaf)
    grads = torch.autograd.grad(y.sin().sum(), [leaf, *model.parameters()])
    return [y.detach(), *grads, *model.buffers()]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_it_runs_in_one_op(activation: nn.Module, layout: Any) -> None:
    """Values, gradients, running statistics and layouts are those of the two modules, in training and without."""
    plain = nn.Sequential(nn.BatchNorm2d(64), activation)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.uniform_(-1, 1)
    x = layout(torch.randn(*SIZE))
    for model in made(plain):
        known = not isinstance(activation, nn.Sigmoid)
        called = mock.patch.object(type(activation), "forward", side_effect=AssertionError)
        twin = copy.deepcopy(plain)
        expected = results(twin, x)
        with called if known else mock.patch.object(nn.BatchNorm2d, "forward", side_effect=AssertionError):
            with ops_run() as ran:
                found = results(model, x)
            assert ran >= TRAINED
            model.eval()
            with torch.no_grad(), ops_run() as ran:
                evaluated = model(x)
            assert ran == RUNNING
        for one, other in zip(found, expected, strict=True):
            assert one.stride() == other.stride()
            torch.testing.assert_close(one, other, atol=2e-4, rtol=2e-4)
        with torch.no_grad():
            torch.testing.assert_close(evaluated, twin.eval()(x), atol=1e-5, rtol=1e-5)
        with ops_run() as ran:  # with gradients, by running statistics: torch's
            model(x)
        assert not ran


def test_dtypes() -> None:
    """As torch takes them: halves beside vectors in float32, in channels_last; others raise what torch raises."""
    plain = nn.Sequential(nn.BatchNorm2d(64), nn.ReLU())
    x = channels_last(torch.randn(*SIZE))
    for model in made(plain):
        for dtype, vectors in ((torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16),
                               (torch.float64, torch.float64), (torch.float16, torch.float32)):  # fmt: skip
            with ops_run() as ran:
                found = copy.deepcopy(model).to(vectors)(x.to(dtype))
            assert ran == TRAINED
            assert found.dtype == dtype
            torch.testing.assert_close(found.float(), plain(x).detach(), atol=3e-2, rtol=3e-2)
        with ops_run() as ran:
            model(contiguous(x).bfloat16())
        assert not ran
        for dtype, vectors in ((torch.float32, torch.float64), (torch.float64, torch.float32)):
            for each in (model, plain):
                with pytest.raises(RuntimeError), ops_run() as ran:
                    copy.deepcopy(each).to(vectors)(x.to(dtype))
                assert not ran


def test_where_torchs_runs() -> None:
    """Small images, cumulative averages, transforms, other sizes, norms that somebody watches, a packed image."""
    plain = nn.Sequential(nn.BatchNorm2d(64), nn.ReLU())
    x = channels_last(torch.randn(*SIZE))
    for model in made(plain):
        with ops_run() as ran:
            model(channels_last(x[:2]))
            model(x[:0])
            torch.func.jvp(copy.deepcopy(model).eval(), (x,), (x,))
            for wrong in (x[:, :3], x[0]):
                with pytest.raises((ValueError, RuntimeError)):
                    model(wrong)
            averaged = copy.deepcopy(model)
            averaged[0].momentum = None
            averaged(x)
            watched = copy.deepcopy(model)
            watched[0].register_forward_hook(lambda *_: None)
            watched(x)
        assert not ran
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            model(torch.randn(1, 64, 1, 1))
        model[1].register_forward_hook(lambda *_: None)  # type: ignore[operator]
        with ops_run() as ran:
            y = model(x)
        assert ran == TRAINED
        assert y.min() == 0
        untracked = nn.Sequential(nn.BatchNorm2d(64, track_running_stats=False), nn.ReLU()).eval()
        with ops_run() as ran:
            found = Conv2dChain(*untracked)(x)
        assert ran == {"batch_norm_train"}
        torch.testing.assert_close(found, untracked(x), atol=1e-5, rtol=1e-5)


def test_what_is_put_beside_the_parameters() -> None:
    """As ``bn.weight`` finds it, before what is registered."""
    plain, x = nn.Sequential(nn.BatchNorm2d(64), nn.ReLU()).eval(), torch.randn(*SIZE)
    for model in (plain, *made(plain)):
        bn = next(each for each in model.modules() if isinstance(each, nn.BatchNorm2d))
        bn.__dict__["weight"] = torch.full((64,), 3.0)
        with torch.no_grad():
            torch.testing.assert_close(model(x), plain(x), atol=1e-5, rtol=1e-5)


def test_what_fuse_looks_at() -> None:
    for width, swapped in ((15, 0), (16, 1)):
        assert len(fastgen.fuse(nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())).swapped) == swapped
    assert not fastgen.fuse(nn.Sequential(nn.BatchNorm2d(64, device="meta"), nn.ReLU())).swapped
    assert not fastgen.fuse(nn.Sequential(nn.BatchNorm1d(64), nn.ReLU())).swapped


def test_compiled() -> None:
    plain = nn.Sequential(nn.BatchNorm2d(64), nn.LeakyReLU(0.2))
    x = channels_last(torch.randn(*SIZE))
    for model in made(plain):
        twin = copy.deepcopy(plain)
        run = torch.compile(model, fullgraph=True, backend="aot_eager")
        with ops_run() as ran:
            found, expected = results(run, x), results(twin, x)
        assert ran >= {"batch_norm_train", "batch_norm_train_backward"}
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=2e-4, rtol=2e-4)
