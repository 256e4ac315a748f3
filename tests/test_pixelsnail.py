"""PixelSNAIL: every earlier pixel is seen and no other, by attention as the paper has it, in training and in a plan."""

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
from fastgen.models import PixelSNAIL
from samplers import assert_same_as_naive

SMALL: dict[str, Any] = {
    "levels": 4, "channels": 6, "blocks": 2, "layers": 1, "keys": 4, "values": 5, "components": 3, "dropout": 0.0,
}  # fmt: skip


def build(in_channels: int = 3, **changes: Any) -> PixelSNAIL:
    """Small, of weights large enough that every feature shows."""
    return randomise(PixelSNAIL(in_channels, **SMALL | changes)).eval()


# ---- what it sees


@pytest.mark.parametrize(("in_channels", "H", "W"), [(1, 1, 1), (3, 3, 4), (1, 5, 3)])
def test_every_earlier_pixel_is_seen_and_no_other(in_channels: int, H: int, W: int) -> None:
    """Those above right too, where the convolutions' own view ends: attention reaches them."""
    seen = influence(build(in_channels, channels=8), H, W, tries=4)
    expected = before(H * W).repeat_interleave(in_channels, 0).repeat_interleave(in_channels, 1)
    assert torch.equal(seen, expected)


@pytest.mark.parametrize(("changes", "H", "W"), [({"in_channels": 1, "levels": 3}, 2, 3), ({"levels": 3}, 1, 2)])
def test_probabilities_of_all_images_add_up_to_one(changes: dict[str, Any], H: int, W: int) -> None:
    assert_normalised(build(**changes), H, W)


def test_attention_is_the_papers() -> None:
    """softmax(q·kᵀ / √d) v over strictly earlier pixels, zeros for the first: query by query."""
    model, H, W = build(1).double(), 3, 4
    x, h = torch.randn(2, 1, H, W, dtype=torch.float64), torch.randn(2, 6, H, W, dtype=torch.float64)
    rows = ((torch.arange(H, dtype=torch.float64) - H / 2) / H)[:, None].expand(2, 1, H, W)
    columns = ((torch.arange(W, dtype=torch.float64) - W / 2) / W).expand(2, 1, H, W)
    place = torch.cat((rows, columns), 1)
    torch.testing.assert_close(models.pixelsnail.background(x), place)
    block, merged = model.attention[0], []
    block.merge.register_forward_pre_hook(lambda _, args: merged.append(args[1]))
    with torch.no_grad():
        block(h, x, place, torch.ones(H * W, H * W, dtype=torch.bool).tril(-1), None)
        both = block.key_value(F.elu(block.read(torch.cat((x, h, place), 1)))).flatten(2)
        query = block.query(F.elu(block.ask(torch.cat((h, place), 1)))).flatten(2)
    key, value = both[:, :4], both[:, 4:]
    expected = torch.zeros(2, 5, H * W, dtype=torch.float64)
    for t in range(1, H * W):
        weights = (torch.einsum("nd,ndt->nt", query[:, :, t], key[:, :, :t]) / math.sqrt(4)).softmax(1)
        expected[:, :, t] = torch.einsum("nt,ndt->nd", weights, value[:, :, :t])
    torch.testing.assert_close(merged[0].flatten(2), expected)
    assert (merged[0][:, :, 0, 0] == 0).all()


def test_a_class_adds_to_the_gate_of_every_block() -> None:
    model = build(classes=3)
    values = random_values(model, 1, 4, 4).expand(3, -1, -1, -1)
    blocks = [module for module in model.modules() if getattr(module, "class_bias", None) is not None]
    assert len(blocks) == 2 * (1 + 3)
    for block in blocks:
        with torch.no_grad():
            before_change = model.log_prob(values, torch.arange(3))
            block.class_bias.weight[1] += 1
            changed = model.log_prob(values, torch.arange(3)) != before_change
        assert changed.tolist() == [False, True, False]


# ---- drawing


@pytest.mark.parametrize(
    ("size", "changes"),
    [((4, 5), {"in_channels": 1}), ((4, 5), {}), ((1, 4), {"in_channels": 1, "levels": 2}), ((3, 2), {"classes": 2})],
)
def test_it_is_drawn_by_a_plan_that_attends(size: tuple[int, int], changes: dict[str, Any]) -> None:
    model = build(**changes)
    shape = (model.in_channels, *size)
    assert_same_as_naive(model, shape, model.distribution, condition=labels_for(model, 2))
    sampler = sampling.compile(model, shape)
    assert sum(instruction.attend is not None for instruction in sampler.plan.instructions) == 2
    given = {"seed": 1, "labels": labels_for(model, 2)}
    assert torch.equal(model.sample(2, size=size, **given), sampler.sample(2, **given))


@pytest.mark.parametrize("changes", [{"in_channels": 1}, {}, {"classes": 2}])
def test_one_pixel_is_drawn_from_its_marginal(changes: dict[str, Any]) -> None:
    """Its attention has no key."""
    model = build(**changes)
    shape, labels = (model.in_channels, 1, 1), labels_for(model, 2)
    assert_same_as_naive(model, shape, model.distribution, condition=labels)
    assert model.sample(2, size=1, labels=labels, seed=0).shape == (2, *shape)


