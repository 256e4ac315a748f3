"""Settings of a game: defaults by model, refusals with their reason, the way through the command line, own networks."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from commands import refused
from fastgen import models
from fastgen.cli import main
from fastgen.commands import model_options, parse
from fastgen.data import Dataset
from fastgen.models import DCGAN, GAN, AdversarialPair, Game
from fastgen.models.adversarial import AdversarialModel
from fastgen.models.game import as_game
from fastgen.training import Recipe, Run, Trainer, load_model

for package in ("tyro", "tqdm", "safetensors"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")

SIZES: dict[str, Any] = {"in_channels": 1, "latent": 4, "image_size": 16}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "l1"}, "loss: expected one of 'minimax', 'non-saturating', .* got 'l1'"),
        ({"discriminator_steps": 0}, "discriminator_steps: expected a positive integer, got 0"),
        ({"gradient_penalty": -1}, "gradient_penalty: expected a finite number of at least 0, got -1"),
        ({"r1": float("inf")}, "r1: expected a finite number"),
        ({"weight_clip": "x"}, "weight_clip: expected a finite number"),
        ({"label_smoothing": 0.6}, "label_smoothing: expected a finite number from 0 to 0.5, got 0.6"),
        ({"dequantize": 2}, "dequantize: expected True or False, got 2"),
        ({"generator_lr": 0}, "generator_lr: expected a positive number, got 0"),
        ({"discriminator_betas": (0.5, 1.0)}, r"discriminator_betas: expected two numbers in \[0, 1\), got"),
        ({"generator_betas": (0.5,)}, r"generator_betas: expected two numbers in \[0, 1\), got"),
        ({"generator_betas": ("a", 0.9)}, r"generator_betas\[0\]: expected a finite number, got 'a'"),
        ({"generator_class_weight": -1}, "generator_class_weight: expected a finite number of at least 0, got -1"),
        ({"fake_class_weight": "x"}, "fake_class_weight: expected a finite number"),
        (
            {"loss": "hinge", "label_smoothing": 0.1},
            "label_smoothing: .* hinge has no labels to smooth: its",
        ),
        ({"loss": "wasserstein", "label_smoothing": 0.1}, "label_smoothing: .* since wasserstein has no labels"),
        ({"weight_clip": 0.01, "gradient_penalty": 10}, "weight_clip: expected 0 with a penalty .* both bound"),
        ({"weight_clip": 0.01, "r1": 1}, "weight_clip: expected 0 with a penalty on the gradient"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Game(**settings)


def body(*last: nn.Module, norm: nn.Module | None = None) -> nn.Sequential:
    middle = [] if norm is None else [norm]
    return nn.Sequential(nn.Conv2d(1, 3, 4, 2, 1), *middle, nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(48, 1), *last)


OLDER = nn.Sequential(nn.Flatten(), nn.utils.spectral_norm(nn.Linear(64, 1)))
"""By a hook, and no module of its own."""
SPECTRAL = nn.Sequential(nn.Flatten(), spectral_norm(nn.Linear(64, 1)))


@pytest.mark.parametrize(
    ("game", "network", "message"),
    [
        ({"gradient_penalty": 10}, body(norm=nn.BatchNorm2d(3)), "gradient_penalty: .* score depends on its whole"),
        ({"r1": 1}, body(norm=nn.SyncBatchNorm(3)), "r1: expected 0 with batch norm in the discriminator"),
        ({"weight_clip": 0.01}, SPECTRAL, "weight_clip: expected 0 with spectral normalisation, which scales"),
        ({"weight_clip": 0.01}, OLDER, "weight_clip: expected 0 with spectral normalisation, which scales"),
        ({"loss": "wasserstein"}, body(), "loss: expected a bound on the critic's slope with wasserstein"),
        ({}, body(nn.Sigmoid()), "discriminator: .* the losses take logits, got one that ends in Sigmoid"),
        ({}, body(nn.Sigmoid(), nn.Flatten(0)), "discriminator: .* ends in Sigmoid"),
        ({"loss": "hinge"}, body(nn.LogSigmoid()), "discriminator: .* ends in LogSigmoid"),
    ],
)  # fmt: skip
def test_networks_that_do_not_go_with_a_game(game: dict[str, Any], network: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Game(**game).check_discriminator(network)


@pytest.mark.parametrize(
    ("game", "network"),
    [
        ({"gradient_penalty": 10, "loss": "wasserstein"}, body(norm=nn.GroupNorm(1, 3))),
        ({"gradient_penalty": 10}, body(norm=nn.InstanceNorm2d(3, affine=True))),
        ({"weight_clip": 0.01, "loss": "wasserstein"}, body(norm=nn.BatchNorm2d(3))),
        ({"loss": "wasserstein"}, SPECTRAL),
        ({"loss": "wasserstein"}, OLDER),
        ({"r1": 1}, body()),
    ],
)
def test_networks_that_do(game: dict[str, Any], network: nn.Module) -> None:
    Game(**game).check_discriminator(network)


def test_a_model_refuses_when_it_is_built_and_so_does_the_command(
    elsewhere: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="gradient_penalty: expected 0 with batch norm"):
        DCGAN(**SIZES, game={"gradient_penalty": 10})
    with pytest.raises(ValueError, match=r"game: expected loss, .* got lose"):
        DCGAN(**SIZES, game={"lose": "hinge"})
    with pytest.raises(ValueError, match="game: expected a Game, settings of one by name, or None, got 'hinge'"):
        DCGAN(**SIZES, game="hinge")
    small = [
        "train",
        "dcgan",
        "--data",
        "digits",
        "--image-size",
        16,
        "--channels",
        2,
        "--limit",
        40,
        "--batch-size",
        20,
    ]
    assert "gradient_penalty: expected 0 with batch norm" in refused(capsys, *small, "--gradient-penalty", 10)
    assert "with wasserstein, without which its loss has no" in refused(capsys, *small, "--loss", "wasserstein")
    with pytest.raises(SystemExit):
        main([*map(str, small), "--weight-clip", "0.1", "--r1", "1", "--normalization", "none"])
    said = " ".join(capsys.readouterr().err.split())
    assert "weight_clip: expected 0 with a penalty on the gradient, since both bound" in said
    assert not Path("runs").exists()


ADVERSARIAL = {name: kind for name, kind in models.NAMES.items() if issubclass(kind, AdversarialModel)}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_the_command_begins_with_the_game_of_the_model(name: str) -> None:
    """A silent default is the commonest loss: what nobody says is what the model's page says."""
    kind = ADVERSARIAL[name]
    options = model_options.MODELS[name]()
    told = {each.name: getattr(options, each.name) for each in fields(Game) if hasattr(options, each.name)}
    assert told, "the game's settings are options"
    default = kind.default_game()
    assert told == {key: getattr(default, key) for key in told}
    assert (options.optimizer, options.clip, options.drop_last) == ("adam", 0.0, True)


