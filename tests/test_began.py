"""BEGAN: its losses and its balance by known values, its networks by the paper's, its k through every stop."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastgen import losses, models
from fastgen.data import Dataset
from fastgen.models import BEGAN, Balance
from fastgen.models.residual_blocks import UpsampledConv2d
from fastgen.training import Recipe, Trainer
from fastgen.training import checkpoint as checkpoints
from parity import assert_parity
from trainers import assert_same, lines, new_run

pytest.importorskip("safetensors", reason="safetensors comes with fastgen[train]")

SMALL = {"in_channels": 1, "levels": 5, "latent": 3, "channels": 4, "image_size": 8}


def halves(n: int = 64) -> Dataset:
    """Dark on the left, light on the right, or the other way round."""
    shade = torch.zeros(n, 1, 8, 8, dtype=torch.uint8)
    shade[::2, :, :, 4:] = 4
    shade[1::2, :, :, :4] = 4
    return Dataset(shade, None, 5, None, "halves")


def trainer(folder: Path | None = None, gain: float = 1.0, **changes: object) -> Trainer:
    torch.manual_seed(0)
    model = BEGAN(**SMALL, balance=Balance(gain=gain, discriminator_lr=3e-3, generator_betas=(0.5, 0.99)))
    defaults = {name: value for name, value in model.defaults.items() if name in Recipe.__dataclass_fields__}
    recipe = replace(Recipe(**defaults), batch_size=16, lr=2e-3)
    return Trainer(model, replace(recipe, **changes), None if folder is None else new_run(folder))


def test_losses_are_the_papers() -> None:
    torch.manual_seed(0)
    v, d = torch.rand(2, 4, 3, 2, 2, dtype=torch.float64).unbind()
    by_hand = torch.stack([sum(abs(a - b) for a, b in zip(v[i].flatten(), d[i].flatten(), strict=True)) / 12
                           for i in range(4)])  # fmt: skip
    assert_parity(losses.reconstruction_error(v, d), by_hand, by_hand)
    real, fake = torch.tensor([1.0, 3.0], requires_grad=True), torch.tensor([2.0, 4.0], requires_grad=True)
    loss = losses.began_discriminator(real, fake, torch.tensor(0.25))
    assert loss.tolist() == [0.5, 2.0]
    assert [slope.tolist() for slope in torch.autograd.grad(loss.sum(), (real, fake))] == [[1, 1], [-0.25, -0.25]]
    assert torch.equal(losses.began_discriminator(real, fake, 0.0), real), "at first an autoencoder of images alone"
    assert torch.equal(losses.began_generator(fake), fake)


@pytest.mark.parametrize(
    ("k", "real", "fake", "expected"),
    [
        (0.25, 1.0, 0.25, 0.28125), (0.25, 1.0, 1.0, 0.1875), (0.0, 1.0, 2.0, 0.0), (1.0, 4.0, 1.0, 1.0),
        (0.5, 2.0, 1.0, 0.5),
    ],
)  # fmt: skip
def test_k_moves_by_what_is_out_of_balance(k: float, real: float, fake: float, expected: float) -> None:
    """Δk = λ·(γ·L(x) − L(G(z))), λ = ⅛ and γ = ½ here, and k stays in [0, 1]."""
    moved = losses.began_balance(*map(torch.tensor, (k, real, fake)), gamma=0.5, gain=0.125)
    assert moved.item() == expected
    M = losses.began_convergence(torch.tensor(real), torch.tensor(fake), 0.5).item()
    assert M == real + abs(0.5 * real - fake) >= real


def test_the_networks_of_figure_1() -> None:
    model = BEGAN(channels=8, image_size=32)
    layers = lambda network: [  # noqa: E731
        (each.in_channels, each.out_channels, each.stride[0]) if isinstance(each, nn.Conv2d) else each.out_features
        for each in network.modules()
        if isinstance(each, (nn.Conv2d, nn.Linear))
    ]
    drawn = [8 * 8 * 8, *[(8, 8, 1)] * 6, (8, 3, 1)]
    assert layers(model.generator) == layers(model.discriminator.decoder) == drawn
    assert [isinstance(each, UpsampledConv2d) for each in model.generator.layers[::2]] == [0, 0, 1, 0, 1, 0, 0]
    assert layers(model.discriminator.encoder) == [
        (3, 8, 1), (8, 8, 1), (8, 8, 1), (8, 8, 2), (8, 16, 1), (16, 16, 1), (16, 16, 2), (16, 24, 1), (24, 24, 1), 64,
    ]  # fmt: skip
    every = [each for each in model.modules() if not list(each.children())]
    assert {type(each).__name__ for each in every} == {
        "Conv2d",
        "UpsampledConv2d",
        "Linear",
        "ELU",
        "ZeroPad2d",
        "Flatten",
    }
    z = model.noise(4000)
    assert 1.7 < z.abs().max() < 3**0.5
    assert abs(z.var() - 1) < 0.02
    read: list[Tensor] = []
    model.generator.linear.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    model.generator(z)
    assert 0.99 < read[0].abs().max() <= 1, "the paper's z is uniform in ±1"


@pytest.mark.parametrize(("size", "stages"), [(1, 1), ((9, 14), 1), (14, 2), (28, 3), ((31, 45), 3), (64, 4)])
def test_every_size_is_drawn_and_reconstructed(size: int | tuple[int, int], stages: int) -> None:
    model = BEGAN(2, 4, latent=3, channels=2, image_size=size)
    assert len(model.generator.layers) == 4 * stages + 1
    values = model.sample(3, seed=1)
    assert values.shape == (3, 2, *model.sides)
    assert torch.equal(model.sample(1, seed=1, first=2), values[2:])
    x = model.to_images(values)
    assert model.discriminator.reconstruct(x).shape == x.shape
    error = (x - model.discriminator.reconstruct(x)).abs().mean((1, 2, 3))
    assert torch.allclose(model.discriminator(x), -error)
    twin = models.build("began", **model.config)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin.sample(3, seed=1), values)


def test_the_first_steps_are_an_autoencoders() -> None:
    """With k = 0 the discriminator's gradient is that of its own error of images, whatever is drawn."""
    model = trainer().model
    values = halves(8).values.long()
    found = model.losses(values)
    assert torch.equal(found["loss"], found["error_of_real"])
    weights = [*model.discriminator.parameters()]
    slopes = torch.autograd.grad(found["loss"].sum(), weights)
    expected = torch.autograd.grad(model.discriminator.error(model.to_images(values)).sum(), weights)
    assert all(map(torch.equal, slopes, expected))
    model.k.fill_(0.5)
    found = model.losses(values)
    assert torch.allclose(found["loss"], found["error_of_real"] - 0.5 * found["error_of_fake"])
    assert found["k"].tolist() == [0.5] * 8