# ---- training


@pytest.mark.parametrize("in_channels", [1, 3])
def test_it_trains_from_weights_that_begin_from_data(in_channels: int) -> None:
    """Every gradient is finite, the first pixel's too, which has nothing to attend to; and each weight has one."""
    torch.manual_seed(0)
    model = PixelSNAIL(in_channels, **SMALL).train()
    ramp = torch.arange(5)[:, None] + torch.arange(6)
    values = torch.stack([(ramp + i) % 4 for i in range(8)])[:, None].expand(-1, in_channels, -1, -1)
    model.begin_training(values)
    assert model.initialised == 1
    optimizer, nats = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model.losses(values)["nats"].mean()
        loss.backward()
        grads = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert all(grad is not None and grad.isfinite().all() and grad.any() for grad in grads.values()), loss
        optimizer.step()
        nats.append(loss.item())
    assert all(map(math.isfinite, nats))
    assert nats[-1] < 0.5 * nats[0]


def test_features_begin_with_mean_0_and_variance_1() -> None:
    model, values = PixelSNAIL(1, **SMALL), torch.randint(4, (6, 1, 5, 5))
    model.begin_training(values)
    seen: list[Tensor] = []
    model.attention[1].query.register_forward_hook(lambda *args: seen.append(args[2]))
    began = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.eval()(model.to_input(values))
    torch.testing.assert_close(seen[0].mean((0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(seen[0].var((0, 2, 3), correction=0), torch.ones(4), atol=1e-2, rtol=0)
    model.begin_training(torch.randint(4, (6, 1, 5, 5)))
    assert all(torch.equal(tensor, began[name]) for name, tensor in model.state_dict().items()), "only once"


def test_dropout_leaves_out_single_features_of_every_block() -> None:
    model = build(1, dropout=0.4)
    x = torch.randn(1, 1, 6, 6)
    assert torch.equal(model(x), model(x)), "in training alone"
    blocks = [module for module in model.modules() if isinstance(module, models.pixelsnail.ResidualBlock)]
    assert [block.dropout.p for block in blocks] == [0.4] * 8
    h = torch.randn(4, 6, 12, 12)
    seen: list[Tensor] = []
    blocks[0].dropout.register_forward_hook(lambda *args: seen.append(args[2][:, :, 1:, 1:]))
    blocks[0].train()(h)
    zeros = (seen[0] == 0).float()
    assert abs(zeros.mean() - 0.4) < 0.05
    assert zeros.mean((2, 3)).amax() < 0.9, "no whole channels"


# ---- what it is built of


def test_the_papers_sizes() -> None:
    with torch.device("meta"):
        model = PixelSNAIL()
    assert model.output.out_channels == 100
    assert [len(blocks) for blocks in model.residual] == [4] * 12
    assert model.attention[0].sizes == (16, 128)
    assert (model.attention[0].key_value.in_channels, model.attention[0].query.in_channels) == (3 + 256 + 2, 256 + 2)
    assert (model.dropout, model.image_size) == (0.5, (32, 32))


def test_the_law_is_of_the_colours_unless_it_is_said() -> None:
    laws = [type(PixelSNAIL(C, **SMALL | {"levels": levels}).distribution) for C, levels in ((1, 4), (1, 2), (3, 4))]
    assert laws == [Categorical, Bernoulli, DiscretizedLogisticMixture]
    assert isinstance(PixelSNAIL(1, **SMALL, distribution="logistic-mixture").distribution, DiscretizedLogisticMixture)
    assert isinstance(PixelSNAIL(3, **SMALL, distribution="categorical").distribution, Categorical)


@pytest.mark.parametrize("in_channels", [1, 3])
def test_a_config_is_ready_for_json_and_builds_the_same_model(in_channels: int) -> None:
    model = build(in_channels, image_size=4)
    twin = models.build("pixelsnail", **json.loads(json.dumps(model.config)))
    twin.load_state_dict(model.state_dict())
    values = random_values(model, 2, 4, 4)
    assert torch.equal(twin.eval().log_prob(values), model.log_prob(values))
    assert twin.config == model.config


def test_it_compiles_whole() -> None:
    model = build(1, classes=3, blocks=1)
    x, labels = torch.rand(2, 1, 5, 6), torch.tensor([0, 2])
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(x, labels)
        torch.testing.assert_close(compiled, model(x, labels))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 2, "distribution": "logistic-mixture"}, "channels: expected 1 or 3 colours, .* got 2"),
        ({"keys": 0}, "keys: expected a positive integer, got 0"),
        ({"values": 1.5}, "values: expected a positive integer, got 1.5"),
        ({"blocks": 0}, "blocks: expected a positive integer, got 0"),
        ({"dropout": 1.5}, "dropout: expected .* from 0 to 1, got 1.5"),
        ({"distribution": "gaussian"}, "distribution: expected .*'categorical'.*, got 'gaussian'"),
        ({"label_smoothing": 0.1}, "label_smoothing: expected 0 with the distribution logistic-mixture"),
    ],
)
def test_errors_name_argument_expected_and_got(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        PixelSNAIL(**arguments)
