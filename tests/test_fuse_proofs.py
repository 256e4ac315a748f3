"""fuse: a layer that could do something else in a case that no trial meets is left: contexts, dtypes, questions."""

import copy
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import is_grad_enabled as asks
from torch.autograd import Variable

import fastgen
from fusable import Masked


class Layer(Masked):
    """A masked convolution that changes in a case of its own."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__("B", 4, 6, 3, padding=1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Sample(nn.Module):
    """z, which changes in a case of its own."""

    def __init__(self, function: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.device, self.features = function, "cpu", 5

    def forward(self, mu: Tensor, logvar: Tensor) -> Tensor:
        return self.function(self, mu, logvar)


def conv(self: nn.Module, x: Tensor, scale: float = 1.0) -> Tensor:
    weight = self.weight * self.mask
    return F.conv2d(x, weight if scale == 1 else weight * scale, self.bias, padding=1)


def draw(mu: Tensor, logvar: Tensor) -> Tensor:
    return mu + (logvar / 2).exp() * torch.randn_like(mu)


def in_bfloat16(self: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return conv(self, x)


def without_autocast(self: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return conv(self, x.to(self.weight.dtype))


def with_gradients(self: nn.Module, x: Tensor) -> Tensor:
    with torch.enable_grad():
        return conv(self, x)


def switched(self: nn.Module, x: Tensor) -> Tensor:
    torch.set_grad_enabled(True)
    return conv(self, x)


def in_float64(self: nn.Module, x: Tensor) -> Tensor:
    return F.conv2d(x.double(), self.weight.double() * self.mask.double(), self.bias.double(), padding=1)


@torch.autocast("cpu", dtype=torch.bfloat16)
def decorated(self: nn.Module, x: Tensor) -> Tensor:
    return conv(self, x)


def imported(self: nn.Module, x: Tensor) -> Tensor:
    from torch import is_inference_mode_enabled

    return conv(self, x, 0.5 if is_inference_mode_enabled() else 1)


MASKED: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], str]] = {
    "autocast": (in_bfloat16, r"changes how torch computes or draws \(torch\.amp\.autocast_mode\)"),
    "autocast off": (without_autocast, "changes how torch computes or draws"),
    "gradients on": (with_gradients, r"uses torch\.enable_grad, which"),
    "a switch": (switched, r"uses torch\.set_grad_enabled, which"),
    "a decorator": (decorated, r"changes how torch computes or draws \(torch\.amp\.autocast_mode\)"),
    "float64": (in_float64, "also calls aten._to_copy"),
    "another name": (lambda s, x: conv(s, x, 1 if asks() else 0.5), r"uses asks, which may do more"),
    "an import": (imported, "imports torch"),
    "dtype": (lambda s, x: conv(s, x, 1 if x.dtype == torch.float64 else 0.5), "in torch.float32, its weight"),
    "one dtype": (lambda s, x: conv(s, x, 0.5 if x.dtype == torch.bfloat16 else 1), "in torch.bfloat16, its"),
    "device": (lambda s, x: conv(s, x, 0.5 if x.device.type == "cuda" else 1), "asks a tensor for its device"),
    "is_cuda": (lambda s, x: conv(s, x, 0.5 if x.is_cuda else 1), "asks a tensor for its is_cuda"),
    "gradient of the image": (
        lambda s, x: conv(s, x, 1 if x.requires_grad else 0.5),
        "asks a tensor for its requires_grad",
    ),
    "gradient of the weight": (
        lambda s, x: conv(s, x, 1 if s.weight.requires_grad else 0.5),
        "asks a tensor for its requires_grad",
    ),
    "layout": (lambda s, x: conv(s, x, 1 if x.is_contiguous() else 0.5), "asks a tensor for its is_contiguous"),
    "strides": (lambda s, x: conv(s, x, 1 if x.stride(3) == 1 else 0.5), "asks a tensor for its stride"),
    "batch": (lambda s, x: conv(s, x, 1 if x.shape[0] < 10 else 0.5), "computes with the size of a tensor"),
    "length": (lambda s, x: conv(s, x, 1 if len(x) < 10 else 0.5), "asks a tensor for its __len__"),
    "numbers": (lambda s, x: conv(s, x, 1 if x.numel() < 9999 else 0.5), "computes with the size of a tensor"),
    "an effect": (lambda s, x: conv(s, x.requires_grad_()), "changes more of a tensor than its values"),
}


@pytest.mark.parametrize("case", MASKED)
def test_masked_convolutions_that_trials_do_not_know(case: str) -> None:
    function, reason = MASKED[case]
    layer = Layer(function)
    plain = copy.deepcopy(layer)
    report = fastgen.fuse(layer)
    assert report.swapped == []
    assert re.search(reason, report.left[0].reason), report.left[0].reason
    for x in (torch.randn(2, 4, 5, 5), torch.randn(17, 4, 5, 5).to(memory_format=torch.channels_last)):
        for requires_grad in (True, False):
            ours, theirs = (each(x.clone().requires_grad_(requires_grad)) for each in (layer, plain))
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)


def seeded(s: nn.Module, m: Tensor, v: Tensor) -> Tensor:
    torch.manual_seed(0)
    return draw(m, v)


def without(s: nn.Module, m: Tensor, v: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return draw(m, v)


SAMPLES: dict[str, tuple[Callable[[nn.Module, Tensor, Tensor], Tensor], str]] = {
    "seed": (seeded, r"uses torch\.manual_seed, which may do more"),
    "autocast": (without, "changes how torch computes or draws"),
    "another name": (lambda s, m, v: draw(m, v) if asks() else m, "uses asks, which"),
    "float64": (lambda s, m, v: draw(m.double(), v.double()), "has another dtype|depends on the dtype"),
    "dtype": (lambda s, m, v: draw(m, v) if m.dtype == torch.float64 else m, "draws nothing"),
    "gradient": (lambda s, m, v: draw(m, v) if m.requires_grad else m, "asks a tensor for its requires_grad"),
    "batch": (lambda s, m, v: draw(m, v) if m.shape[0] < 200 else m, "computes with the size of a tensor"),
    "size as a factor": (
        lambda s, m, v: draw(m, v) * (1 + m.size(0) // 200),
        "computes with the size of a tensor",
    ),
    "noise of float64": (
        lambda s, m, v: m + (v / 2).exp() * torch.randn(m.shape, dtype=torch.float64),
        "has another dtype",
    ),
}


@pytest.mark.parametrize("case", SAMPLES)
def test_sampling_layers_that_trials_do_not_know(case: str) -> None:
    function, reason = SAMPLES[case]
    module = Sample(function)
    plain, state = copy.deepcopy(module), torch.get_rng_state()
    report = fastgen.fuse(module)
    assert torch.equal(state, torch.get_rng_state())
    assert report.swapped == []
    assert re.search(reason, report.left[0].reason), report.left[0].reason
    for mu in (torch.randn(3, 5), torch.randn(300, 5)):
        results = []
        for each in (module, plain):
            torch.manual_seed(1)
            results.append(each(mu, -mu))
        assert torch.equal(*results)


def by_variable(s: nn.Module, m: Tensor, v: Tensor) -> Tensor:
    std = v.mul(0.5).exp_()
    return Variable(std.data.new(std.size()).normal_()).mul(std).add_(m)


def no_grad(s: nn.Module, m: Tensor, v: Tensor) -> Tensor:
    with torch.no_grad():
        noise = torch.randn_like(m)
    return m + (v / 2).exp() * noise


STYLES: dict[str, Callable[[], nn.Module]] = {
    "old": lambda: Sample(by_variable),
    "noise without gradients": lambda: Sample(no_grad),
    "a shape": lambda: Sample(lambda s, m, v: m + (v / 2).exp() * torch.randn(m.shape, device=m.device, dtype=m.dtype)),
    "sizes": lambda: Sample(lambda s, m, v: m + (v / 2).exp() * torch.randn(m.size(0), *m.shape[1:]).to(m.device)),
    "of a type": lambda: Sample(lambda s, m, v: m + (v / 2).exp() * torch.randn(*m.size()).type_as(m)),
    "a device of its own": lambda: Sample(lambda s, m, v: m + (v / 2).exp() * torch.randn(m.shape, device=s.device)),
    "padding of the weight": lambda: Layer(
        lambda s, x: F.conv2d(x, s.weight * s.mask, s.bias, padding=s.weight.shape[-1] // 2)
    ),
    "everything of the layer": lambda: Layer(
        lambda s, x: F.conv2d(x, s.weight * s.mask, s.bias, s.stride, s.padding, s.dilation, s.groups)
    ),
    "torch's own forward": lambda: Layer(
        lambda s, x: nn.Conv2d._conv_forward(s, x, torch.mul(s.weight, s.mask.to(x.device)), s.bias)
    ),
    "mask as the image": lambda: Layer(
        lambda s, x: F.conv2d(x, s.weight * s.mask.to(x.dtype).expand_as(s.weight), s.bias, padding=1)
    ),
}


@pytest.mark.parametrize("style", STYLES)
def test_what_asks_for_no_more_than_it_hands_on_is_swapped(style: str) -> None:
    report = fastgen.fuse(STYLES[style]())
    assert len(report.swapped) == 1, report.left
