"""PixelCNN++: it sees every earlier pixel and no other, computes what another port does, and begins from data."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import tiny
from architectures import randomise
from autoregressive import assert_normalised, before, influence, random_values
from fastgen import models, sampling
from fastgen.distributions import Bernoulli, DiscretizedLogisticMixture
from fastgen.models import AutoregressiveModel, PixelCNNPP
from fastgen.nn import data_dependent_init
from fastgen.training import Recipe, Run, Trainer
from foreign import ShiftedPixelCNN
from trainers import assert_same, lines, new_run

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
    block.output.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(torch.randn(8, 1, 12, 12))
    zeros = (seen[0] == 0).float()
    assert abs(zeros.mean() - 0.4) < 0.05
    assert zeros.mean((2, 3)).amax() < 0.9, "no whole channels"
    model.eval()(torch.randn(8, 1, 12, 12))
    assert (seen[1][:, :, 2:] != 0).all(), "but for the first rows, which see nothing"


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


# ---- where training begins


def outputs(model: nn.Module, *inputs: Any) -> dict[nn.Module, Tensor]:
    """What every weight-normed layer answers."""
    found: dict[nn.Module, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda layer, _, y: found.update({layer: y}))
        for module in model.modules()
        if hasattr(module, "parametrizations")
    ]
    with torch.no_grad():
        model(*inputs)
    for hook in hooks:
        hook.remove()
    return found


def assert_begun(found: dict[nn.Module, Tensor], channel: int = 1) -> None:
    for layer, y in found.items():
        rows, scale = y.movedim(channel, 0).flatten(1), getattr(layer, "init_scale", 1.0)
        torch.testing.assert_close(rows.mean(1), torch.zeros(len(rows)), rtol=0, atol=1e-4)
        torch.testing.assert_close(rows.std(1, correction=0), torch.full((len(rows),), scale), rtol=1e-3, atol=0)


def test_features_begin_with_mean_0_and_variance_1() -> None:
    """Those of the blocks' last convolutions with a tenth of it, before the gate."""
    model = PixelCNNPP(3, **SMALL | {"resolutions": 3}, dropout=0.0, classes=3).train()
    values, labels = random_values(model, 6, 8, 8), torch.arange(6) % 3
    model.begin_training(values, labels)
    assert model.initialised == 1
    found = outputs(model, model.to_input(values), labels)
    assert len(found) == 3 + 1 + 8 + 3 * 2 + 3 * 3 + 2 * 5 * 3
    assert_begun(found)
    assert {getattr(layer, "init_scale", 1.0) for layer in found} == {1.0, 0.1}
    begun = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.begin_training(random_values(model, 6, 8, 8), labels)
    other = PixelCNNPP(3, **SMALL | {"resolutions": 3}, dropout=0.0, classes=3)
    other.load_state_dict(begun)
    other.begin_training(random_values(model, 6, 8, 8), labels)
    for each in (model, other):  # what has begun, or was loaded, is left as it is
        assert all(torch.equal(tensor, begun[name]) for name, tensor in each.state_dict().items())


def test_any_weight_normed_layers_begin_so() -> None:
    model = nn.Sequential(
        weight_norm(nn.Conv1d(2, 5, 3)), nn.Tanh(), weight_norm(nn.ConvTranspose1d(5, 4, 2), dim=1), nn.Conv1d(4, 4, 1)
    )
    x = 3 + 5 * torch.randn(7, 2, 9)
    data_dependent_init(model, lambda: model(x))
    assert_begun(outputs(model, x))
    linear = weight_norm(nn.Linear(4, 3))
    x = torch.randn(5, 6, 4) - 2
    data_dependent_init(linear, lambda: linear(x))
    assert_begun(outputs(linear, x), channel=-1)
    plain = weight_norm(nn.Linear(4, 3, bias=False))
    data_dependent_init(plain, lambda: plain(x))
    y = plain(x)
    torch.testing.assert_close(y.flatten(0, 1).std(0, correction=0), torch.ones(3))
    assert y.mean().abs() > 0.1, "without a bias the mean stays"
    assert not linear._forward_hooks


def test_layers_that_cannot_begin_so_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model: expected layers with .*weight_norm, got none"):
        data_dependent_init(nn.Linear(2, 2), lambda: None)
    wrong = weight_norm(nn.ConvTranspose2d(5, 4, 2))
    with pytest.raises(ValueError, match=r"a norm for each of the 4 output channels of .*, got 5; .* dim=1"):
        data_dependent_init(wrong, lambda: None)

    def fail() -> None:
        raise RuntimeError("no data")

    layer = weight_norm(nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="no data"):
        data_dependent_init(layer, fail)
    assert not layer._forward_hooks


RECIPE = Recipe(
    epochs=2, batch_size=12, lr=0.01, lr_decay=0.99, betas=(0.95, 0.9995), optimizer="adam", ema=0.8, save_every=1
)


def trainer(run: Run | None = None, recipe: Recipe = RECIPE) -> Trainer:
    torch.manual_seed(0)
    return Trainer(PixelCNNPP(1, **SMALL | {"levels": 3}, image_size=4), recipe, run)


def test_a_run_begins_once_and_resumed_is_unbroken(tmp_path: Path) -> None:
    """Dropout and all; the first average is of weights that have begun from data."""
    data, stop = tiny.images(), 2
    unbroken = trainer(new_run(tmp_path / "unbroken"))
    unbroken.fit(data, data)
    assert unbroken.model.initialised == unbroken.ema.initialised == 1
    run = new_run(tmp_path / "stopped")
    stopped, steps = trainer(run), []
    compute = stopped.players[0].gradient

    def interrupted(*arguments: Any) -> Any:
        if len(steps) == stop:
            raise KeyboardInterrupt
        steps.append(stopped.model.initialised.item())
        return compute(*arguments)

    stopped.players[0].gradient = interrupted
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(data, data)
    assert steps == [1] * stop
    torch.rand(stop)
    resumed = trainer(run)
    resumed.resume()
    resumed.fit(data, data)
    assert_same(resumed, unbroken)
    assert lines(run) == lines(unbroken.run)


def test_the_first_batch_is_what_a_run_begins_with() -> None:
    """All of it, in the order of the data; the run's own random numbers are not moved."""
    seen: list[tuple[Tensor, Any]] = []

    class Begun(tiny.Tiny):
        def begin_training(self, values: Tensor, condition: Any) -> None:
            seen.append((values, torch.rand(1)))

    data, recipe = tiny.images(), replace(RECIPE, epochs=1)
    torch.manual_seed(1)
    begun = Trainer(Begun(), recipe)
    begun.fit(data, data)
    torch.manual_seed(1)
    plain = Trainer(tiny.Tiny(), recipe)
    plain.fit(data, data)
    assert_same(begun, plain)
    ((values, _),) = seen
    assert values.shape == (12, 1, 4, 4)
