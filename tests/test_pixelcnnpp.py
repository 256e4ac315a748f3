"""PixelCNN++: it sees every earlier pixel and no other, computes what another port does, and begins from data."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from architectures import randomise
from autoregressive import assert_normalised, before, influence, random_values
from fastgen import models, sampling
from fastgen.distributions import Bernoulli, DiscretizedLogisticMixture
from fastgen.models import AutoregressiveModel, PixelCNNPP
from foreign import ShiftedPixelCNN

SMALL: dict[str, Any] = {"levels": 4, "channels": 4, "blocks": 1, "resolutions": 2, "components": 3}
MIXTURE = {"levels": 4, "channels": 4, "layers": 2, "distribution": "logistic-mixture", "components": 3}
HEADS = {"pixelcnn": MIXTURE, "gated-pixelcnn": MIXTURE, "pixelcnn++": SMALL}
RECURRENT = {"row-lstm": MIXTURE, "diagonal-bilstm": MIXTURE}


def build(name: str = "pixelcnn++", in_channels: int = 3, **changes: Any) -> AutoregressiveModel:
    """Small, of weights large enough that every feature shows."""
    return randomise(models.build(name, **(HEADS | RECURRENT)[name] | {"in_channels": in_channels} | changes)).eval()


# ---- the mixture as the head of any pixel model


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(("in_channels", "H", "W"), [(1, 1, 1), (3, 3, 4), (1, 5, 3)])
def test_every_earlier_pixel_is_seen_and_no_other(name: str, in_channels: int, H: int, W: int) -> None:
    """All parameters of a pixel see all colours of those before it: of its own colours the mixture knows."""
    seen = influence(build(name, in_channels, channels=8), H, W, tries=4)
    expected = before(H * W).repeat_interleave(in_channels, 0).repeat_interleave(in_channels, 1)
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("name", HEADS | RECURRENT)
@pytest.mark.parametrize(("changes", "H", "W"), [({"in_channels": 1, "levels": 3}, 2, 3), ({"levels": 3}, 1, 2)])
def test_probabilities_of_all_images_add_up_to_one(name: str, changes: dict[str, Any], H: int, W: int) -> None:
    assert_normalised(build(name, **changes), H, W)


@pytest.mark.parametrize("name", HEADS | RECURRENT)
def test_a_config_is_ready_for_json_and_builds_the_same_model(name: str) -> None:
    model = build(name, image_size=4)
    config = json.loads(json.dumps(model.config))
    assert (config["distribution"], config["components"]) == ("logistic-mixture", 3)
    twin = models.build(name, **config)
    assert isinstance(twin.distribution, DiscretizedLogisticMixture)
    assert (twin.distribution.components, twin.distribution.levels) == (3, 4)
    twin.load_state_dict(model.state_dict())
    values = random_values(model, 2, 4, 4)
    assert torch.equal(twin.eval().log_prob(values), model.log_prob(values))
    assert twin.config == model.config


@pytest.mark.parametrize("name", ["pixelcnn", "gated-pixelcnn", "pixelcnn++", "diagonal-bilstm"])
def test_samples_are_those_of_naive_sampling(name: str) -> None:
    model = build(name, image_size=(5, 4))
    sampler, naive = sampling.compile(model, (3, 5, 4)), sampling.NaiveSampler(model, (3, 5, 4))
    assert sampler._program(False).draws
    assert sampling.verify(sampler, n=2).same
    known, mask = random_values(model, 3, 5, 4), torch.rand(3, 3, 5, 4) < 0.4
    given = {"known": known, "known_mask": mask, "uniforms": torch.rand(3, 6, 5, 4)}
    drawn = model.sample(**given)
    assert torch.equal(drawn, naive.sample(**given))
    assert torch.equal(drawn[mask], known[mask])


@pytest.mark.parametrize("size", [(8, 4), (5, 3)])
def test_any_size_is_planned_whatever_the_strides_leave(size: tuple[int, int]) -> None:
    """Three resolutions, so that sides of odd length are halved, too; told a class."""
    model = build(resolutions=3, classes=3, image_size=size)
    assert sampling.verify(sampling.compile(model, (3, *size)), n=1).same


# ---- the network


def port(model: PixelCNNPP) -> ShiftedPixelCNN:
    """Another port with the model's weights."""
    theirs = ShiftedPixelCNN(
        model.channels, model.blocks, model.resolutions, model.output.out_channels, model.in_channels
    )

    def copy(mine: nn.Module, other: nn.Module) -> None:
        for name in ("original0", "original1"):
            weight = getattr(other.parametrizations.weight, name)
            weight.copy_(getattr(mine.parametrizations.weight, name).view_as(weight))
        other.bias.copy_(mine.bias)

    def block(mine: nn.Module, other: nn.Module) -> None:
        copy(mine.input.conv, other.conv_input.conv)
        copy(mine.output.conv, other.conv_out.conv)
        if mine.other is not None:
            copy(mine.other, other.nin_skip.lin_a)

    with torch.no_grad():
        copy(model.above.conv, theirs.u_init.conv)
        copy(model.above_left.conv, theirs.ul_init[0].conv)
        copy(model.left.conv, theirs.ul_init[1].conv)
        copy(model.output, theirs.nin_out.lin_a)
        for layers, us, uls in ((model.down, theirs.up_u, theirs.up_ul), (model.back, theirs.down_u, theirs.down_ul)):
            for level, stage in enumerate(layers):
                assert len(stage) == len(us[level])
                for mine, u, ul in zip(stage, us[level], uls[level], strict=True):
                    block(mine.down, u)
                    block(mine.down_right, ul)
        for level in range(model.resolutions - 1):
            copy(model.shrink[level].down.conv, theirs.shrink_u[level].conv)
            copy(model.shrink[level].down_right.conv, theirs.shrink_ul[level].conv)
            copy(model.grow[level].down.conv, theirs.grow_u[level].deconv)
            copy(model.grow[level].down_right.conv, theirs.grow_ul[level].deconv)
    return theirs


