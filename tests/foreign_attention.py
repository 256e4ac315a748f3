"""Causal attention as other people write it, none with fastgen in mind: its masks, its heads and its start tokens."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

# ---- PixelSNAIL: convolutions, and attention to all earlier pixels, with a map of their coordinates


class SnailAttention(nn.Module):
    """Strict; the first pixel's weights, which are the same for all keys, are multiplied with 0."""

    def __init__(self, query_channels: int, key_channels: int, channels: int, heads: int) -> None:
        super().__init__()
        self.query = weight_norm(nn.Linear(query_channels, channels))
        self.key = weight_norm(nn.Linear(key_channels, channels))
        self.value = weight_norm(nn.Linear(key_channels, channels))
        self.heads, self.size = heads, channels // heads

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        N, _, H, W = key.shape

        def split(x: Tensor) -> Tensor:
            return x.view(N, -1, self.heads, self.size).transpose(1, 2)

        query_flat, key_flat = query.flatten(2).transpose(1, 2), key.flatten(2).transpose(1, 2)
        q, k, v = split(self.query(query_flat)), split(self.key(key_flat)), split(self.value(key_flat))
        mask = torch.ones(H * W, H * W).triu(1).t()
        start = torch.ones(H * W, 1, dtype=q.dtype)
        start[0] = 0
        scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(self.size)
        scores = scores.masked_fill(mask == 0, -1e4)
        weights = torch.dropout(torch.softmax(scores, 3) * start, 0.1, self.training)
        return (weights @ v).transpose(1, 2).reshape(N, H, W, -1).permute(0, 3, 1, 2)


class SnailBlock(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 2)
        self.attention = SnailAttention(channels + 2, 2 * channels + 2, channels, heads)
        self.out = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor, above: Tensor, background: Tensor) -> Tensor:
        a, b = self.conv(F.pad(F.elu(above), (1, 0, 1, 0))).chunk(2, 1)
        above = above + a * torch.sigmoid(b)
        attended = self.attention(torch.cat([above, background], 1), torch.cat([x, above, background], 1))
        return above + self.out(F.elu(torch.cat([above, attended], 1)))


class PixelSnail(nn.Module):
    def __init__(self, size: tuple[int, int], levels: int = 3, channels: int = 6, heads: int = 2) -> None:
        super().__init__()
        self.levels = levels
        self.down = nn.Conv2d(levels, channels, (2, 3))
        self.left = nn.Conv2d(levels, channels, (2, 1))
        self.embed = nn.Conv2d(levels, channels, 1)
        self.blocks = nn.ModuleList([SnailBlock(channels, heads) for _ in range(2)])
        self.out = nn.Conv2d(channels, levels, 1)
        rows = torch.linspace(-0.5, 0.5, size[0]).view(1, 1, -1, 1).expand(1, 1, *size)
        columns = torch.linspace(-0.5, 0.5, size[1]).view(1, 1, 1, -1).expand(1, 1, *size)
        self.register_buffer("background", torch.cat([rows, columns], 1))

    def forward(self, x: Tensor) -> Tensor:
        N, _, H, W = x.shape
        tokens = F.one_hot(x[:, 0].long(), self.levels).permute(0, 3, 1, 2).to(x.dtype)
        down = self.down(F.pad(tokens, (1, 1, 2, 0)))[:, :, :H]
        left = self.left(F.pad(tokens, (1, 0, 1, 0)))[:, :, :, :W]
        above, background = down + left, self.background.expand(N, 2, H, W)
        for block in self.blocks:
            above = block(self.embed(tokens), above, background)
        return self.out(F.elu(above))


# ---- transformers over pixels


