"""Models as other people write them, for fuse; and how a fused one is held against its twin."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

import fastgen
from fastgen.fusing import FuseReport
from parity import assert_parity
from rounding import Moved

# ---- DCGAN's generator, as PyTorch's examples have it


class Generator(nn.Module):
    def __init__(self, nz: int = 10, ngf: int = 4, nc: int = 3) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(nz, ngf * 8, 4, 1, 0, bias=False),
            nn.BatchNorm2d(ngf * 8),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 8, ngf * 4, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf * 4),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 4, ngf * 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf * 2),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 2, nc, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, input: Tensor) -> Tensor:
        return self.main(input)


def weights_init(m: nn.Module) -> None:
    classname = m.__class__.__name__
    if classname.find("Conv") != -1:
        nn.init.normal_(m.weight, 0.0, 0.02)
    elif classname.find("BatchNorm") != -1:
        nn.init.normal_(m.weight, 1.0, 0.02)
        nn.init.zeros_(m.bias)


class DirectGenerator(nn.Module):
    """Layers that are attributes, called one after the other."""

    def __init__(self, nz: int = 10, ngf: int = 4) -> None:
        super().__init__()
        self.size = 4
        self.linear = nn.Linear(nz, ngf * 2 * 4 * 4)
        self.deconv1 = nn.ConvTranspose2d(ngf * 2, ngf, 4, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(ngf)
        self.deconv2 = nn.ConvTranspose2d(ngf, ngf, 3, 2, 1, output_padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(ngf)
        self.act = nn.LeakyReLU(0.2)
        self.deconv3 = nn.ConvTranspose2d(ngf, 3, 4, 2, 1)

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.linear(z))
        x = x.view(x.shape[0], -1, self.size, self.size)
        x = F.relu(self.bn1(self.deconv1(x)))
        x = self.act(self.bn2(self.deconv2(x)))
        return torch.tanh(self.deconv3(x))


def deconv_block(i: int, o: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())


# ---- masked convolutions


class Masked(nn.Conv2d):
    def __init__(self, mask_type: str, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.register_buffer("mask", torch.ones_like(self.weight))
        kH, kW = self.kernel_size
        self.mask[:, :, kH // 2, kW // 2 + (mask_type == "B") :] = 0
        self.mask[:, :, kH // 2 + 1 :] = 0


class ByData(Masked):
    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


class ByProduct(Masked):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.kernel_size[0] // 2)


class MaskWeight(nn.Module):
    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def parametrized(mask_type: str, *args: object, **kwargs: object) -> nn.Module:
    conv = nn.Conv2d(*args, **kwargs)  # type: ignore[arg-type]
    mask = Masked(mask_type, *args, **kwargs).mask
    return parametrize.register_parametrization(conv, "weight", MaskWeight(mask))


class PixelCNN(nn.Module):
    """Seven by seven of mask A, then layers of mask B with ReLU and batch norm; and a head."""

    def __init__(self, masked: Callable[..., nn.Module], channels: int = 6, levels: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(masked("A", 1, channels, 7, 1, 3), nn.ReLU(True))
        for _ in range(2):
            self.body.extend(
                [masked("B", channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(True)]
            )
        self.head = nn.Sequential(masked("B", channels, channels, 1), nn.ELU(), nn.Conv2d(channels, levels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


# ---- sampling layers


class Reparameterize(nn.Module):
    def forward(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std


class MeanInEval(nn.Module):
    def forward(self, mu: Tensor, logvar: Tensor) -> Tensor:
        if not self.training:
            return mu
        std = logvar.mul(0.5).exp_()
        eps = torch.empty_like(std).normal_()
        return eps.mul(std).add_(mu)


class SampleAndKL(nn.Module):
    def forward(self, mu: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
        z = mu + (log_var / 2).exp() * torch.randn(mu.shape, device=mu.device, dtype=mu.dtype)
        return z, -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp(), dim=list(range(1, mu.dim())))


# ---- fused and not


def twins(model: nn.Module) -> tuple[nn.Module, nn.Module, nn.Module, FuseReport]:
    """The model fused, a copy as it was, a copy in float64, and the report.

    The chains of transposed convolutions compute in channels_last, so their twin does: on the CPU torch sums a batch
    norm's statistics and gradients in float32 there, and in float64 where images are contiguous.
    """
    plain = copy.deepcopy(model).to(memory_format=torch.channels_last)
    exact = copy.deepcopy(model).double()
    return model, plain, exact, fastgen.fuse(model)


def live(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` by name of a weight, without what a mask held beside that weight takes away."""
    masks = dict(model.named_buffers())
    return {
        name: tensor * masks[name[: -len("weight")] + "mask"].to(tensor.dtype)
        if name.endswith("weight") and name[: -len("weight")] + "mask" in masks
        else tensor
        for name, tensor in tensors.items()
    }


def assert_same_results(
    fused: nn.Module, plain: nn.Module, exact: nn.Module, inputs: Callable[[], Tensor], batches: int = 8
) -> None:
    """Results, gradients of inputs and of parameters, and buffers afterwards, over several batches at once.

    So many that the largest error of eager torch is one that it makes often: of a vector of two it is small by luck.
    """
    drawn = [inputs() for _ in range(batches)]
    before = copy.deepcopy(exact)

    def answers(model: nn.Module) -> list[Tensor]:
        seen = [_results(model, x.detach().to(next(model.parameters()).dtype)) for x in drawn]
        return [torch.stack(each) for each in zip(*seen, strict=True)]

    three_ways = list(zip(*map(answers, (fused, plain, exact)), strict=True))
    assert len(three_ways) > 1
    moved = Moved(lambda: answers(copy.deepcopy(before)), next(fused.parameters()).dtype)
    for i, (one, two, three) in enumerate(three_ways):
        assert_parity(one, two, three, moved[i])


def _results(model: nn.Module, x: Tensor) -> list[Tensor]:
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    y = model(x.requires_grad_())
    upstream = torch.empty_like(y).copy_(torch.linspace(-1, 1, y.numel()).view(y.shape))
    parameters = dict(model.named_parameters())
    grad_x, *grads = torch.autograd.grad(y, [x, *parameters.values()], upstream)
    by_name = live(model, dict(zip(parameters, grads, strict=True)))
    buffers = [buffer.clone() for buffer in model.buffers() if buffer.is_floating_point()]
    return [y.detach(), grad_x, *by_name.values(), *buffers]
