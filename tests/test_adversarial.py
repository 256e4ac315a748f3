"""Games in training: whose turn it is, exact resumption, statistics that fit averaged weights, and noise by place."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgen._draws import batch_of, uniforms_of_batch
from fastgen.data import Dataset
from fastgen.models import DCGAN, GAN, AdversarialPair
from fastgen.training import Recipe, Trainer
from fastgen.training import checkpoint as checkpoints
from parity import assert_parity
from trainers import assert_same, lines, new_run

for package in ("safetensors", "tqdm"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")

RECIPE = Recipe(epochs=2, batch_size=8, lr=2e-3, betas=(0.5, 0.999), optimizer="adam", clip=0, ema=0.9, drop_last=True)


def blobs(n: int = 40) -> Dataset:
    """A bright square that lies anywhere."""
    generator = torch.Generator().manual_seed(1)
    values = torch.zeros(n, 1, 16, 16, dtype=torch.uint8)
    for image, (top, left) in zip(values, torch.randint(8, (n, 2), generator=generator).tolist(), strict=True):
        image[0, top : top + 8, left : left + 8] = 4
    return Dataset(values, None, 5, None, "blobs")


def dcgan(run: Any = None, recipe: Recipe = RECIPE, **game: Any) -> Trainer:
    torch.manual_seed(recipe.seed)
    model = DCGAN(1, 5, latent=4, channels=3, image_size=16, game=game)
    return Trainer(model, recipe, run)


def test_the_discriminator_moves_k_times_for_each_move_of_the_generator() -> None:
    trained, moves = dcgan(discriminator_steps=5), []
    trained.recipe = dataclasses.replace(RECIPE, epochs=2)
    trained.objective.after_move = lambda player, step: moves.append((player.name, step))
    trained.fit(blobs(), blobs(9))  # 2 epochs of 5 batches
    assert [step for name, step in moves if name == "discriminator"] == list(range(10))
    assert [step for name, step in moves if name == "generator"] == [4, 9]
    counts = [{int(slot["step"]) for slot in player.optimizer.state.values()} for player in trained.players]
    assert counts == [{10}, {2}]


@pytest.mark.parametrize("stop", [1, 5, 6])
def test_a_game_that_was_stopped_anywhere_ends_as_one_that_was_not(tmp_path: Path, stop: int) -> None:
    """With an average, whose batch-norm statistics are its own, and k = 2: within a round, an epoch, or between two."""
    data, held_out, run = blobs(), blobs(9), new_run(tmp_path / "run")
    game = {"discriminator_steps": 2, "dequantize": True}
    stopped = dcgan(run, **game)
    step = stopped.objective.after_move

    def asked(player: Any, at: int) -> None:
        step(player, at)
        if at + 1 == stop:
            stopped.ask_to_stop()

    stopped.objective.after_move = asked
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(data, held_out)
    resumed = dcgan(run, **game)
    resumed.resume()
    assert resumed.position.step == stop
    resumed.fit(data, held_out)
    unbroken = dcgan(new_run(tmp_path / "unbroken"), **game)
    unbroken.fit(data, held_out)
    assert_same(resumed, unbroken)
    assert lines(run) == lines(unbroken.run)


def test_scores_of_real_images_do_not_depend_on_drawn_ones() -> None:
    """Batch norm over both at once would let the discriminator read the mixture (and it does: D's loss falls to 0)."""
    model = dcgan().model
    model.train()
    values, seen = blobs(8).values.long(), []
    objective = model.objective()
    judge = objective.judge
    objective.judge = lambda network, x, labels: seen.append((x, judge(network, x, labels))) or seen[-1][1]
    for seed in (1, 2):
        torch.manual_seed(seed)
        objective.discriminated(values, None, 0.0)
    (real, on_real), (fake, on_fake), (again, on_again), (other, on_other) = seen
    assert torch.equal(real, again)
    assert not torch.equal(fake, other)
    assert torch.equal(on_real.scores, on_again.scores)
    assert not torch.equal(on_fake.scores, on_other.scores)


def test_no_gradient_of_the_discriminators_loss_reaches_the_generator() -> None:
    model = dcgan().model
    model.losses(blobs(8).values.long())["loss"].sum().backward()
    assert all(parameter.grad is None for parameter in model.generator.parameters())
    assert all(parameter.grad is not None for parameter in model.discriminator.parameters())


def test_weights_are_in_the_box_after_every_move() -> None:
    trained, largest = dcgan(loss="wasserstein", weight_clip=0.01), []
    clip = trained.objective.after_move

    def look(player: Any, step: int) -> None:
        clip(player, step)
        largest.append(max(p.abs().max().item() for p in trained.model.discriminator.parameters()))

    trained.objective.after_move = look
    trained.fit(blobs(), blobs(9))
    assert max(largest) == pytest.approx(0.01)
    assert max(p.abs().max() for p in trained.model.generator.parameters()) > 0.01


@pytest.mark.parametrize("penalty", ["gradient_penalty", "r1"])
def test_a_penalty_counts_by_its_weight(penalty: str) -> None:
    """It is in the loss λ times, and moves the discriminator otherwise the larger λ is."""
    values, told, weights = blobs(8).values.long(), {}, {}
    for factor in (0.0, 1.0, 10.0):
        torch.manual_seed(0)
        model = DCGAN(1, 5, latent=4, channels=3, image_size=16, normalization="layer", game={penalty: factor})
        with batch_of(0, 0, "discriminator", torch.arange(8)):
            told[factor] = model.losses(values)
        trained = Trainer(model, dataclasses.replace(RECIPE, epochs=1, optimizer="sgd", lr=0.1))
        trained.fit(blobs(), blobs(9))
        weights[factor] = torch.cat([p.detach().flatten() for p in model.discriminator.parameters()])
    assert penalty not in told[0.0]
    found = told[1.0][penalty]
    assert found.min() > 0
    for factor in (1.0, 10.0):
        torch.testing.assert_close(told[factor][penalty], found)
        torch.testing.assert_close(told[factor]["loss"], told[0.0]["loss"] + factor * found)
    away = [(weights[factor] - weights[0.0]).norm().item() for factor in (1.0, 10.0)]
    assert 0 < 2 * away[0] < away[1]


def test_noise_is_of_an_images_place() -> None:
    """The same in whichever part of a batch, however often others draw; other in each step, player, draw and seed."""
    like = torch.zeros(1)

    def drawn(seed: int = 0, step: int = 3, who: str = "generator", first: int = 0, n: int = 6) -> tuple[Tensor, ...]:
        with batch_of(seed, step, who, torch.arange(first, first + n)):
            return uniforms_of_batch(n, (5,), like), uniforms_of_batch(n, (5,), like)

    whole = drawn()
    torch.manual_seed(1)
    assert all(map(torch.equal, whole, drawn()))
    parts = [drawn(first=first, n=2) for first in (0, 2, 4)]
    assert all(torch.equal(torch.cat([part[draw] for part in parts]), whole[draw]) for draw in (0, 1))
    every = [
        *whole,
        *(one for change in ({"seed": 1}, {"step": 4}, {"who": "d"}, {"first": 6}) for one in drawn(**change)),
    ]
    values = torch.cat(every).flatten()
    assert len(values.unique()) > 0.99 * len(values)
    assert not torch.equal(uniforms_of_batch(6, (5,), like), uniforms_of_batch(6, (5,), like)), (
        "outside: the generator's"
    )
    assert uniforms_of_batch(2, (), like.double()).dtype == torch.float64


def test_parts_of_a_step_draw_what_the_whole_step_draws() -> None:
    """A GAN of layers without batch statistics: the gradient of accumulated parts is that of the step."""

    def trained(accumulate: int, dtype: torch.dtype) -> Tensor:
        torch.manual_seed(0)
        model = GAN(1, 5, 4, (8,), (6,), dropout=0.0, activation="relu", image_size=16, game={"dequantize": True})
        recipe = dataclasses.replace(RECIPE, optimizer="sgd", lr=0.1, accumulate=accumulate)
        one = Trainer(model.to(dtype), recipe)
        one.fit(blobs(), blobs(9))
        return torch.cat([p.detach().flatten() for p in one.model.parameters()])

    whole, parts, exact = trained(1, torch.float32), trained(4, torch.float32), trained(1, torch.float64)
    assert_parity(parts, whole, exact)


class Wide(nn.Module):
    """A generator of one batch norm, whose statistics depend strongly on its first weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.Unflatten(1, (1, 4, 4)), nn.Tanh())

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.layers(z)


def test_statistics_of_the_average_are_of_its_own_weights() -> None:
    """In eval mode it draws images of the mean and spread as in training mode; with copied statistics it does not."""
    torch.manual_seed(0)
    judge = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    pair = AdversarialPair(Wide(), judge, 3, in_channels=1, image_size=4, levels=5)
    average = copy.deepcopy(pair)
    with torch.no_grad():  # far from the weights that were trained
        average.generator.network.layers[0].weight.mul_(6).add_(1)
        average.generator.network.layers[0].bias.add_(3)
    z = torch.randn(4000, 3)

    def far(model: Any) -> float:
        """How far mean and spread of each pixel are from those in training mode, at most."""
        moments = []
        for training in (True, False):
            with torch.no_grad():
                images = torch.atanh(copy.deepcopy(model).train(training).generator(z).clamp(-0.999999, 0.999999))
            moments.append(torch.stack([images.mean(0), images.std(0)]))
        return (moments[0] - moments[1]).abs().max().item()

    assert far(average) > 1
    average.eval()
    random = torch.get_rng_state()
    pair.objective().settle(average)
    assert torch.equal(random, torch.get_rng_state())
    assert far(average) < 0.1
    assert not any(layer.training for layer in average.modules())
    assert average.generator.network.layers[1].momentum == 0.1
    settled = copy.deepcopy(average.state_dict())
    pair.objective().settle(average)
    assert all(map(torch.equal, settled.values(), average.state_dict().values())), "the same whenever it is asked"


def test_the_trainer_settles_before_it_evaluates_and_keeps(tmp_path: Path) -> None:
    trained = dcgan(new_run(tmp_path / "run"))
    trained.fit(blobs(), blobs(9))
    kept = checkpoints.load(trained.run.checkpoints, "last").weights
    expected = copy.deepcopy(trained.ema)
    trained.objective.settle(expected)
    name = next(name for name in kept["ema"] if name.startswith("generator") and name.endswith("running_mean"))
    assert torch.equal(kept["ema"][name], expected.state_dict()[name])
    assert not torch.equal(kept["ema"][name], kept["model"][name])


def test_an_image_does_not_depend_on_those_beside_it() -> None:
    trained = dcgan()
    trained.fit(blobs(), blobs(9))
    for model in (trained.model.train(), trained.ema):
        with torch.no_grad():  # it has learnt nothing yet, and all images are grey
            model.generator.main[-2].weight.mul_(300)
        whole = model.sample(9, seed=5)
        assert torch.equal(torch.cat([model.sample(2, seed=5), model.sample(7, seed=5, first=2)]), whole)
        assert torch.equal(model.sample(9, seed=5), whole)
        assert len(model.sample(2, seed=5).unique(dim=0)) == 2
