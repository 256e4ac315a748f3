"""Three causal models as other people write them, none with fastgen in mind."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

# ---- the mask multiplied into weight.data on each forward


class MaskedByData(nn.Conv2d):
    def __init__(self, mask_type: str, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.register_buffer("mask", self.weight.data.clone())
        _, _, kH, kW = self.weight.size()
        self.mask.fill_(1)
        self.mask[:, :, kH // 2, kW // 2 + (mask_type == "B") :] = 0
        self.mask[:, :, kH // 2 + 1 :] = 0

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


def classic_pixelcnn(channels: int = 6, layers: int = 3) -> nn.Module:
    """A Sequential of masked convolutions, batch norm and ReLU in place; three levels."""
    modules: list[nn.Module] = []
    for index in range(layers):
        mask, inputs, k = ("A", 1, 7) if index == 0 else ("B", channels, 5)
        modules += [
            MaskedByData(mask, inputs, channels, k, 1, k // 2, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(True),
        ]
    return nn.Sequential(*modules, nn.Conv2d(channels, 3, 1))


# ---- a gated PixelCNN that pads all around and crops


class CausalConv2d(nn.Conv2d):
    def __init__(self, mask_center: bool, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        i, o, h, w = self.weight.shape
        mask = torch.zeros((i, o, h, w))
        mask.data[:, :, : h // 2, :] = 1
        mask.data[:, :, h // 2, : w // 2 + int(not mask_center)] = 1
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


class CroppingGatedLayer(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, mask_center: bool = False) -> None:
        super().__init__()
        self._residual = not mask_center
        k = kernel_size
        self._vstack_1xN = nn.Conv2d(in_channels, out_channels, (1, k), padding=(0, k // 2))
        self._vstack_Nx1 = nn.Conv2d(out_channels, 2 * out_channels, (k // 2 + 1, 1), padding=(k // 2 + 1, 0))
        self._vstack_1x1 = nn.Conv2d(in_channels, 2 * out_channels, 1)
        self._link = nn.Conv2d(2 * out_channels, 2 * out_channels, 1)
        self._hstack_1xN = nn.Conv2d(
            in_channels, 2 * out_channels, (1, k // 2 + 1), padding=(0, k // 2 + int(mask_center))
        )
        self._hstack_residual = nn.Conv2d(out_channels, out_channels, 1)
        self._hstack_skip = nn.Conv2d(out_channels, out_channels, 1)

    def _gate(self, x: Tensor) -> Tensor:
        _, c, _, _ = x.shape
        return torch.tanh(x[:, : c // 2]) * torch.sigmoid(x[:, c // 2 :])

    def forward(self, vstack_input: Tensor, hstack_input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, _, h, w = vstack_input.shape
        vstack = self._vstack_Nx1(self._vstack_1xN(vstack_input))[:, :, :h, :]
        link = self._link(vstack)
        vstack = vstack + self._vstack_1x1(vstack_input)
        vstack = self._gate(vstack)
        hstack = link + self._hstack_1xN(hstack_input)[:, :, :, :w]
        hstack = self._gate(hstack)
        skip = self._hstack_skip(hstack)
        hstack = self._hstack_residual(hstack)
        return vstack, hstack + hstack_input if self._residual else hstack, skip


class CroppingGatedPixelCNN(nn.Module):
    def __init__(self, channels: int = 4, layers: int = 2) -> None:
        super().__init__()
        self._input = CausalConv2d(True, 1, channels, 7, padding=3)
        self._gated = nn.ModuleList(CroppingGatedLayer(channels, channels) for _ in range(layers))
        self._head = nn.Sequential(nn.ReLU(), nn.Conv2d(channels, 5, 1), nn.ReLU(), nn.Conv2d(5, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self._input(x)
        vstack, hstack, skips = x, x, 0.1 * x
        for layer in self._gated:
            vstack, hstack, skip = layer(vstack, hstack)
            skips += skip
        return self._head(skips)


# ---- a PixelCNN++: shifted convolutions, weight norm, a U of resolutions, shortcuts


def concat_elu(x: Tensor) -> Tensor:
    return F.elu(torch.cat([x, -x], dim=1))


def down_shift(x: Tensor) -> Tensor:
    return nn.ZeroPad2d((0, 0, 1, 0))(x[:, :, : x.size(2) - 1, :])


def right_shift(x: Tensor) -> Tensor:
    return nn.ZeroPad2d((1, 0, 0, 0))(x[:, :, :, : x.size(3) - 1])


class NIN(nn.Module):
    """A linear layer over channels, on (N, H, W, C)."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.lin_a = weight_norm(nn.Linear(dim_in, dim_out))
        self.dim_out = dim_out

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        shp = [int(y) for y in x.size()]
        out = self.lin_a(x.contiguous().view(shp[0] * shp[1] * shp[2], shp[3]))
        shp[-1] = self.dim_out
        return out.view(shp).permute(0, 3, 1, 2)