class SelfAttention(nn.Module):
    """``style``: how the mask is written. "strict" leaves out a position itself, where the first sees nothing."""

    def __init__(self, width: int, heads: int, length: int, style: str) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.style = heads, style
        self.register_buffer("mask", torch.ones(length, length).tril(-1 if style == "strict" else 0)[None, None])
        self.relative = nn.Parameter(torch.randn(heads, 2 * length - 1) / 4)

    def forward(self, x: Tensor) -> Tensor:
        N, L, C = x.shape
        q, k, v = (each.view(N, L, self.heads, -1).transpose(1, 2) for each in self.qkv(x).chunk(3, -1))
        mask, size = self.mask[:, :, :L, :L], q.shape[-1]
        if self.style == "sdpa":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        elif self.style == "sdpa mask":
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.bool())
        elif self.style == "gpt2":
            scores = q @ k.transpose(-1, -2) / math.sqrt(size)
            y = (scores * mask - 1e10 * (1 - mask)).softmax(-1) @ v
        elif self.style == "added":
            scores = torch.einsum("nhqc,nhkc->nhqk", q, k) * size**-0.5
            y = torch.einsum("nhqk,nhkc->nhqc", (scores + (1 - mask) * torch.finfo(x.dtype).min).softmax(-1), v)
        elif self.style == "relative":
            distance = torch.arange(L)[:, None] - torch.arange(L) + L - 1
            scores = q @ k.transpose(-1, -2) / math.sqrt(size) + self.relative[:, distance]
            y = scores.masked_fill(mask == 0, -math.inf).softmax(-1) @ v
        elif self.style == "strict":
            scores = (q @ k.transpose(-1, -2) / math.sqrt(size)).masked_fill(mask == 0, -math.inf)
            y = scores.softmax(-1).masked_fill(mask == 0, 0) @ v
        elif self.style == "keys first":
            scores = (k @ q.transpose(-1, -2) / math.sqrt(size)).masked_fill(mask.transpose(-1, -2) == 0, -math.inf)
            y = (v.transpose(-1, -2) @ scores.softmax(2)).transpose(-1, -2)
        else:
            raise ValueError(self.style)
        return self.out(y.transpose(1, 2).reshape(N, L, C))


STYLES = ("sdpa", "sdpa mask", "gpt2", "added", "relative", "strict", "keys first")
STARTS = ("token", "early", "padded", "late")


