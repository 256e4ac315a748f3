"""Causal models that were refused, or that are refused for the right reason."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures import randomise
from fastgen import sampling
from fastgen.distributions import Bernoulli, Categorical
from fastgen.nn import MaskedConv2d
from fastgen.sampling import UnsupportedModelError
from samplers import assert_same_as_naive
from test_meanings import Around


def by_constants(m: nn.Module, h: Tensor) -> Tensor:
    even = (torch.arange(h.shape[3]) % 2 == 0).expand(h.shape[2:])
    y = torch.where(h > 0.1, h, 0.1 * h) * (h.abs() <= 1) + torch.where(even, h, 0.5)
    return y.masked_fill(even, -2.0) + (h != 0).to(h.dtype) * 0.5 + ((h > 0) & ~(h > 1)).to(h.dtype)


def unused_loss(m: nn.Module, h: Tensor) -> Tensor:
    m.loss = (h.flip(3).cumsum(2) - h.mean()).abs().max()
    return h


def overlapping_slices(m: nn.Module, h: Tensor) -> Tensor:
    h = h.clone()
    first, second, third = h[:, :3], h[:, 2:5], h[:, 4:]
    first += 1.5
    second *= second.mean(1, keepdim=True)
    third -= 0.5
    first += h[:, 3:]
    return torch.cat((third, second, first[:, :1]), 1)


def overlapping_rows(m: nn.Module, h: Tensor) -> Tensor:
    h = h.clone()
    upper, lower = h[:, :, :-1], h[:, :, 1:]
    upper += 1.5
    lower *= 2
    return torch.cat((upper[:, :, :1], lower), 2)


def views_before_a_change(m: nn.Module, h: Tensor) -> Tensor:
    h = h.clone()
    last, flat, one = h.permute(0, 2, 3, 1), h.flatten(2), h[:, 0]
    h[:, :4] += 1
    return last.permute(0, 3, 1, 2) * flat.view(h.shape) + one.unsqueeze(1)


def views_of_zeros(m: nn.Module, h: Tensor) -> Tensor:
    y = torch.zeros_like(h)
    first, second = y[:, :4], y[:, 2:]
    first.copy_(h[:, :4])
    return torch.cat((second, first[:, :2]), 1)


def a_kept_tensor(m: nn.Module, h: Tensor) -> Tensor:
    if getattr(m, "kept", h[:0]).shape != h.shape:
        m.kept = torch.ones_like(h)
    m.kept[:, :4] = h[:, :4]
    return m.kept


def rows_beside_a_constant(m: nn.Module, h: Tensor) -> Tensor:
    above = torch.cat((torch.full_like(h[:, :, :1], 0.7), h[:, :, :-1]), 2)
    return h + above + torch.cat((torch.ones_like(h[..., :1]), h[..., :-1]), 3)


def in_bfloat16(m: nn.Module, h: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return F.conv2d(h, torch.ones(6, 6, 1, 1)).float()


PLANNED = {
    "normalised channels": lambda m, h: F.normalize(h, dim=1) + F.normalize(h, 1, 1) + F.normalize(h, torch.inf, 1),
    "channels in another order": lambda m, h: h.flip(1) + h.roll(2, 1).unflatten(1, (2, 3)).roll(-1, -3).flatten(1, 2),
    "cumsum, threshold": lambda m, h: h.cumsum(1) + F.threshold(h, 0.3, -0.5) + F.threshold(h.relu().log(), -3.0, 0.5),
    "overlapping slices of channels": overlapping_slices,
    "overlapping slices of rows": overlapping_rows,
    "views made before a change": views_before_a_change,
    "views of zeros that are filled": views_of_zeros,
    "part of a kept tensor filled": a_kept_tensor,
    "rows beside a constant": rows_beside_a_constant,
    "windows up to a pixel": lambda m, h: F.max_pool2d(F.pad(h, (2, 0, 2, 0)), 3, 1),
    "windows of which some are beside the image": lambda m, h: h + F.max_pool2d(F.pad(h, (2, 0)), (1, 3), 1),
    "windows that torch pads": lambda m, h: F.pad(F.max_pool2d(h - 3, 3, 1, 1), (1, 0, 1, 0))[..., :-1, :-1],
    "means of windows": lambda m, h: F.avg_pool2d(F.pad(h, (2, 0, 1, 0)), (2, 3), 1),
    "means of what is inside": lambda m, h: F.avg_pool2d(
        F.pad(h, (0, 0, 1, 0)), (3, 1), 1, (1, 0), count_include_pad=False
    )[:, :, :-1],
    "means of another divisor": lambda m, h: F.avg_pool2d(F.pad(h, (1, 0)), (1, 2), 1, divisor_override=3),
    "group norm over each pixel's channels": lambda m, h: (
        F.group_norm(h.permute(0, 2, 3, 1).flatten(0, 2), 3, torch.arange(6.0).to(h), torch.ones(6).to(h))
        .unflatten(0, (len(h), *h.shape[2:]))
        .permute(0, 3, 1, 2)
    ),
    "softmax over channels": lambda m, h: h.softmax(1) + h.log_softmax(1) + h.logsumexp(1, True),
    "a sum over part of the channels": lambda m, h: h.unflatten(1, (2, 3)).sum(1).repeat(1, 2, 1, 1),
    "a softmax in groups": lambda m, h: h.unflatten(1, (2, 3)).softmax(2).flatten(1, 2),
    "extremes and statistics": lambda m, h: h - h.amax(1, True) + h.std(1, keepdim=True) * h.amin((1,), True),
    "maxout": lambda m, h: h.unflatten(1, (3, 2)).max(2).values.repeat(1, 2, 1, 1),
    "comparisons and choices": by_constants,
    "erf, log1p, celu, logit": lambda m, h: (
        torch.erf(h) + h.abs().log1p() + F.celu(h, 0.5) + h.sigmoid().logit() + F.logsigmoid(h)
    ),
    "a mask of minus infinity": lambda m, h: h.masked_fill(torch.arange(6).view(-1, 1, 1) > 3, -torch.inf).softmax(1),
    "a new leading dimension": lambda m, h: torch.stack((h, h * 2)).sum(0) + torch.stack((h, h.sin())).unbind(0)[1],
    "dead code": unused_loss,
}


@pytest.mark.parametrize("what", PLANNED)
def test_planned(what):
    assert_same_as_naive(randomise(Around(PLANNED[what], 6, None)), (1, 5, 6), Bernoulli())


@pytest.mark.parametrize("size", [(4, 1), (1, 1), (1, 4)])
def test_products_over_channels_of_a_narrow_image(size):
    """Views of these may leave positions of size 1 beside the channels."""
    weight = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))

    def products(m: nn.Module, h: Tensor) -> Tensor:
        w, last = weight.to(h.dtype), h.movedim(1, -1)
        by_rows = torch.einsum("oc,nhwc->nhwo", w, last).movedim(-1, 1)
        by_matrix = (last.reshape(-1, 6) @ w).view(last.shape).movedim(-1, 1)
        return by_rows + by_matrix + torch.einsum("oc,nwhc->nohw", w, h.permute(0, 3, 2, 1))

    assert_same_as_naive(randomise(Around(products, 6, None)), (1, *size), Bernoulli())


class PerColour(nn.Module):
    """A layer norm over each colour's channels: what one colour waits for, another need not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = MaskedConv2d(3, 12, 3, "A", color_groups=3)
        self.norm = nn.LayerNorm(4)
        self.output = MaskedConv2d(12, 6, 3, "B", color_groups=3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).unflatten(1, (3, 4)).movedim(2, -1)
        return self.output(F.relu(self.norm(h).movedim(-1, 2).flatten(1, 2)))