class DownShifted(nn.Module):
    """Sees rows up to its own (k wide); ``shift`` moves the result one row down."""

    def __init__(self, i: int, o: int, size: tuple[int, int] = (2, 3), stride: int = 1, shift: bool = False) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d(((size[1] - 1) // 2, (size[1] - 1) // 2, size[0] - 1, 0))
        self.conv = weight_norm(nn.Conv2d(i, o, size, stride=stride))
        self.shift = down_shift if shift else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shift(self.conv(self.pad(x)))


class DownRightShifted(nn.Module):
    def __init__(self, i: int, o: int, size: tuple[int, int] = (2, 2), stride: int = 1, shift: bool = False) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((size[1] - 1, 0, size[0] - 1, 0))
        self.conv = weight_norm(nn.Conv2d(i, o, size, stride=stride))
        self.shift = right_shift if shift else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shift(self.conv(self.pad(x)))


class DownShiftedDeconv(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.deconv = weight_norm(nn.ConvTranspose2d(i, o, (2, 3), stride=2, output_padding=1), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.deconv(x)
        return x[:, :, : x.size(2) - 1, 1 : x.size(3) - 1]


class DownRightShiftedDeconv(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.deconv = weight_norm(nn.ConvTranspose2d(i, o, (2, 2), stride=2, output_padding=1), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.deconv(x)
        return x[:, :, : x.size(2) - 1, : x.size(3) - 1]


class GatedResnet(nn.Module):
    def __init__(self, filters: int, conv: type[nn.Module], skip: int = 0) -> None:
        super().__init__()
        self.conv_input = conv(2 * filters, filters)
        self.nin_skip = NIN(2 * skip * filters, filters) if skip else None
        self.dropout = nn.Dropout2d(0.5)
        self.conv_out = conv(2 * filters, 2 * filters)

    def forward(self, og_x: Tensor, a: Tensor | None = None) -> Tensor:
        x = self.conv_input(concat_elu(og_x))
        if a is not None:
            x += self.nin_skip(concat_elu(a))
        x = self.conv_out(self.dropout(concat_elu(x)))
        a, b = torch.chunk(x, 2, dim=1)
        return og_x + a * torch.sigmoid(b)


class ShiftedPixelCNN(nn.Module):
    """PixelCNN++ (arXiv:1701.05517) with two or three resolutions; the image's size is a multiple of 2 or 4."""

    def __init__(self, filters: int = 4, blocks: int = 1, levels: int = 2, params: int = 6, channels: int = 3) -> None:
        super().__init__()
        self.levels = levels
        self.u_init = DownShifted(channels + 1, filters, (2, 3), shift=True)
        self.ul_init = nn.ModuleList([
            DownShifted(channels + 1, filters, (1, 3), shift=True),
            DownRightShifted(channels + 1, filters, (2, 1), shift=True),
        ])  # fmt: skip

        def layers(make: object) -> nn.ModuleList:
            return nn.ModuleList(make(level) for level in range(levels))  # type: ignore[operator]

        def stack(conv: type[nn.Module], skip: int, extra: int = 0) -> object:
            return lambda level: nn.ModuleList(
                GatedResnet(filters, conv, skip) for _ in range(blocks + (extra if level else 0))
            )

        self.up_u, self.up_ul = layers(stack(DownShifted, 0)), layers(stack(DownRightShifted, 1))
        self.down_u = layers(stack(DownShifted, 1, extra=1))
        self.down_ul = layers(stack(DownRightShifted, 2, extra=1))
        self.shrink_u = nn.ModuleList(DownShifted(filters, filters, stride=2) for _ in range(levels - 1))
        self.shrink_ul = nn.ModuleList(DownRightShifted(filters, filters, stride=2) for _ in range(levels - 1))
        self.grow_u = nn.ModuleList(DownShiftedDeconv(filters, filters) for _ in range(levels - 1))
        self.grow_ul = nn.ModuleList(DownRightShiftedDeconv(filters, filters) for _ in range(levels - 1))
        self.nin_out = NIN(filters, params)
        self.init_padding: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        xs = [int(y) for y in x.size()]
        x = torch.cat((x, torch.ones(xs[0], 1, xs[2], xs[3], dtype=x.dtype)), 1)
        u_list = [self.u_init(x)]
        ul_list = [self.ul_init[0](x) + self.ul_init[1](x)]
        for level in range(self.levels):
            for u_block, ul_block in zip(self.up_u[level], self.up_ul[level], strict=True):
                u_list.append(u_block(u_list[-1]))
                ul_list.append(ul_block(ul_list[-1], u_list[-1]))
            if level < self.levels - 1:
                u_list.append(self.shrink_u[level](u_list[-1]))
                ul_list.append(self.shrink_ul[level](ul_list[-1]))
        u, ul = u_list.pop(), ul_list.pop()
        for level in range(self.levels):
            for u_block, ul_block in zip(self.down_u[level], self.down_ul[level], strict=True):
                u = u_block(u, u_list.pop())
                ul = ul_block(ul, torch.cat((u, ul_list.pop()), 1))
            if level < self.levels - 1:
                u, ul = self.grow_u[level](u), self.grow_ul[level](ul)
        return self.nin_out(F.elu(ul))