def test_it_computes_what_another_port_does() -> None:
    model = build(channels=6, blocks=2, resolutions=3).double()
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    with torch.no_grad():
        assert (model(x) - port(model).double().eval()(x)).abs().max() < 1e-12 * model(x).abs().max()


def test_a_class_adds_to_the_gate_of_every_block() -> None:
    model = build(classes=3)
    values = random_values(model, 1, 4, 4).expand(3, -1, -1, -1)
    blocks = [module for module in model.modules() if getattr(module, "class_bias", None) is not None]
    assert len(blocks) == 2 * (1 + 1 + 1 + 2)
    for block in blocks:
        with torch.no_grad():
            before_change = model.log_prob(values, torch.arange(3))
            block.class_bias.weight[1] += 1
            changed = model.log_prob(values, torch.arange(3)) != before_change
        assert changed.tolist() == [False, True, False]


def test_the_first_layers_answer_in_the_layout_of_the_streams() -> None:
    """In channels_last: what oneDNN answers otherwise would be copied, on the way back, too."""
    model, found = build(in_channels=1, channels=8), []
    for layer in (model.above, model.above_left, model.left):
        layer.register_forward_hook(lambda *args: found.append(args[2]))
    model(torch.randn(2, 1, 5, 6))
    assert len(found) == 3
    assert all(y.is_contiguous(memory_format=torch.channels_last) and not y.is_contiguous() for y in found)


def test_the_papers_sizes() -> None:
    with torch.device("meta"):
        model = PixelCNNPP()
    assert sum(parameter.numel() for parameter in model.parameters()) == 53_659_080
    assert model.output.out_channels == 100
    assert [len(layers) for layers in (*model.down, *model.back)] == [5, 5, 5, 5, 6, 6]
    assert (model.dropout, model.image_size) == (0.5, (32, 32))


def test_dropout_leaves_out_single_features() -> None:
    model = PixelCNNPP(1, dropout=0.4, **SMALL).train()
    seen: list[Tensor] = []
    block = model.down[0][0].down
    block.output.conv.register_forward_pre_hook(lambda _, args: seen.append(args[0][:, :, 3:, 1:-1]))
    model(torch.randn(8, 1, 12, 12))
    zeros = (seen[0] == 0).float()
    assert abs(zeros.mean() - 0.4) < 0.05
    assert zeros.mean((2, 3)).amax() < 0.9, "no whole channels"
    model.eval()(torch.randn(8, 1, 12, 12))
    assert (seen[1] != 0).all(), "but for the border, and the first rows, which see nothing"


def test_a_categorical_head() -> None:
    model = build(in_channels=1, levels=2, distribution="categorical")
    assert isinstance(model.distribution, Bernoulli)
    assert model.config["distribution"] == "categorical"
    assert_normalised(model, 2, 3)


def test_it_compiles_whole() -> None:
    model = build(in_channels=1, classes=3, resolutions=1)
    x, labels = torch.rand(2, 1, 5, 6), torch.tensor([0, 2])
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(x, labels)
        torch.testing.assert_close(compiled, model(x, labels))
        program = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
        for n in (2, 3):
            x, labels = torch.rand(n, 1, 5, 6), torch.arange(n)
            torch.testing.assert_close(program(x, labels), model(x, labels))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 2}, "channels: expected 1 or 3 colours, .* got 2"),
        ({"resolutions": 0}, "resolutions: expected a positive integer, got 0"),
        ({"dropout": 1.5}, "dropout: expected .* from 0 to 1, got 1.5"),
        ({"components": 0}, "components: expected a positive integer, got 0"),
        ({"distribution": "gaussian"}, "distribution: expected .*'categorical'.*, got 'gaussian'"),
    ],
)
def test_errors_name_argument_expected_and_got(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelCNNPP(**arguments)