def test_defaults_of_gan_and_dcgan() -> None:
    assert GAN.default_game() == DCGAN.default_game() == Game()
    assert Game().loss == "non-saturating"
    assert (Game().discriminator_steps, Game().differentiates_twice) == (1, False)
    options = model_options.MODELS["dcgan"]()
    assert (options.lr, options.betas, options.ema) == (2e-4, (0.5, 0.999), 0.99)
    assert as_game(None, {"loss": "hinge", "lr": 1}) == Game(loss="hinge")
    assert as_game({"r1": 1}, {"loss": "hinge"}) == Game(loss="hinge", r1=1)


LINE = [
    "--loss", "least-squares-pearson", "--gradient-penalty", "0.5", "--r1", "0.25", "--discriminator-steps", "2",
    "--label-smoothing", "0.1", "--dequantize", "--discriminator-lr", "0.001", "--generator-betas", "0.0", "0.9",
]  # fmt: skip
SETTINGS = Game(
    loss="least-squares-pearson", gradient_penalty=0.5, r1=0.25, discriminator_steps=2, label_smoothing=0.1,
    dequantize=True, discriminator_lr=0.001, generator_betas=(0.0, 0.9),
)  # fmt: skip


def test_options_become_the_record_and_come_back_with_the_run(tmp_path: Path) -> None:
    small = ["--data", "digits", "--channels", "2", "--latent", "3", "--normalization", "layer", "--limit", "40"]
    small += ["--batch-size", "20", "--epochs", "1", "--samples", "0", "--held-out-limit", "20"]
    assert main(["train", "dcgan", *small, *LINE, "--run", str(tmp_path / "run")]) == 0
    run = Run(tmp_path / "run")
    assert run.config()["model"]["config"]["game"] == SETTINGS.config
    assert json.loads(json.dumps(SETTINGS.config)) == SETTINGS.config
    assert load_model(run.folder).settings == SETTINGS
    given = model_options.options_of(run)
    assert parse(type(given), "train dcgan", [*small, *LINE, "--run", str(tmp_path / "run")]) == given
    players = Trainer(load_model(run.folder), given).players
    assert [player.player.steps for player in players] == [2, 1]
    assert [player.recipe.lr for player in players] == [0.001, 2e-4]
    assert [player.recipe.betas for player in players] == [(0.5, 0.999), (0.0, 0.9)]
    assert [player.recipe.clip for player in players] == [0.0, 0.0]


# The networks of PyTorch's examples, dcgan/main.py at 77f55b9, in the layout that people have checkpoints of.


def examples_generator(nz: int, ngf: int, nc: int) -> nn.Sequential:
    def up(inputs: int, outputs: int, stride: int, padding: int) -> list[nn.Module]:
        conv = nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU(True)]

    stages = [*up(nz, ngf * 8, 1, 0), *up(ngf * 8, ngf * 4, 2, 1), *up(ngf * 4, ngf * 2, 2, 1), *up(ngf * 2, ngf, 2, 1)]
    return nn.Sequential(*stages, nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=False), nn.Tanh())


