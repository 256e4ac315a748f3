"""Malformed arguments of models, distributions, baselines, exploring, training and data: the error names which."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fastgen import baselines, distributions, exploring, sampling
from fastgen.data import Dataset
from fastgen.models import VAE, Autoencoder, Classifier, GatedPixelCNN, PixelCNN, build
from fastgen.models.likelihoods import likelihood
from fastgen.nn import MaskedConv2d
from fastgen.training import Recipe, Trainer, evaluate
from foreign_conditions import SHAPE, VectorModel
from malformed import assert_clear, sweep

VALUES = torch.arange(48).view(3, 1, 4, 4) % 3
LABELS = torch.tensor([0, 1, 0])
VECTOR = torch.randn(3, 5)
SIZES = {"in_channels": 1, "levels": 3, "image_size": 4}
LATENT = {"latent": 2, "hidden": (4,), "channels": (2,), "activation": "relu"}
OTHER_NAMES = ("some", "likelihood")  # a data set's messages begin with its name
OPTIONAL = {"classes", "image_size", "labels", "seed", "encoder", "bandwidth", "dims", "label", "at", "order"}


def made(kind: type, **options: Any) -> Any:
    torch.manual_seed(0)
    return kind(**SIZES, **options).eval()


def latents() -> dict[str, Any]:
    return {"vae": made(VAE, classes=2, likelihood="categorical", **LATENT), "coder": made(Autoencoder, **LATENT)}


def constructors() -> list[tuple[Callable[..., Any], dict[str, Any]]]:
    points = torch.randn(9, 4)
    conditional = {"beta": 1.0, "warmup": 0.0, "free_bits": 0.0, "importance_samples": 1, "likelihood": "categorical"}
    return [
        (PixelCNN, {**SIZES, "channels": 2, "layers": 1}),
        (GatedPixelCNN, {**SIZES, "channels": 2, "layers": 1, "kernel_size": 3, "classes": 2}),
        (VAE, {**SIZES, **LATENT, "classes": 2, **conditional}),
        (Autoencoder, {**SIZES, **LATENT, "squash": False, "sigmoid": True}),
        (Classifier, {**SIZES, "classes": 2, "encoder": {"code": 2, "hidden": (3,)}, "frozen": False}),
        (lambda name: build(name, **SIZES), {"name": "pixelcnn"}),
        (likelihood, {"name": "logistic", "levels": 3}),
        (distributions.Categorical, {"levels": 3}),
        (lambda x, **given: baselines.PCA(**given).fit(x), {"components": 2, "x": points}),
        (lambda x, **given: baselines.KMeans(**given).fit(x), {"clusters": 2, "seed": 0, "x": points}),
        (lambda x, **given: baselines.GaussianMixture(**given).fit(x), {"components": 2, "seed": 0, "x": points}),
        (lambda x, **given: baselines.KernelDensity(**given).fit(x), {"bandwidth": 0.5, "x": points}),
        (Recipe, {field.name: field.default for field in dataclasses.fields(Recipe)}),
        (Dataset, {"values": VALUES.to(torch.uint8), "labels": LABELS, "levels": 3, "classes": 2, "name": "some"}),
    ]  # fmt: skip


def methods() -> list[tuple[Callable[..., Any], dict[str, Any]]]:
    images = {"values": VALUES, "labels": LABELS}
    pixels = made(GatedPixelCNN, channels=2, layers=1, classes=2)
    classifier = made(Classifier, classes=2, encoder={"code": 2, "hidden": (3,)})
    vae, coder = latents().values()
    code = {"z": torch.randn(3, 2), "labels": LABELS}
    x = {"x": VALUES.float() - 1, "labels": LABELS}
    return [
        (pixels.log_prob, images),
        (pixels.losses, {**images, "progress": 0.5}),
        (pixels.bits_per_dim, images),
        (pixels, x),
        (pixels.to_input, {"values": VALUES}),
        (vae.losses, {**images, "progress": 0.5}),
        (vae.elbo, {**images, "samples": 2}),
        (vae.importance_log_prob, {**images, "samples": 2}),
        (vae.posterior, images),
        (vae.encode, images),
        (vae.reconstruct, images),
        (vae.decode, code),
        (vae.measures_by, {"importance_samples": 2}),
        (coder, {"x": VALUES.float() / 2}),
        (coder.losses, {"values": VALUES}),
        (coder.encode, {"values": VALUES}),
        (coder.decode, {"z": code["z"]}),
        (classifier.losses, images),
        (classifier.logits, {"values": VALUES}),
        (classifier.predict, {"values": VALUES}),
        (classifier, {"x": VALUES.float() / 2}),
        (Classifier.from_encoder, {"model": coder, "classes": 2, "frozen": False}),
        *of_distributions(),
        *of_baselines(),
        *of_training(vae),
    ]


def of_distributions() -> list[tuple[Callable[..., Any], dict[str, Any]]]:
    found: list[tuple[Callable[..., Any], dict[str, Any]]] = []
    for one in (distributions.Bernoulli(), distributions.Categorical(3)):
        values, params = VALUES % one.levels, torch.randn(3, one.param_channels(1), 4, 4)
        found += [
            (one.param_channels, {"channels": 1}),
            (one.to_input, {"values": values}),
            (one.log_prob, {"params": params, "values": values}),
            (one.draw, {"params": params, "uniforms": torch.rand(3, 1, 4, 4), "temperature": 1.0}),
        ]
    return found


def of_baselines() -> list[tuple[Callable[..., Any], dict[str, Any]]]:
    x = torch.randn(9, 4)
    pca, means = baselines.PCA(2).fit(x), baselines.KMeans(2).fit(x)
    densities = baselines.GaussianMixture(2).fit(x), baselines.KernelDensity(0.5).fit(x)
    found: list[tuple[Callable[..., Any], dict[str, Any]]] = [
        (pca.encode, {"x": x}), (pca.decode, {"z": x[:, :2]}), (pca.squared_error, {"x": x}),
        (means.assign, {"x": x}), (means.squared_error, {"x": x}),
    ]  # fmt: skip
    for density in densities:
        found += [(density.log_prob, {"x": x}), (density.sample, {"n": 3, "seed": 0})]
    return found


def of_training(model: Any) -> list[tuple[Callable[..., Any], dict[str, Any]]]:
    data = Dataset(VALUES.to(torch.uint8), LABELS, 3, 2, "some")
    recipe = Recipe(epochs=0, batch_size=2)

    return [
        (data.quantise, {"levels": 2}),
        (data.pick, {"indices": torch.tensor([0, 2])}),
        (data.subset, {"n": 2, "seed": 0}),
        (data.hold_out, {"fraction": 0.5, "seed": 0}),
        (lambda size, order: list(data.batches(size, order=order)), {"size": 2, "order": torch.tensor([0, 2])}),
        (lambda **given: evaluate(**given), {"model": model, "dataset": data, "batch_size": 2, "seed": 0}),
        (lambda model, recipe: Trainer(model, recipe), {"model": model, "recipe": recipe}),
        (lambda train, held_out: Trainer(model, recipe).fit(train, held_out), {"train": data, "held_out": data}),
        (recipe.lr_factor, {"step": 1, "steps": 3}),
        (recipe.ema_at, {"step": 1}),
        (recipe.make_optimizer, {"parameters": [nn.Parameter(torch.ones(2))], "lr": 0.1}),
    ]


def of_sampling() -> list[tuple[Callable[..., Any], dict[str, Any]]]:
    torch.manual_seed(0)
    model = nn.Sequential(MaskedConv2d(1, 3, 3, "A"), MaskedConv2d(3, 3, 3, "B"))
    labelled = sampling.compile(made(GatedPixelCNN, channels=2, layers=1, classes=2), (1, 4, 4))
    named = {"shape": (1, 4, 4), "distribution": distributions.Categorical(3), "to_input": "[-1, 1]"}
    how = {"labels": LABELS, "temperature": 1.0, "known": VALUES, "known_mask": VALUES > 1}
    found: list[tuple[Callable[..., Any], dict[str, Any]]] = [
        (lambda **given: list(labelled.stream(**given)), {"n": 3, "seed": 0, **how}),
        (lambda **given: labelled.sample(**given), {"uniforms": torch.rand(3, 1, 4, 4), **how}),
        (labelled.forced, {"values": VALUES, "labels": LABELS}),
        (lambda **given: sampling.verify(labelled, **given), {"n": 2, "seed": 0, "labels": LABELS[:2]}),
    ]
    told = sampling.NaiveSampler(VectorModel(), SHAPE, distributions.Bernoulli(), "[0, 1]", condition=VECTOR[0])
    found += [
        (told.forward, {"values": torch.zeros(3, *SHAPE, dtype=torch.int64), "condition": VECTOR}),
        (lambda condition: told.stream(3, condition=condition), {"condition": VECTOR}),
    ]
    for kind in (sampling.compile, sampling.NaiveSampler):
        found.append((lambda kind=kind, **given: kind(model, **given), named))
        found.append((lambda to_input, kind=kind: kind(model, (1, 4, 4), named["distribution"], to_input),
                      {"to_input": (0.5, 0.5)}))  # fmt: skip
    return found


def of_exploring() -> list[tuple[Callable[..., Any], dict[str, Any]]]:
    vae, coder = latents().values()
    a, b, images = torch.randn(2), torch.randn(2), {"values": VALUES, "labels": LABELS}
    group = {name: VALUES for name in "abc"}
    return [
        (exploring.lerp, {"a": a, "b": b, "steps": 3}),
        (exploring.slerp, {"a": a, "b": b, "steps": 3}),
        (exploring.manifold_codes, {"side": 2, "latent": 3, "dims": (0, 1), "at": torch.zeros(3)}),
        (exploring.traversal_codes, {"code": a, "dims": torch.tensor([0, 1]), "steps": 3, "reach": 2.0}),
        (exploring.combine, {"a": torch.randn(2, 3), "b": torch.randn(2, 3), "c": torch.randn(1, 3)}),
        (exploring.nearest, {"images": VALUES, "among": VALUES, "k": 2}),
        (lambda **given: exploring.codes_of(vae, **given), images),
        (lambda **given: exploring.importance(vae, **given), images),
        (lambda **given: exploring.arithmetic(coder, **given), group),
        (lambda **given: exploring.draw_arithmetic(coder, **given), group),
        (lambda **given: exploring.draw_reconstructions(vae, **given), {**images, "columns": 2}),
        (lambda **given: exploring.draw_samples(vae, **given), {"n": 2, "columns": 2, "seed": 0}),
        (lambda **given: exploring.draw_manifold(vae, **given), {"side": 2, "dims": (0, 1), "label": 1}),
        (lambda **given: exploring.draw_traversals(vae, **given),
         {**images, "rows": 2, "steps": 3, "reach": 2.0, "index": 1}),
        (lambda **given: exploring.draw_interpolations(coder, **given), {"starts": VALUES, "ends": VALUES, "steps": 3}),
        (lambda **given: exploring.draw_nearest(vae, **given), {"train": VALUES, "n": 2, "k": 2, "seed": 0}),
    ]  # fmt: skip


@pytest.mark.parametrize("cases", [constructors, methods, of_sampling, of_exploring], ids=lambda cases: cases.__name__)
def test_what_is_wrong_is_named(cases: Callable[[], list[tuple[Callable[..., Any], dict[str, Any]]]]) -> None:
    outcomes = []
    for call, arguments in cases():
        outcomes += sweep(call, arguments, optional=OPTIONAL, names=OTHER_NAMES)
    assert len(outcomes) > 1000
    assert_clear(outcomes)