class GPT(nn.Module):
    """Decoder over pixels: a start token, learned positions, pre-norm blocks.

    ``start``: where the start token comes in: "token", after the embedding of all pixels; "early", of all but the last;
    "padded", as one more level; "late", the last position is left out at the end.
    """

    def __init__(self, size: tuple[int, int], style: str = "sdpa", start: str = "token", levels: int = 3) -> None:
        super().__init__()
        length, width = size[0] * size[1], 8
        self.start, self.levels = start, levels
        self.embed = nn.Embedding(levels + 1, width)
        self.positions = nn.Parameter(torch.randn(1, length + 1, width) / 2)
        self.sos = nn.Parameter(torch.randn(width))
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(4)])
        self.attention = nn.ModuleList([SelfAttention(width, 2, length + 1, style) for _ in range(2)])
        self.mlp = nn.ModuleList(
            [nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width)) for _ in range(2)]
        )
        self.head = nn.Linear(width, levels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        N, _, H, W = x.shape
        tokens = x.view(N, H * W).long()
        sos = self.sos.expand(N, 1, -1)
        if self.start == "token":
            h = torch.cat([sos, self.embed(tokens)[:, :-1]], 1)
        elif self.start == "early":
            h = torch.cat([sos, self.embed(tokens[:, :-1])], 1)
        elif self.start == "padded":
            h = self.embed(F.pad(tokens, (1, 0), value=self.levels)[:, :-1])
        else:
            h = torch.cat([sos, self.embed(tokens)], 1)
        h = h + self.positions[:, : h.shape[1]]
        for index in range(2):
            h = h + self.attention[index](self.norms[2 * index](h))
            h = h + self.mlp[index](self.norms[2 * index + 1](h))
        return self.head(h)[:, : H * W].transpose(1, 2).unflatten(2, (H, W))


class SequenceFirst(nn.Module):
    """nn.MultiheadAttention over (L, N, C), with a mask of −inf above the diagonal."""

    def __init__(self, size: tuple[int, int], levels: int = 2) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(levels, 6), nn.Linear(6, levels)
        self.sos = nn.Parameter(torch.randn(6))
        self.attention = nn.MultiheadAttention(6, 3)
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        N, _, H, W = x.shape
        h = self.embed(x.flatten(1).long().t())
        h = torch.cat([self.sos.expand(1, N, 6), h[:-1]], 0)
        mask = torch.full((len(h), len(h)), -math.inf, dtype=h.dtype).triu(1)
        h = h + self.attention(self.norm(h), self.norm(h), self.norm(h), attn_mask=mask, need_weights=True)[0]
        return self.head(h).permute(1, 2, 0).reshape(N, -1, H, W)


class Encoder(nn.Module):
    """nn.TransformerEncoder, told that it is causal."""

    def __init__(self, size: tuple[int, int], levels: int = 2) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(6, 2, 10, batch_first=True, norm_first=True, activation="gelu")
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.embed, self.head = nn.Linear(1, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(F.pad(x.flatten(2).transpose(1, 2), (0, 0, 1, -1)))
        mask = nn.Transformer.generate_square_subsequent_mask(h.shape[1], dtype=h.dtype)
        return self.head(self.layers(h, mask, is_causal=True)).transpose(1, 2).view_as(x)


class Local(nn.Module):
    """Attention to a neighbourhood: of the last so many positions, or rows and columns; heads may differ."""

    def __init__(self, size: tuple[int, int], kind: str) -> None:
        super().__init__()
        H, W = size
        place = torch.arange(H * W)
        back = place[:, None] - place
        rows, columns = place[:, None] // W - place // W, place[:, None] % W - place % W
        near = (rows <= 1) & (columns.abs() <= 2) & (back >= 0)
        self.mask = {
            "last": (back >= 0) & (back < 4),
            "near": near,
            "strided": (back >= 0) & ((columns == 0) | (rows == 0)),
            "heads": torch.stack([near, (back >= 0) & (columns == 0)]),
        }[kind]
        self.embed, self.head = nn.Conv2d(1, 6, 1), nn.Conv2d(6, 1, 1)
        self.qkv = nn.Conv2d(6, 18, 1)

    def forward(self, x: Tensor) -> Tensor:
        N, _, H, W = x.shape
        h = self.embed(F.pad(x, (1, 0))[..., :-1])
        q, k, v = self.qkv(h).view(N, 3, 2, 3, H * W).transpose(3, 4).unbind(1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return self.head(F.relu(h + y.transpose(2, 3).reshape(N, 6, H, W)))


class Axial(nn.Module):
    """Along each row up to the pixel, and along each column of the rows above."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(1, 4, 1), nn.Conv2d(12, 1, 1)
        self.row, self.column = nn.Linear(4, 12), nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(F.pad(x, (1, 0))[..., :-1]).permute(0, 2, 3, 1)  # (N, H, W, C)
        along = F.scaled_dot_product_attention(*self.row(h).chunk(3, -1), is_causal=True)
        down = F.scaled_dot_product_attention(*self.column(h).transpose(1, 2).chunk(3, -1), is_causal=True)
        return self.head(F.elu(torch.cat([h, along, down.transpose(1, 2)], -1).permute(0, 3, 1, 2)))


# ---- sequences that are no images


class MaskedLinear(nn.Linear):
    def __init__(self, inputs: Tensor, outputs: Tensor, strict: bool) -> None:
        super().__init__(len(inputs), len(outputs))
        after = outputs[:, None] > inputs if strict else outputs[:, None] >= inputs
        self.register_buffer("mask", after.float())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class MADE(nn.Module):
    """Masked fully connected layers over the flattened image, in raster order; ``levels`` logits a value."""

    def __init__(self, size: tuple[int, int], levels: int = 1, hidden: int = 17, colors: int = 1) -> None:
        super().__init__()
        pixels = torch.arange(size[0] * size[1] * colors).view(-1, colors).t().flatten()  # when each is drawn
        units = [torch.randint(len(pixels) - 1, (hidden,)) for _ in range(2)]
        self.layers = nn.Sequential(
            MaskedLinear(pixels, units[0], strict=False), nn.ReLU(),
            MaskedLinear(units[0], units[1], strict=False), nn.BatchNorm1d(hidden), nn.ReLU(),
            MaskedLinear(units[1], pixels.repeat(levels), strict=True),
        )  # fmt: skip
        self.direct = MaskedLinear(pixels, pixels.repeat(levels), strict=True)
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        logits = (self.layers(flat) + self.direct(flat)).view(len(x), self.levels, *x.shape[1:])
        return logits.transpose(1, 2).flatten(1, 2)


class WaveNet(nn.Module):
    """Dilated causal convolutions over (N, C, T), with gates and skip connections."""

    def __init__(self, levels: int = 4) -> None:
        super().__init__()
        self.levels = levels
        self.first = nn.Conv1d(levels, 6, 2)
        self.dilated = nn.ModuleList([nn.Conv1d(6, 12, 2, dilation=2**i) for i in range(3)])
        self.skip = nn.ModuleList([nn.Conv1d(6, 5, 1) for _ in range(3)])
        self.residual = nn.ModuleList([nn.Conv1d(6, 6, 1) for _ in range(3)])
        self.out = nn.Sequential(nn.ReLU(), nn.Conv1d(5, 5, 1), nn.ReLU(), nn.Conv1d(5, levels, 1))

    def forward(self, x: Tensor) -> Tensor:
        signal = F.one_hot(x[:, 0, 0].long(), self.levels).transpose(1, 2).to(x.dtype)  # (N, levels, T)
        h, skips = self.first(F.pad(signal, (2, 0)))[..., :-1], 0
        for dilated, skip, residual in zip(self.dilated, self.skip, self.residual, strict=True):
            a, b = dilated(F.pad(h, (dilated.dilation[0], 0))).chunk(2, 1)
            gated = torch.tanh(a) * torch.sigmoid(b)
            skips, h = skips + skip(gated), h + residual(gated)
        return self.out(skips)[:, :, None]
