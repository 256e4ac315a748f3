"""Adversarial autoencoder: three phases that share an encoder, codes that follow their prior, labels or none."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from commands import refused, said
from fastgen import exploring, exporting, metrics, models, pictures
from fastgen.data import Dataset, load_for_training
from fastgen.models import AdversarialAutoencoder, Classifier
from fastgen.models.adversarial_autoencoder import CodeDiscriminator
from fastgen.training import Recipe, Run, Trainer, load_model
from parity import assert_parity
from trainers import assert_same, new_run

SMALL = {"levels": 5, "hidden": (8,), "discriminator_hidden": (6,), "image_size": (4, 5), "components": 3}
CONFIGS = {
    "normal": {},
    "told": {"classes": 3, "prior_std": 2.0},
    "mixture": {"prior": "mixture"},
    "mixture-classes": {"prior": "mixture", "classes": 3},
    "some-labels": {"prior": "mixture", "classes": 4, "unlabelled": True},
    "swiss-roll": {"prior": "swiss-roll", "classes": 3},
    "convolutional": {"channels": (4,), "hidden": (), "in_channels": 2},
}


def build(kind: str = "normal", **changes: object) -> AdversarialAutoencoder:
    torch.manual_seed(0)
    return AdversarialAutoencoder(**(SMALL | CONFIGS[kind] | changes))


def some(model: AdversarialAutoencoder, n: int = 6) -> tuple[Tensor, Tensor | None]:
    values = torch.randint(5, (n, model.in_channels, 4, 5), generator=torch.Generator().manual_seed(n))
    return values, None if model.classes is None else torch.arange(n) % model.classes


def test_the_networks_of_the_paper() -> None:
    model = AdversarialAutoencoder()
    wide = [(layer.in_features, layer.out_features) for layer in model.modules() if isinstance(layer, nn.Linear)]
    inwards, outwards = [(784, 1000), (1000, 1000), (1000, 8)], [(8, 1000), (1000, 1000), (1000, 784)]
    assert wide == [*inwards, *outwards, (8, 1000), (1000, 1000), (1000, 1)]
    shared, judge, against = model.objective().players()
    coder = {id(each) for each in model.encoder.parameters()}
    assert {id(each) for each in shared.parameters} == coder | {id(each) for each in model.decoder.parameters()}
    assert {id(each) for each in against.parameters} == coder
    assert {id(each) for each in judge.parameters} == {id(each) for each in model.discriminator.parameters()}
    assert (shared.per_dimension, judge.per_dimension, against.per_dimension) == (True, False, False)


@pytest.mark.parametrize("kind", CONFIGS)
def test_codes_and_images_of_every_kind(kind: str) -> None:
    model = build(kind)
    values, labels = some(model)
    z = model.encode(values, labels)
    assert z.shape == (6, model.latent)
    error = (((values.double() - model.reconstruct(values, labels).double()) / 4) ** 2).flatten(1).sum(1)
    eager = (model.to_input(values) - model.reconstruct(values, labels) / 4).square().flatten(1).sum(1)
    assert_parity(model.losses(values, labels)["squared_error"].detach(), eager.detach(), error.detach())
    drawn = model.sample(6, seed=3, labels=labels)
    given = None if labels is None else labels[4:]
    assert torch.equal(model.sample(2, seed=3, labels=given, first=4), drawn[4:])
    codes = model.draw_codes(6, 3, labels=labels)
    assert torch.equal(model.eval().decode(codes, labels).round().long(), drawn)
    twin = models.build("adversarial-autoencoder", **json.loads(json.dumps(model.config))).eval()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin.encode(values), z)
    assert twin.config == model.config


def test_labels_choose_the_component_and_none_is_the_whole_prior() -> None:
    model = build("some-labels")
    labels = torch.arange(300) % 4
    z = model.draw_codes(300, 0, labels=labels)
    mine = labels < 3
    assert (model.p_z.components_of(z)[mine] == labels[mine]).double().mean() > 0.95
    assert torch.equal(z[~mine], model.draw_codes(300, 0)[~mine])
    assert model.p_z.components_of(z[~mine]).unique().numel() == 3
    assert torch.equal(model.decode(z), model.decode(z, labels)), "a class is a place of the prior"
    scores, told = [model.discriminator(z, labels), model.discriminator(z, (labels + 1) % 4)], build("told")
    assert not torch.equal(*scores)
    z = told.draw_codes(4, 0)
    assert not torch.equal(told.decode(z, [0] * 4), told.decode(z, [1] * 4)), "the decoder is told"
    assert told.discriminator.told is None
    assert abs(told.draw_codes(500, 0).std() - 2) < 0.1


def test_a_discriminator_of_the_prior_from_itself() -> None:
    """It has nothing to tell: 2 · log 2 where it says ½, and no less for any other answer, on average."""
    blind = CodeDiscriminator(2, (5,))
    with torch.no_grad():
        blind.layers[-1].weight.zero_()
        blind.layers[-1].bias.zero_()
    model = build(latent=2)
    model.discriminator = blind
    found = model.objective()._judged(blind, model.p_z.from_uniforms(torch.rand(100, 2)), None)
    assert found["loss"].mean().item() == pytest.approx(1.386294, abs=1e-6)
    model.discriminator = CodeDiscriminator(2, (5,))
    found = model.objective()._judged(model.discriminator, model.p_z.from_uniforms(torch.rand(4000, 2)), None)
    assert found["loss"].mean() > 1.386294 - 0.02


def test_noise_is_on_what_the_discriminator_reads_in_training_alone() -> None:
    model = build(noise=0.5)
    objective, z = model.objective(), torch.zeros(4000, 8)
    assert abs(objective._noisy(z).std() - 0.5) < 0.02
    model.eval()
    assert objective._noisy(z) is z
    assert build().objective()._noisy(z) is z


def test_held_out_numbers_are_without_noise_whatever_the_trained_model_is_doing() -> None:
    """With an average the model itself is still in training mode when its average is evaluated."""
    model = build("mixture", noise=5.0)
    values, _ = some(model, 200)
    torch.manual_seed(0)
    found = model.train().objective().evaluate(model, values, None)
    torch.manual_seed(0)
    alone = model.eval().objective().evaluate(model, values, None)
    assert torch.equal(found["discriminator_loss"], alone["discriminator_loss"])


def test_held_out_images_without_any_label_have_no_component_to_miss() -> None:
    model = build("some-labels")
    values, _ = some(model, 8)
    for labels, names in ((torch.full((8,), 3), {"prior_distance"}), (torch.arange(8) % 4, {"outside_component"})):
        found = model.objective().measure_set(model, Dataset(values.to(torch.uint8), labels, 5, 4, "some"))
        assert names <= set(found)
        assert all(map(math.isfinite, found.values()))


def small_run(folder: Path | None, epochs: int, **changes: object) -> Trainer:
    torch.manual_seed(0)
    train, held_out = (data.subset(60) for data in load_for_training("digits"))
    sizes = {"levels": train.levels, "image_size": 8, "adversarial_lr": 5e-3, "adversarial_betas": (0.5, 0.999)}
    model = AdversarialAutoencoder(**(SMALL | sizes | changes))
    run = None if folder is None else Run(folder) if folder.exists() else new_run(folder)
    trainer = Trainer(model, Recipe(epochs=epochs, batch_size=20, optimizer="adam", ema=0.9, clip=0.0), run)
    if run is not None and run.has_checkpoint:
        trainer.resume()
    trainer.fit(train, held_out)
    return trainer


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """Two optimisers move the encoder; each remembers its own."""
    small_run(tmp_path / "run", 2, noise=0.1)
    assert_same(small_run(tmp_path / "run", 4, noise=0.1), small_run(None, 4, noise=0.1))


def test_codes_come_to_follow_their_prior() -> None:
    torch.manual_seed(0)
    train, held_out = load_for_training("digits")
    sizes = {"levels": train.levels, "image_size": 8, "hidden": (64,), "discriminator_hidden": (64,), "latent": 2}
    model = AdversarialAutoencoder(**sizes, adversarial_betas=(0.5, 0.999))
    codes = lambda model: torch.cat([model.encode(values) for values, _ in train.batches(500)])  # noqa: E731
    with torch.no_grad():
        far = metrics.kolmogorov_smirnov(codes(model), model.draw_codes(5000, 1)).max()
    recipe = Recipe(epochs=16, batch_size=50, optimizer="adam", lr=2e-3, clip=0.0, ema=0.99, drop_last=True)
    trainer, records = Trainer(model, recipe), []
    trainer.fit(train, held_out, records.append)
    with torch.no_grad():
        z, prior = codes(trainer.ema), trainer.ema.draw_codes(5000, 1)
    assert far > 0.3
    assert metrics.kolmogorov_smirnov(z, prior).max() < 0.12
    assert (z.std(0) - 1).abs().max() < 0.15
    last = records[-1]
    assert abs(last["train_discriminator_loss"] - 1.386) < 0.05
    assert abs(last["held_out_discriminator_loss"] - 1.386) < 0.1
    assert last["held_out_squared_error"] < 0.75 * records[0]["held_out_squared_error"]
    (line,) = trainer.objective.remarks(last)
    assert line.startswith("D loss 1.3")
    assert "(where codes are of the prior 1.39); codes are 0." in line


def test_on_the_command_line_with_some_labels(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    small = ["--limit", "90", "--batch-size", "30", "--epochs", "1", "--samples", "11", "--hidden", "8"]
    command = ["train", "adversarial-autoencoder", *small, "--discriminator-hidden", "6", "--run", run]
    out = said(capsys, *command, "--prior", "mixture", "--conditional", "--labelled", "20")
    assert "20 of 90 images to train on have a label that is seen" in out
    assert "not of the component of their class" in out
    config = Run(run).config()
    assert config["model"]["config"]["classes"] == 11
    assert config["model"]["config"]["unlabelled"] is True
    assert config["content"]["class_names"][-1] == "unlabelled"
    model = load_model(run)
    said(capsys, "evaluate", run, "--limit", "30")
    said(
        capsys,
        "sample",
        run,
        "--n",
        "4",
        "--labels",
        "unlabelled",
        "--npz",
        tmp_path / "s.npz",
        "--out",
        tmp_path / "t.png",
    )
    drawn = np.load(tmp_path / "s.npz")["x"]
    assert np.array_equal(drawn, model.sample(4, seed=0).numpy()), "the whole prior"
    said(capsys, *command, "--resume", "--epochs", "2")
    said(capsys, "explore", run, "manifold", "scatter", "--n", "4", "--side", "5")
    for arguments, words in (
        (["--labelled", "20"], "labelled: expected it with --conditional"),
        (["--labelled", "5", "--conditional", "--prior", "mixture"], "labelled: expected 10 to 90"),
        (["--labelled", "20", "--conditional"], "unlabelled: expected images without labels where"),
    ):
        assert words in refused(capsys, *command, "--overwrite", *arguments)


def test_a_roll_has_no_temperature() -> None:
    model = build("swiss-roll")
    assert model.sample(2, seed=0, labels=1, temperature=1).shape[0] == 2
    with pytest.raises(ValueError, match=r"temperature: expected 1 with a swiss roll, which has no width, got 0\.5"):
        model.sample(2, seed=0, labels=1, temperature=0.5)


def test_pictures_of_a_prior(tmp_path: Path) -> None:
    """A grid in the prior's own spread; of one with parts a row for each."""
    model = build("normal", latent=2, prior_std=3.0)
    grid = exploring.manifold_codes(4, 2) * 3.0
    assert np.array_equal(
        exploring.draw_manifold(model, 4), exploring.draw_manifold(build("normal", latent=2, prior_std=3.0), 4)
    )
    with torch.no_grad():
        wanted = pictures.to_rgb(model.decode(grid), 5)
    from pictured import find

    find(exploring.draw_manifold(model, 4), wanted, columns=4, gap=0)
    for kind in ("mixture", "mixture-classes", "swiss-roll"):
        model = build(kind)
        with torch.no_grad():
            wanted = pictures.to_rgb(model.decode(model.walk(4).flatten(0, 1)), 5)
        find(exploring.draw_manifold(model, 4), wanted, columns=4, gap=0)


