"""VQ-VAE: what its losses and gradients are, its codes as data, and a prior over them, end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import fastgen
from commands import refused, said
from fastgen.models import VQVAE, GatedPixelCNN

SIZES = {"codes": 7, "code_channels": 3, "channels": 8, "layers": 1}


def build(**changes: object) -> VQVAE:
    torch.manual_seed(0)
    model = VQVAE(**{"in_channels": 1, "levels": 17, "image_size": (8, 10), **SIZES, **changes})
    model.losses(some(model, 20))  # begins with a codebook of these
    return model


def some(model: VQVAE, n: int = 5) -> Tensor:
    return torch.randint(model.levels, (n, model.in_channels, *model.sides))


def test_the_loss_is_that_of_the_paper() -> None:
    """In float64, with the nearest vector found in a loop."""
    model = build(commitment=0.4, deviation=0.2).double().eval()
    values = some(model)
    x = values / 16
    z = model.encoder(x.double())
    codes = torch.empty(5, 2, 2, dtype=torch.int64)
    for i, r, c in np.ndindex(5, 2, 2):
        codes[i, r, c] = ((z[i, :, r, c] - model.codebook) ** 2).sum(1).argmin()
    assert torch.equal(model.encode(values), codes[:, None])
    assert len(codes.unique()) > 2
    e = model.codebook[codes].permute(0, 3, 1, 2)
    found = model.losses(values)
    squared, distance = ((x - model.decoder(e)) ** 2).sum((1, 2, 3)), ((z - e) ** 2).sum((1, 2, 3))
    torch.testing.assert_close(found["squared_error"], squared)
    torch.testing.assert_close(found["code_error"], distance)
    torch.testing.assert_close(found["loss"], squared / 0.08 + 0.4 * distance)


def test_the_encoder_has_the_decoders_gradient_as_it_is_at_the_codes() -> None:
    model = build(commitment=0.4, deviation=0.2).double().eval()
    values = some(model)
    model.losses(values)["loss"].sum().backward()
    x = model.to_input(values)
    z = model.encoder(x)
    e = model.codebook[model.encode(values)[:, 0]].movedim(-1, 1)
    at = e.clone().requires_grad_()
    (straight,) = torch.autograd.grad(((x - model.decoder(at)) ** 2).sum() / 0.08, at)
    wanted = torch.autograd.grad(z, list(model.encoder.parameters()), straight + 0.8 * (z - e).detach())
    for parameter, gradient in zip(model.encoder.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_the_codebook_follows_the_means_of_what_it_stands_for() -> None:
    """Appendix A.1, by hand; in eval mode nothing moves, and a vector that stands for nothing begins anew."""
    model = build(decay=0.9).double()
    values, before = some(model, 30), {name: each.clone() for name, each in model.named_buffers()}
    with torch.no_grad():
        z, codes = model.encoder(model.to_input(values)).movedim(1, -1).flatten(0, 2), model.encode(values).flatten()
    model.eval().losses(values)
    assert all(torch.equal(each, before[name]) for name, each in model.named_buffers())
    model.train().losses(values)
    for k in range(model.codes):
        count = 0.9 * before["counts"][k] + 0.1 * (codes == k).sum()
        total = 0.9 * before["sums"][k] + 0.1 * z[codes == k].sum(0)
        torch.testing.assert_close(model.codebook[k], total / count)
        torch.testing.assert_close(model.counts[k], count)
    model.codebook[2], model.counts[2], model.sums[2] = 1e3, 1e-3, 1.0
    model.losses(values)
    assert (model.codebook[2] - z).norm(dim=1).min() < 0.1 * z.std() * model.code_channels
    assert model.counts[2] > 0.5


def test_codes_are_found_in_full_precision_under_autocast() -> None:
    """Sums in half precision would choose others, of vectors that lie close together."""
    model = build(codes=40, code_channels=16)
    z = torch.randn(50, 16, 2, 2)
    wanted = model._nearest(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model._nearest(z), wanted)
    distances = (z.movedim(1, -1).unsqueeze(-2) - model.codebook).square().sum(-1)
    assert torch.equal(wanted, distances.argmin(-1))


@pytest.mark.parametrize(("colors", "size", "halvings"), [(1, (28, 28), 2), (3, (9, 14), 1), (3, (15, 13), 3)])
def test_sizes(colors: int, size: tuple[int, int], halvings: int) -> None:
    model = build(in_channels=colors, image_size=size, halvings=halvings)
    values = some(model, 2)
    codes = model.encode(values)
    assert codes.shape == (2, 1, *model.code_size)
    assert model.code_size == (size[0] >> halvings, size[1] >> halvings)
    image = model.reconstruct(values)
    assert image.shape == values.shape
    assert 0 <= image.min() <= image.max() <= 16
    assert type(model)(**json.loads(json.dumps(model.config))).config == model.config


def test_what_does_not_fit() -> None:
    model = build()
    codes = model.encode(some(model))
    with pytest.raises(ValueError, match=r"codes: expected shape \(N, 1, 2, 2\), got \(5, 2, 2\)"):
        model.decode(codes[:, 0])
    with pytest.raises(ValueError, match=r"codes: expected integers in \[0, 7\)"):
        model.decode(codes + 7)
    with pytest.raises(TypeError, match="codes: expected an integer tensor"):
        model.decode(codes.float())
    with pytest.raises(ValueError, match="prior: expected one of 1 colour and 7 levels, K, got 1 and 2"):
        model.sample(GatedPixelCNN(channels=2, layers=1))
    for name, value in (("codes", 1), ("deviation", 0.0), ("decay", 2), ("halvings", 9), ("commitment", -1)):
        with pytest.raises(ValueError, match=name if name != "halvings" else "at most"):
            VQVAE(**{**SIZES, name: value})


def test_from_images_to_a_prior_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Codes of every split, with labels, as data; a prior of more than 256 levels is trained on them, and sampled."""
    for package in ("tyro", "tqdm", "safetensors", "sklearn", "matplotlib", "PIL"):
        pytest.importorskip(package, reason="the command line comes with fastgen[train]")
    monkeypatch.chdir(tmp_path)
    train = ["--data", "digits", "--limit", "60", "--batch-size", "30", "--epochs", "1", "--samples", "4"]
    sizes = ["--codes", "300", "--code-channels", "3", "--channels", "4", "--layers", "1", "--halvings", "1"]
    assert "equally frequent ones of 300" in said(capsys, "train", "vqvae", *train, *sizes, "--run", "coder")
    assert said(capsys, "encode", "coder", "--out", "codes.npz").strip() == (
        "codes.npz: 4x4 places of 300 codes, by vqvae on digits, epoch 1: train 60, valid 150, test 297"
    )
    codes = np.load("codes.npz")
    assert codes["train"].dtype == np.int32
    assert codes["train"].shape == (60, 1, 4, 4)
    assert codes["levels"] == 300
    model, images = fastgen.load("coder"), fastgen.data.load("digits", split="test")
    assert np.array_equal(codes["test"], model.encode(images.values).numpy())
    assert np.array_equal(codes["test_labels"], images.labels)
    prior = ["--data", "codes.npz", "--batch-size", "30", "--epochs", "1", "--samples", "4", "--conditional"]
    said(capsys, "train", "gated-pixelcnn", *prior, "--channels", "4", "--layers", "1", "--run", "prior")
    drawn = model.sample(fastgen.load("prior"), 3, seed=1, labels=[1, 2, 3])
    assert drawn.shape == (3, 1, 8, 8)
    assert torch.equal(drawn, model.sample(fastgen.load("prior"), 3, seed=1, labels=[1, 2, 3]))
    options = ["--n", "3", "--seed", "1", "--labels", "1", "2", "3"]
    said(capsys, "sample", "prior", "--decoder", "coder", *options, "--out", "drawn.npy", "--npz", "drawn.npz")
    assert np.load("drawn.npy").shape == (3, 1, 8, 8)
    assert torch.equal(torch.from_numpy(np.load("drawn.npy").astype(np.int64)), drawn)
    assert np.load("drawn.npz")["levels"] == 17
    said(capsys, "sample", "prior", "--decoder", "coder", *options, "--out", "drawn.png")
    assert "expected the run of a vqvae" in refused(capsys, "sample", "prior", "--decoder", "prior")
    line = refused(capsys, "encode", "prior", "--out", "again.npz")
    assert line.startswith("fastgen: run: expected one of a model whose codes are integers, vqvae, got ")