def test_a_layer_norm_over_each_colours_channels():
    assert_same_as_naive(randomise(PerColour()), (3, 5, 4), Categorical(2))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2).transpose(1, 2)
        return self.attention(flat, flat, flat)[0].transpose(1, 2).unflatten(2, x.shape[2:])


REASONS = [
    (lambda m, h: m.layer(h), Attending(), "attention"),
    (lambda m, h: h.flatten(2).softmax(2).view_as(h), None, "over rows, columns or images"),
    (lambda m, h: F.one_hot((h > 0).long()[:, 0]).movedim(-1, 1).float(), None, "F.one_hot without num_classes"),
    (lambda m, h: h.double().float(), None, "a result of torch.float64, where a plan has the image's torch.float32"),
    (in_bfloat16, None, "bfloat16, .*: leave casts and autocast out of .* sampling.NaiveSampler"),
    (lambda m, h: h.view(torch.int32).view(torch.float32), None, "a result of torch.int32"),
    (lambda m, h: h.int().view(torch.float32), None, "a view of its bits as another dtype"),
    (lambda m, h: (h.long() // 2).float(), None, "floor_divide cannot be planned|a division that rounds"),
    (lambda m, h: (~h.long()).float(), None, "a result of torch.int64"),
    (lambda m, h: h.to(torch.uint8).float(), None, "a result of torch.uint8"),
    (
        lambda m, h: F.interpolate(h[:, :, ::2, ::2], scale_factor=2.3)[:, :, : h.shape[2], : h.shape[3]],
        None,
        "an enlargement by a factor that is no integer",
    ),
]


@pytest.mark.parametrize(("function", "layer", "reason"), REASONS)
def test_refused_for_its_reason(function, layer, reason):
    with pytest.raises(UnsupportedModelError, match=reason):
        sampling.compile(randomise(Around(function, 6, layer)).eval(), (1, 4, 4), Bernoulli(), "[-1, 1]")