@pytest.mark.parametrize("kind", ["mixture-classes", "told"])
def test_both_parts_are_exported_for_any_batch(kind: str, tmp_path: Path) -> None:
    model = build(kind).eval()
    for part, given in (("decoder", model.draw_codes(3, 0, labels=[0, 1, 2])), ("encoder", some(model, 3)[0].byte())):
        done = exporting.export(model, tmp_path / f"{part}.pt2", part)
        told = [torch.arange(3)] * (part == "decoder" and kind == "told")  # the one network that is told a class
        assert ("labels" in done.part.inputs) == bool(told)
        found = torch.export.load(tmp_path / f"{part}.pt2").module()(given, *told)
        with torch.no_grad():
            wanted = model.decode(given, torch.arange(3)) if part == "decoder" else model.encode(given)
        torch.testing.assert_close(found.detach(), wanted)
    said = str(exporting.parts.parts_of(model)["decoder"].inputs["z"])
    assert ("normal, of standard deviation 2" if kind == "told" else "mixture of 3 parts") in said


def test_its_encoder_begins_a_classifier() -> None:
    model = build("mixture-classes")
    values, _ = some(model)
    classifier = Classifier.from_encoder(model, 3)
    assert torch.equal(classifier.encoder_network.features(model.to_input(values)), model.encode(values))


