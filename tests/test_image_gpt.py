"""ImageGPT: a token a pixel, predicted from those before it as the published code does, in training and in a plan."""

import json
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from architectures import randomise
from autoregressive import assert_normalised, before, influence, labels_for, random_values
from fastgen import models, sampling
from fastgen.distributions import Bernoulli, Categorical, DiscretizedLogisticMixture
from fastgen.models import ImageGPT
from samplers import assert_same_as_naive

SMALL: dict[str, Any] = {"levels": 4, "channels": 8, "layers": 2, "heads": 2, "components": 3}


def build(in_channels: int = 3, **changes: Any) -> ImageGPT:
    """Small, of weights large enough that every feature shows."""
    return randomise(ImageGPT(in_channels, **SMALL | changes)).eval()


# ---- what it sees


@pytest.mark.parametrize(("in_channels", "H", "W"), [(1, 1, 1), (3, 3, 4), (1, 5, 3)])
def test_every_earlier_pixel_is_seen_and_no_other(in_channels: int, H: int, W: int) -> None:
    """All parameters of a pixel see all colours of those before it."""
    seen = influence(build(in_channels, image_size=(H, W)), H, W, tries=4, levels=4)
    expected = before(H * W).repeat_interleave(in_channels, 0).repeat_interleave(in_channels, 1)
    assert torch.equal(seen, expected)


@pytest.mark.parametrize(
    ("changes", "H", "W"),
    [({"in_channels": 1, "levels": 3}, 2, 3), ({"levels": 3}, 1, 2), ({"distribution": "categorical"}, 1, 2)],
)
def test_probabilities_of_all_images_add_up_to_one(changes: dict[str, Any], H: int, W: int) -> None:
    assert_normalised(build(**changes, image_size=(H, W)), H, W)


def test_it_computes_what_the_published_code_does() -> None:
    """Start token, shift by one, heads, mask, pre-norm; but for its norms without a mean, and its GELU, x·σ(1.702x)."""
    model, T = build(1, image_size=(3, 4)).double(), 12
    values = random_values(model, 2, 3, 4)
    with torch.no_grad():
        h = model.tokens[0].weight[values.flatten(1)]
        h = torch.cat([model.start.weight[:1].expand(2, 1, 8), h[:, :-1]], 1) + model.positions
        for block in model.blocks:
            n = F.layer_norm(h, (8,), block.attention_norm.weight, block.attention_norm.bias)
            q, k, v = (n @ part.T for part in block.attention.qkv.weight.chunk(3))
            for head in range(2):
                own = slice(4 * head, 4 * head + 4)
                scores = q[..., own] @ k[..., own].transpose(1, 2) / math.sqrt(4)
                b = torch.ones(T, T, dtype=torch.float64).tril()
                weights = (scores * b - 1e10 * (1 - b)).softmax(-1)
                h = h + weights @ v[..., own] @ block.attention.out.weight[:, own].T
            n = F.layer_norm(h, (8,), block.norm.weight, block.norm.bias)
            h = h + F.gelu(n @ block.up.weight.T) @ block.down.weight.T
        logits = F.layer_norm(h, (8,), model.norm.weight, model.norm.bias) @ model.output.weight.T
        torch.testing.assert_close(model(model.to_input(values)).flatten(2).transpose(1, 2), logits)


def test_a_class_is_its_start_token() -> None:
    model = build(classes=3, image_size=4)
    values = random_values(model, 1, 4, 4).expand(3, -1, -1, -1)
    with torch.no_grad():
        before_change = model.log_prob(values, torch.arange(3))
        model.start.weight[1] += torch.randn(8)
        assert (model.log_prob(values, torch.arange(3)) != before_change).tolist() == [False, True, False]


def test_levels_are_names() -> None:
    """Renamed, they are as likely."""
    model, order = build(1, image_size=(2, 3)), torch.tensor([3, 0, 2, 1])
    twin, values = build(1, image_size=(2, 3)), torch.randint(4, (5, 1, 2, 3))
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        twin.tokens[0].weight[order] = model.tokens[0].weight
        twin.output.weight[order] = model.output.weight
    torch.testing.assert_close(twin.log_prob(order[values]), model.log_prob(values))


# ---- drawing


@pytest.mark.parametrize(
    "changes",
    [{"in_channels": 1}, {}, {"in_channels": 1, "levels": 2}, {"classes": 2}, {"distribution": "categorical"}],
)
@pytest.mark.parametrize("size", [(4, 5), (3, 2)])
def test_it_is_drawn_by_a_plan_that_attends(size: tuple[int, int], changes: dict[str, Any]) -> None:
    model = build(**changes, image_size=size)
    shape = (model.in_channels, *size)
    assert_same_as_naive(model, shape, model.distribution, condition=labels_for(model, 2), to_input=torch.Tensor.float)
    sampler = sampling.compile(model, shape)
    assert sum(instruction.attend is not None for instruction in sampler.plan.instructions) == 2
    given = {"seed": 1, "labels": labels_for(model, 2)}
    assert torch.equal(model.sample(2, **given), sampler.sample(2, **given))


@pytest.mark.parametrize("changes", [{"in_channels": 1}, {}, {"classes": 2}, {"in_channels": 1, "levels": 2}])
def test_one_pixel_is_drawn_from_its_marginal(changes: dict[str, Any]) -> None:
    """Nothing depends on the image."""
    model = build(**changes, image_size=1)
    shape, labels = (model.in_channels, 1, 1), labels_for(model, 2)
    assert_same_as_naive(model, shape, model.distribution, condition=labels, to_input=torch.Tensor.float)
    values = random_values(model, 2, 1, 1)
    with torch.no_grad():
        p = model.log_prob(values, labels)[0].exp()
    drawn = model.sample(400, labels=None if labels is None else labels[0], seed=1)
    often = (drawn == values[0]).flatten(1).all(1).double().mean()
    assert abs(often - p) < 5 * (p * (1 - p) / 400).sqrt()