def examples_discriminator(nc: int, ndf: int) -> nn.Sequential:
    def down(inputs: int, outputs: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2, inplace=True)]

    first = [nn.Conv2d(nc, ndf, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    stages = [*first, *down(ndf, ndf * 2), *down(ndf * 2, ndf * 4), *down(ndf * 4, ndf * 8)]
    return nn.Sequential(*stages, nn.Conv2d(ndf * 8, 1, 4, 1, 0, bias=False), nn.Sigmoid())


class Main(nn.Module):
    """Where the example holds its layers."""

    def __init__(self, main: nn.Sequential) -> None:
        super().__init__()
        self.main = main

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


def public() -> tuple[Main, Main]:
    torch.manual_seed(1)
    made = Main(examples_generator(6, 3, 3)), Main(examples_discriminator(3, 3))
    for network in made:  # statistics that are not those of a new layer
        for name, buffer in network.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
    return made


@pytest.mark.parametrize("training", [False, True])
def test_checkpoints_of_pytorchs_example_load_strictly_and_back(training: bool) -> None:
    (theirs_g, theirs_d), model = public(), DCGAN(3, 256, latent=6, channels=3, image_size=64)
    assert sum(p.numel() for p in DCGAN().generator.parameters()) == 3_576_704
    assert sum(p.numel() for p in DCGAN().discriminator.parameters()) == 2_765_568
    model.generator.load_state_dict(theirs_g.state_dict(), strict=True)
    model.discriminator.load_state_dict(theirs_d.state_dict(), strict=True)
    for network in (theirs_g, theirs_d, model):
        network.train(training)
    z = torch.randn(4, 6)
    with torch.no_grad():
        images = theirs_g(z[:, :, None, None])
        torch.testing.assert_close(model.generator(z), images)
        torch.testing.assert_close(torch.sigmoid(model.discriminator(images)), theirs_d(images).flatten())
    again_g, again_d = public()
    again_g.load_state_dict(model.generator.state_dict(), strict=True)
    again_d.load_state_dict(model.discriminator.state_dict(), strict=True)
    for one, other in ((theirs_g, model.generator), (theirs_d, model.discriminator)):
        for (name, left), (named, right) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
            assert name == named
            torch.testing.assert_close(left, right)


def test_networks_of_ones_own_play() -> None:
    """The example's two, without its sigmoid, are trained; with it, they are refused before the first step."""
    g, d = public()
    with pytest.raises(ValueError, match="the losses take logits, got one that ends in Sigmoid"):
        AdversarialPair(g, d, 6, code_shape=(6, 1, 1))
    bare = d.main[:-1]
    pair = AdversarialPair(g, bare, 6, code_shape=(6, 1, 1))
    values = torch.randint(256, (8, 3, 64, 64))
    data = Dataset(values.to(torch.uint8), None, 256, None, "noise")
    trained = Trainer(pair, Recipe(epochs=1, batch_size=4, lr=1e-3, clip=0, optimizer="adam"))
    before = [p.detach().clone() for p in pair.parameters()]
    trained.fit(data, data)
    assert all(not torch.equal(old, new) for old, new in zip(before, pair.parameters(), strict=True))
    assert pair.sample(3, seed=1).shape == (3, 3, 64, 64)
    with pytest.raises(ValueError, match=r"code_shape: expected 6 numbers, latent, got \(5, 1, 1\)"):
        AdversarialPair(g, bare, 6, code_shape=(5, 1, 1))
    patches = AdversarialPair(g, bare[:-1], 6, code_shape=(6, 1, 1))
    with pytest.raises(ValueError, match=r"discriminator: expected one score for each of 8 images, got \(8, 24,"):
        patches.losses(values)


def test_a_game_is_a_value() -> None:
    game = Game(loss="hinge", generator_betas=[0, 0.9])  # as JSON has them
    assert game.generator_betas == (0.0, 0.9)
    assert Game(**game.config) == game
    assert replace(game, loss="minimax").pair.smooths


@pytest.mark.parametrize("kind", [DCGAN, models.ResNetGAN])
def test_spectral_normalisation_of_a_model_is_seen_when_it_is_built(kind: Any) -> None:
    """It bounds a critic's slope by itself; and clipping beside it is refused at once, and not when training starts."""
    spectral = {**SIZES, "channels": 4, "normalization": "spectral"}
    model = kind(**spectral, game={"loss": "wasserstein", "gradient_penalty": 0.0})
    assert [player.name for player in model.objective().players()] == ["discriminator", "generator"]
    with pytest.raises(ValueError, match="weight_clip: expected 0 with spectral normalisation"):
        kind(**spectral, game={"loss": "hinge", "gradient_penalty": 0.0, "weight_clip": 0.1})
