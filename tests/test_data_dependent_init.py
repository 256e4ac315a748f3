"""Weights that begin from data: weight-normed layers of mean 0 and variance 1, once, whatever becomes of the run."""

import copy
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import tiny
from autoregressive import random_values
from fastgen.distributions import Distribution
from fastgen.models import PixelCNNPP, PixelSNAIL
from fastgen.nn import data_dependent_init
from fastgen.training import Recipe, Run, Trainer
from test_pixelcnnpp import SMALL
from trainers import assert_same, lines, new_run


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
    found.pop(model.output)
    assert_begun(found)
    assert {getattr(layer, "init_scale", 1.0) for layer in found} == {1.0, 0.1}
    begun = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.begin_training(random_values(model, 6, 8, 8), labels)
    other = PixelCNNPP(3, **SMALL | {"resolutions": 3}, dropout=0.0, classes=3)
    other.load_state_dict(begun)
    other.begin_training(random_values(model, 6, 8, 8), labels)
    for each in (model, other):  # what has begun, or was loaded, is left as it is
        assert all(torch.equal(tensor, begun[name]) for name, tensor in each.state_dict().items())


@pytest.mark.parametrize(
    ("in_channels", "changes"), [(1, {}), (3, {}), (3, {"distribution": "categorical"}), (1, {"levels": 2})]
)
def test_parameters_begin_at_the_law_of_all_values(in_channels: int, changes: dict[str, Any]) -> None:
    """Whatever their place. Means and scales of logistics are next to it everywhere, logits vary by 1."""
    model = PixelCNNPP(in_channels, **SMALL | changes, dropout=0.0)
    values = (random_values(model, 6, 8, 8) + random_values(model, 6, 8, 8)).clamp(max=model.levels - 1)
    model.begin_training(values)
    params, std = model.distribution.marginal(values)
    found = outputs(model, model.to_input(values))[model.output].movedim(1, 0).flatten(1)
    torch.testing.assert_close(found.mean(1), params, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.std(1, correction=0), std, rtol=1e-3, atol=0)


def test_what_has_no_law_to_begin_at_stays() -> None:
    """A last layer of one's own, and a distribution of one's own; under inference mode, too."""
    values = random_values(PixelCNNPP(1, **SMALL), 3, 6, 6)
    model = PixelCNNPP(1, **SMALL, dropout=0.0)
    model.output = nn.Conv2d(4, model.distribution.param_channels(1), 1)
    before = model.output.weight.clone()
    with torch.inference_mode():
        model.begin_training(values)
    assert model.initialised == 1
    assert torch.equal(model.output.weight, before)

    class Own(Distribution):
        def param_channels(self, channels: int) -> int:
            return 9 * channels

    model = PixelCNNPP(1, **SMALL, dropout=0.0)
    model.distribution = Own(4)
    model.begin_training(values)
    y = outputs(model, model.to_input(values))[model.output]
    torch.testing.assert_close(y.std((0, 2, 3), correction=0), torch.ones(9), rtol=1e-3, atol=0)
    with pytest.raises(TypeError, match=r"marginal: expected a distribution that defines one, got Own"):
        model.distribution.marginal(values)


def test_values_out_of_range_change_nothing() -> None:
    model = PixelCNNPP(1, **SMALL)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"values: expected .*\[0, 4\)"):
        model.begin_training(torch.full((2, 1, 4, 4), 4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", [PixelCNNPP, PixelSNAIL])
def test_training_that_has_not_begun_is_told_once(kind: Any) -> None:
    """A loop of one's own that forgets it starts at millions of nats, which nothing else would say."""
    sizes = SMALL if kind is PixelCNNPP else {"levels": 4, "channels": 4, "blocks": 1, "image_size": 8}
    model = kind(1, **sizes)
    values = random_values(model, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.eval().losses(values)
        torch.compile(model.train(), backend="eager")(model.to_input(values))
        begun = copy.deepcopy(model)
        begun.begin_training(values)
        begun.losses(values)
        resumed = kind(1, **sizes)
        resumed.load_state_dict(begun.state_dict())
        resumed.losses(values)
        kind(1, **sizes).to("meta")(torch.empty(1, 1, 8, 8, device="meta"))
    with pytest.warns(UserWarning, match=rf"{kind.__name__}.begin_training\(values\) was not called"):
        model.losses(values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.losses(values)


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