# ---- training


@pytest.mark.parametrize("in_channels", [1, 3])
def test_it_trains(in_channels: int) -> None:
    """Every gradient is finite, and each weight has one once the last layer has left zero; positions' as well."""
    torch.manual_seed(0)
    model = ImageGPT(in_channels, **SMALL, image_size=(5, 6)).train()
    ramp = torch.arange(5)[:, None] + torch.arange(6)
    values = torch.stack([(ramp + i) % 4 for i in range(8)])[:, None].expand(-1, in_channels, -1, -1)
    optimizer, nats = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for step in range(80):
        optimizer.zero_grad()
        loss = model.losses(values)["nats"].mean()
        loss.backward()
        grads = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
        assert step == 0 or all(grad.any() for grad in grads.values())
        optimizer.step()
        nats.append(loss.item())
    assert all(map(math.isfinite, nats))
    assert nats[-1] < 0.5 * nats[0]


def test_it_begins_as_the_published_code_does() -> None:
    """Equal logits; but no two logistics, which would learn the same."""
    model = ImageGPT(1, 4, 64, 4, 2, image_size=8)
    assert not model.output.weight.any()
    values = torch.randint(4, (2, 1, 8, 8))
    torch.testing.assert_close(model.log_prob(values), torch.full((2,), -64 * math.log(4)))
    stds = (model.blocks[0].attention.qkv.weight.std(), model.blocks[0].attention.out.weight.std())
    for got, expected in zip(stds, (64**-0.5, 256**-0.5), strict=True):
        assert abs(got / expected - 1) < 0.1
    params = ImageGPT(3, **SMALL, image_size=4)(torch.zeros(1, 3, 4, 4))
    assert len(params[0, :, 1, 1].unique()) == 30


def test_dropout_is_of_what_a_block_adds_in_training_alone() -> None:
    model = build(1, dropout=0.5, image_size=4)
    x, seen = torch.randint(4, (3, 1, 4, 4)).float(), list[Tensor]()
    assert torch.equal(model(x), model(x))
    model.blocks[0].dropout.register_forward_hook(lambda *args: seen.append((args[2] == 0).float()))
    assert not torch.equal(model.train()(x), model(x))
    assert len(seen) == 4
    assert all(abs(zeros.mean() - 0.5) < 0.1 for zeros in seen)


# ---- what it is built of


def test_the_papers_sizes() -> None:
    with torch.device("meta"):
        model = ImageGPT()
    assert sum(parameter.numel() for parameter in model.parameters()) == 76_596_736
    assert (model.channels, model.layers, model.heads, model.levels, model.sides) == (512, 24, 8, 512, (32, 32))
    assert isinstance(model.distribution, Categorical)


def test_the_law_is_of_the_colours_unless_it_is_said() -> None:
    laws = [type(ImageGPT(C, **SMALL | {"levels": levels}).distribution) for C, levels in ((1, 4), (1, 2), (3, 4))]
    assert laws == [Categorical, Bernoulli, DiscretizedLogisticMixture]


@pytest.mark.parametrize("in_channels", [1, 3])
def test_a_config_is_ready_for_json_and_builds_the_same_model(in_channels: int) -> None:
    model = build(in_channels, image_size=4)
    twin = models.build("image-gpt", **json.loads(json.dumps(model.config)))
    twin.load_state_dict(model.state_dict())
    values = random_values(model, 2, 4, 4)
    assert torch.equal(twin.eval().log_prob(values), model.log_prob(values))
    assert twin.config == model.config


def test_it_compiles_whole() -> None:
    model = build(classes=3, image_size=(5, 6))
    x, labels = torch.randint(4, (2, 3, 5, 6)).float(), torch.tensor([0, 2])
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(x, labels)
        torch.testing.assert_close(compiled, model(x, labels))


def test_other_sizes_are_refused_by_name() -> None:
    model = build(1, image_size=(4, 5))
    with pytest.raises(ValueError, match=r"values: expected images of \(4, 5\), the image_size .* got \(1, 1, 5, 4\)"):
        model.log_prob(torch.zeros(1, 1, 5, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"x: expected images of \(4, 5\), .* got \(1, 1, 4, 4\)"):
        model(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"size: expected None or \(4, 5\), .* got 5"):
        model.sample(1, size=5)
    assert model.sample(1, size=(4, 5), seed=0).shape == (1, 1, 4, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": None}, r"image_size: expected one size or \(H, W\), got None"),
        ({"channels": 12, "heads": 5}, "channels: expected a multiple of heads = 5, got 12"),
        ({"layers": 0}, "layers: expected a positive integer, got 0"),
        ({"dropout": -1}, "dropout: expected .* from 0 to 1, got -1"),
        ({"distribution": "gaussian"}, "distribution: expected .*'categorical'.*, got 'gaussian'"),
    ],
)
def test_errors_name_argument_expected_and_got(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        ImageGPT(**arguments)


def test_images_of_one_row_are_refused_by_what_is_wrong_with_them() -> None:
    with pytest.raises(
        sampling.UnsupportedModelError, match="which the dimensions cannot be told apart in images of 1x2"
    ):
        ImageGPT(1, 2, channels=8, layers=1, heads=2, image_size=(1, 2)).sample(1, seed=0)
