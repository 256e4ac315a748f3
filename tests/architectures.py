"""Causal models in many styles: random ones for hypothesis, and three as other people write them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn


def activation(name: str) -> Callable[[Tensor], Tensor]:
    return {
        "relu": lambda x: F.relu(x, inplace=True), "elu": F.elu, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
        "gelu": F.gelu, "silu": F.silu, "concat_elu": lambda x: F.elu(torch.cat((x, -x), dim=1)),
        "none": lambda x: x,
    }[name]  # fmt: skip


ACTIVATIONS = ("relu", "elu", "tanh", "sigmoid", "gelu", "silu", "concat_elu", "none")


class Masked(nn.Conv2d):
    """A masked convolution in one of three styles, with dilation and groups."""

    def __init__(self, inputs: int, outputs: int, k: int, mask: str, style: str, dilation: int, groups: int) -> None:
        super().__init__(inputs, outputs, k, padding=dilation * (k // 2), dilation=dilation, groups=groups)
        self.style = style
        self.register_buffer("mask", torch.ones_like(self.weight))
        self.mask[:, :, k // 2, k // 2 + (mask == "B") :] = 0
        self.mask[:, :, k // 2 + 1 :] = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "data":
            self.weight.data *= self.mask
            return super().forward(x)
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class Shifted(nn.Module):
    """A causal convolution without a mask: padding, an ordinary convolution, and a shift."""

    def __init__(self, inputs: int, outputs: int, mask: str, style: str) -> None:
        super().__init__()
        self.style, self.own = style, mask == "B"
        self.above = nn.Conv2d(inputs, outputs, (2, 3))
        self.left = nn.Conv2d(inputs, outputs, (1, 2))

    def forward(self, x: Tensor) -> Tensor:
        H = x.shape[2]
        above = self.above(F.pad(x, (1, 1, 2, 0)))[:, :, :H]
        if self.own:
            return above + self.left(F.pad(x, (1, 0, 0, 0)))
        if self.style == "cat":
            moved = torch.cat((torch.zeros_like(x[:, :, :, :1]), x[:, :, :, :-1]), dim=3)
        elif self.style == "assign":
            moved = torch.zeros_like(x)
            moved[:, :, :, 1:] = x[:, :, :, :-1]
        else:
            moved = nn.ZeroPad2d((1, -1, 0, 0))(x)
        return above + self.left(F.pad(moved, (1, 0, 0, 0)))


class TwoStacks(nn.Module):
    """Vertical stack, not shifted until it is read, and horizontal stack (arXiv:1606.05328)."""

    def __init__(self, inputs: int, channels: int, mask: str) -> None:
        super().__init__()
        self.vertical = nn.Conv2d(inputs, 2 * channels, (2, 3), padding=(1, 1))
        self.link = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.horizontal = nn.Conv2d(inputs, 2 * channels, (1, 2))
        self.own = mask == "B"

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        H = h.shape[2]
        v = self.vertical(v)[:, :, :H]
        left = F.pad(h, (1, 0, 0, 0)) if self.own else F.pad(h, (2, 0, 0, 0))[..., :-1]
        h = self.horizontal(left) + self.link(F.pad(v, (0, 0, 1, 0))[:, :, :-1])
        return self.gate(v), self.gate(h)

    @staticmethod
    def gate(x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return torch.tanh(a) * torch.sigmoid(b)


class Around(nn.Module):
    """Down to half the resolution and up again, beside a shortcut; at the odd end of an image the result is cropped."""

    def __init__(self, channels: int, k: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels + 1, 2, stride=2)
        self.up = nn.ConvTranspose2d(channels + 1, channels, k, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[2:]
        y = self.up(F.elu(self.down(F.pad(x, (1, 1, 1, 1)))))
        return x + y[:, :, :H, :W]


class ChannelNorm(nn.Module):
    """Layer norm over channels: on (N, H, W, C), or written by hand on (N, C, H, W)."""

    def __init__(self, channels: int, by_hand: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.by_hand = by_hand

    def forward(self, x: Tensor) -> Tensor:
        if not self.by_hand:
            return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        centred = x - x.mean(dim=1, keepdim=True)
        y = centred / torch.sqrt((centred**2).mean(dim=1, keepdim=True) + 1e-5)
        return y * self.norm.weight[:, None, None] + self.norm.bias[:, None, None]


class Block(nn.Module):
    """One layer of a random model, followed by an activation, a norm, and a connection around it."""

    def __init__(self, inputs: int, outputs: int, mask: str, recipe: dict[str, object]) -> None:
        super().__init__()
        kind = recipe["kind"]
        self.recipe = recipe
        groups = 2 if recipe["groups"] and inputs % 2 == 0 and outputs % 2 == 0 else 1
        if kind == "masked":
            layer: nn.Module = Masked(inputs, outputs, recipe["k"], mask, recipe["style"], recipe["dilation"], groups)
        elif kind == "shifted":
            layer = Shifted(inputs, outputs, mask, recipe["style"])
        elif kind == "around" and inputs == outputs:
            layer = Around(inputs, recipe["k"] + 1)
        else:
            layer = nn.Conv2d(inputs, outputs, 1)
        self.layer = (
            nn.utils.parametrizations.weight_norm(layer) if recipe["norm"] == "weight" and kind == "1x1" else layer
        )
        wide = outputs * (2 if recipe["activation"] == "concat_elu" else 1)
        self.norm = {
            "batch": lambda: nn.BatchNorm2d(wide), "layer": lambda: ChannelNorm(wide, False),
            "by hand": lambda: ChannelNorm(wide, True),
        }.get(recipe["norm"], nn.Identity)()  # fmt: skip
        self.back = nn.Conv2d(wide, outputs, 1)
        self.linear = nn.Linear(outputs, outputs)
        self.dropout = nn.Dropout2d(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(activation(self.recipe["activation"])(self.layer(x)))
        y = self.dropout(self.back(y))
        if self.recipe["linear"]:
            y = self.linear(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if y.shape == x.shape and self.recipe["around"] == "residual":
            return x + y
        return y


class RandomModel(nn.Module):
    """A stack of random blocks, with skip connections, coordinates, classes and gates."""

    def __init__(self, recipe: dict[str, object]) -> None:
        super().__init__()
        self.recipe = recipe
        self.in_channels, channels = recipe["colors"], recipe["channels"]
        coordinates = 2 if recipe["coordinates"] else 0
        self.stacks = nn.ModuleList()
        if recipe["two_stacks"]:
            self.stacks.append(TwoStacks(self.in_channels, channels, "A"))
            self.stacks.append(TwoStacks(channels, channels, "B"))
            self.first = nn.Conv2d(channels + coordinates, channels, 1)
        else:
            first = {**recipe["blocks"][0], "kind": recipe["first"], "groups": False}
            self.first = Block(self.in_channels + coordinates, channels, "A", first)
        self.blocks = nn.ModuleList(Block(channels, channels, "B", each) for each in recipe["blocks"])
        self.classes = 4 if recipe["classes"] else None
        if self.classes:
            self.embedding = nn.Embedding(4, channels)
            self.plane = nn.Linear(4, channels)
        self.output = nn.Conv2d(channels * (2 if recipe["skip"] else 1), recipe["params"], 1)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        N, _, H, W = x.shape
        h = x
        if self.stacks:
            v = h
            for stack in self.stacks:
                v, h = stack(v, h)
        if self.recipe["coordinates"]:
            rows = torch.linspace(-1, 1, H, dtype=x.dtype).view(1, 1, H, 1).expand(N, 1, H, W)
            columns = torch.linspace(-1, 1, W, dtype=x.dtype).view(1, 1, 1, W).expand(N, 1, H, W)
            h = torch.cat((h, rows, columns), dim=1)
        h = first = self.first(h)
        for index, block in enumerate(self.blocks):
            h = block(h)
            if self.classes and index == 0:
                h = h + self.embedding(labels)[:, :, None, None]
                h = h * torch.sigmoid(self.plane(F.one_hot(labels, 4).to(x.dtype))).view(N, -1, 1, 1)
        if self.recipe["skip"]:
            h = torch.cat((h, first), dim=1)
        return self.output(h)


def recipes() -> st.SearchStrategy[dict[str, object]]:
    block = st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["masked", "shifted", "1x1", "around"]),
            "style": st.sampled_from(["data", "product", "cat", "assign", "pad"]),
            "k": st.sampled_from([1, 3, 5]),
            "dilation": st.sampled_from([1, 2]),
            "groups": st.booleans(),
            "activation": st.sampled_from(ACTIVATIONS),
            "norm": st.sampled_from(["none", "batch", "layer", "by hand", "weight"]),
            "around": st.sampled_from(["none", "residual"]),
            "linear": st.booleans(),
        }
    )
    return st.fixed_dictionaries(
        {
            "colors": st.just(1),
            "params": st.sampled_from([1, 3]),
            "channels": st.sampled_from([4, 6]),
            "two_stacks": st.booleans(),
            "first": st.sampled_from(["masked", "shifted"]),
            "coordinates": st.booleans(),
            "classes": st.booleans(),
            "skip": st.booleans(),
            "blocks": st.lists(block, min_size=1, max_size=3),
        }
    )


def randomise(model: nn.Module) -> nn.Module:
    """Weights large enough that every feature shows, and statistics that batch norm has to use."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=max(parameter[0].numel(), 1) ** -0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return model