def test_what_does_not_fit_is_named() -> None:
    model = build("mixture-classes")
    values, _ = some(model)
    for call, words in (
        (lambda: build(prior="laplace"), "prior: expected one of 'normal', 'mixture', 'swiss-roll'"),
        (lambda: build("mixture", latent=3), "latent: expected 2 with the prior mixture, which lies in a plane, got 3"),
        (lambda: build(prior_std=0.0), "prior_std: expected a positive number, got 0"),
        (lambda: build(unlabelled=True), "unlabelled: expected images without labels where .* normal and no classes"),
        (lambda: build("told", unlabelled=True), "unlabelled: expected images .* the prior normal and 3 classes"),
        (lambda: build(noise=-1.0), "noise: expected a finite number"),
        (lambda: model.losses(values), r"labels: expected 6 integers in \[0, 3\)"),
        (lambda: model.decode(torch.zeros(2, 3)), r"z: expected shape \(N, 2\)"),
        (lambda: model.decode(torch.zeros(2, 2), [0, 3]), r"labels: expected integers in \[0, 3\)"),
        (lambda: build("told").sample(2), r"labels: expected 2 integers in \[0, 3\)"),
        (lambda: build("mixture").sample(2, labels=0), "labels: expected None, since the model has no classes"),
        (lambda: build(adversarial_lr=0.0), "adversarial_lr: expected a positive number, got 0"),
        (lambda: build(adversarial_betas=0.5), r"adversarial_betas: expected two numbers in \[0, 1\), got 0.5"),
        (lambda: build(adversarial_betas=(0.5, 1.0)), r"adversarial_betas: expected two numbers in \[0, 1\), got"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