def test_a_round_is_that_of_a_loop_by_hand() -> None:
    """K by the means of a step's images, also where these are computed in parts."""
    trained = trainer(epochs=1, accumulate=2, drop_last=False)
    seen: list[tuple[float, float, float]] = []
    objective = trained.objective
    observe, end, means = objective.observe, objective.end_of_round, {}

    def observed(player: object, found: dict[str, Tensor]) -> None:
        means[player.name] = found
        observe(player, found)

    def ended(step: int) -> None:
        before = trained.model.k.item()
        end(step)
        real, fake = means["discriminator"]["error_of_real"].item(), means["generator"]["loss"].item()
        seen.append((before + 1.0 * (0.5 * real - fake), trained.model.k.item(), before))

    type(objective).observe, kept = (lambda self, *given: observed(*given)), type(objective).observe
    objective.end_of_round = ended
    try:
        trained.fit(halves(40), halves(8))
    finally:
        type(objective).observe = kept
    assert len(seen) == 3
    assert [k for *_, k in seen] == [0.0, *[k for _, k, _ in seen][:-1]]
    for free, k, _ in seen:
        assert k == pytest.approx(min(max(free, 0), 1), abs=1e-6)
    assert trained.ema.k == trained.model.k, "the average has it, too"


def test_it_learns_and_says_how_it_stands(tmp_path: Path) -> None:
    trained, records = trainer(tmp_path / "run", epochs=6, gain=0.1), []
    trained.fit(halves(512), halves(), on_epoch=records.append)
    M = [record["held_out_convergence"] for record in records]
    assert M[-1] < 0.5 * M[0]
    assert min(M) == trained.position.best
    assert trained.position.loss == "convergence"
    assert all(record["held_out_convergence"] >= record["held_out_error_of_real"] - 1e-4 for record in records)
    assert all(0 <= record["train_discriminator_k"] <= 1 for record in records)
    (said,) = trained.objective.remarks(records[-1])[:1]
    ratio = records[-1]["train_generator_loss"] / records[-1]["train_discriminator_error_of_real"]
    assert f"their ratio {ratio:.2f} (aimed at 0.5)" in said
    assert f"k {records[-1]['train_discriminator_k']:.3g}" in said
    told = trained.objective.remarks({**records[-1], "held_out_diversity": 0.1, "train_discriminator_k": 1.0})
    assert "k is at its end, 1" in told[1]
    assert "the generator has collapsed" in told[2]
    assert trained.objective.remarks({}) == []
    about = trained.model.measures
    assert {"convergence", "error_of_real", "error_of_fake", "pixel_distance", "diversity", "loss"} == set(about)


def test_k_goes_on_where_it_stopped(tmp_path: Path) -> None:
    data, stopped = halves(40), trainer(tmp_path / "run", epochs=2)
    end = stopped.objective.end_of_round

    def asked(step: int) -> None:
        end(step)
        if step == 2:
            stopped.ask_to_stop()

    stopped.objective.end_of_round = asked
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(data, data)
    resumed = trainer(epochs=2)
    resumed.run = stopped.run
    resumed.resume()
    kept = checkpoints.load(stopped.run.checkpoints).weights["model"]["k"]
    assert resumed.model.k == kept == stopped.model.k != 0
    resumed.fit(data, data)
    unbroken = trainer(tmp_path / "unbroken", epochs=2)
    unbroken.fit(data, data)
    assert_same(resumed, unbroken)
    assert lines(resumed.run) == lines(unbroken.run)


def test_what_does_not_fit_is_named() -> None:
    for balance, words in (
        ({"gamma": 0}, "gamma: expected a positive number, got 0"),
        ({"gamma": 1.5}, "gamma: expected a finite number"),
        ({"gain": -1}, "gain: expected a finite number"),
        ({"generator_lr": 0}, "generator_lr: expected a positive number, got 0"),
        ({"discriminator_betas": (0.5, 1)}, r"discriminator_betas: expected two numbers in \[0, 1\)"),
        ({"loss": "hinge"}, "balance: expected gamma, gain, discriminator_lr, .*, got loss"),
        (3, "balance: expected a Balance"),
    ):
        with pytest.raises(ValueError, match=words):
            BEGAN(**SMALL, balance=balance)
    with pytest.raises(ValueError, match="channels: expected a positive integer, got 0"):
        BEGAN(channels=0)
    with pytest.raises(ValueError, match=r"reconstructed: expected shape \(2, 3\), got \(2, 4\)"):
        losses.reconstruction_error(torch.zeros(2, 3), torch.zeros(2, 4))
