"""Exploring a latent space: paths, grids and sums of codes, and that the pictures show them."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from fastgen import exploring, pictures
from fastgen.baselines import PCA
from fastgen.exploring import scatter
from fastgen.models import VAE, Autoencoder
from fastgen.models.model import LatentModel
from fastgen.pictures import sheet as sheets
from parity import assert_parity
from pictured import find

for package in ("PIL", "matplotlib", "sklearn"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")


class Plane(LatentModel):
    """Images of two pixels, whose values are the code: what is drawn can be read off."""

    def __init__(self, classes: int | None = None) -> None:
        super().__init__(1, 256, classes, (1, 2))
        self.latent = 2
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def encode(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        return values.flatten(1) / 25.5 - 5

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return ((z + 5) * 25.5).clamp(0, 255).view(-1, 1, 1, 2)


def assert_shows(picture: np.ndarray, rows: list, columns: int, gap: int = 2, below: int = 0) -> None:
    """The values (N, 2) of two pixels each are in the picture, row by row, at a whole scale."""
    values = torch.as_tensor(np.array(rows)).reshape(-1, 1, 1, 2).round().long()
    find(picture, pictures.to_rgb(values, 256), columns, gap, below)
    assert picture.shape[1] >= 800


def random_plane(n: int) -> Tensor:
    return torch.randint(256, (n, 1, 1, 2))


def test_lines_and_arcs() -> None:
    a, b = torch.randn(2, 50, dtype=torch.float64)
    line, arc = exploring.lerp(a, b, 9), exploring.slerp(a, b, 9)
    for way in (line, arc):
        for end, wanted in ((way[0], a), (way[-1], b)):
            assert_parity(end.float(), wanted.float(), wanted)
    middle = (a + b) / 2
    assert_parity(line[4].float(), middle.float(), middle)
    unit_a, unit_b = a / a.norm(), b / b.norm()
    steps = exploring.slerp(unit_a, unit_b, 9)
    norms, turns = steps.norm(dim=1), (steps[1:] * steps[:-1]).sum(1)
    assert_parity(norms.float(), torch.ones(9), torch.ones(9, dtype=torch.float64))
    equal = torch.cos(torch.acos(unit_a @ unit_b) / 8).expand(8)
    assert_parity(turns.float(), equal.float(), equal)
    assert line[4].norm() < arc[4].norm()
    assert torch.equal(exploring.slerp(a, 2 * a, 3), exploring.lerp(a, 2 * a, 3))


def test_manifold_codes_are_even_in_probability() -> None:
    codes = exploring.manifold_codes(4, latent=3, dims=(2, 0), at=torch.tensor([9.0, 7.0, 9.0]))
    p = Normal(0, 1).cdf(codes.double()).view(4, 4, 3)
    even = (torch.arange(4).double() + 0.5) / 4
    assert_parity(p[0, :, 2].float(), even.float(), even)
    assert_parity(p[:, 0, 0].float(), even.flip(0).float(), even.flip(0))
    assert (codes[:, 1] == 7).all()


def test_manifold_shows_its_codes() -> None:
    picture = exploring.draw_manifold(Plane(), side=3)
    ticks = ((Normal(0, 1).icdf(torch.tensor([1 / 6, 0.5, 5 / 6])) + 5) * 25.5).tolist()
    assert_shows(picture, [[x, y] for y in reversed(ticks) for x in ticks], 3, gap=0)


@pytest.mark.parametrize(("prior", "law"), [("uniform", "U(−√3, √3)"), ("normal", "N(0, 4)")])
def test_a_manifold_is_even_under_the_prior_that_there_is(
    prior: str, law: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, words = [], []
    model = Plane()
    model.latent, model.prior, model.prior_std = 3, prior, 2.0
    model.decode = lambda z, labels=None: seen.append(z) or Plane.decode(model, z[:, :2])
    monkeypatch.setattr("fastgen.exploring.draw.sheet", lambda *_, **given: words.append(given["note"]))
    exploring.draw_manifold(model, 4, (0, 2), at=torch.tensor([0.0, 7.0, 0.0]))
    codes, even = torch.cat(seen).double(), (torch.arange(4).double() + 0.5) / 4
    p = codes / (2 * math.sqrt(3)) + 0.5 if prior == "uniform" else Normal(0, 2).cdf(codes)
    torch.testing.assert_close(p.view(4, 4, 3)[0, :, 0], even, rtol=0, atol=1e-6)
    assert (codes[:, 1] == 7).all(), "what is given is not scaled"
    assert law in words[0]


def test_traversals_are_ordered_by_what_dimensions_tell() -> None:
    values = random_plane(40)
    values[..., 0] = 120 + values[..., 0] // 100
    picture = exploring.draw_traversals(Plane(), values, rows=2, steps=3, reach=1.0, index=5)
    codes = Plane().encode(values)
    first, second = values[5].flatten().tolist()
    across, along = (
        ((codes[:, dim].mean() + codes[:, dim].std() * torch.tensor([-1, 0, 1]) + 5) * 25.5).tolist() for dim in (0, 1)
    )
    assert_shows(picture, [*([first, y] for y in along), *([x, second] for x in across)], 3)


def test_importance_is_what_a_dimension_tells_of_an_image() -> None:
    """The mean KL to the Gaussian of all codes; a dimension that is the same for every image tells nothing."""
    model = VAE(latent=4, hidden=(8,), image_size=4).double()
    values = torch.randint(2, (700, 1, 4, 4))
    with torch.no_grad():
        last = model.encoder.linear[-1]
        last.weight[[1, 5]] = 0  # mean and log-variance of the second dimension
        last.bias[1] = 3.0
        q = model.posterior(values)
    mean, var = q.mean, q.logvar.exp()
    m, s2 = mean.mean(0), mean.var(0, correction=0) + var.mean(0)
    exact = 0.5 * (((mean - m) ** 2 + var) / s2 - 1 - (var / s2).log()).mean(0)
    found = exploring.importance(model, values)
    torch.testing.assert_close(found, exact)
    assert found[1] < 1e-12 < 4 < q.kl_per_dimension().mean(0)[1], "its KL to the prior is that of an offset"
    assert (found[[0, 2, 3]] > 1e-4).all()


def test_arithmetic_is_of_averages() -> None:
    a, b, c = (random_plane(n) for n in (4, 5, 6))
    model = Plane()
    means = [model.encode(group).mean(0) for group in (a, b, c)]
    assert torch.equal(exploring.arithmetic(model, a, b, c), means[0] - means[1] + means[2])
    picture = exploring.draw_arithmetic(model, a, b, c)
    wanted = [*means, means[0] - means[1] + means[2]]
    images = np.concatenate([pictures.to_rgb(model.decode(z[None]), 256) for z in wanted])
    find(picture, images, 4, gap=24, below=sheets.LINE + 4)
    find(exploring.draw_arithmetic(model, a, b, c, called=("7", "9", "4")), images, 4, gap=24, below=sheets.LINE + 4)


def test_reconstructions_and_interpolations_show_both_ends() -> None:
    model, values = Plane(), random_plane(6)
    x = values.flatten(1).tolist()
    picture = exploring.draw_reconstructions(model, values, columns=3)
    assert_shows(picture, [*x[:3], *x[:3], *x[3:], *x[3:]], 3)
    picture = exploring.draw_interpolations(model, values[:2], values[2:4], steps=5)
    codes = model.encode(values)
    ways = [way(codes[i], codes[i + 2], 5) for i in range(2) for way in (exploring.lerp, exploring.slerp)]
    assert_shows(picture, model.decode(torch.cat(ways)).tolist(), 5)


def test_pca_stands_beside_reconstructions() -> None:
    model, values = Plane(), random_plane(50)
    pca = PCA(1).fit(values.double() / 255)
    rebuilt = (pca.decode(pca.encode(values.double() / 255)).clamp(0, 1) * 255).flatten(1).tolist()
    given = values.flatten(1).tolist()
    picture = exploring.draw_reconstructions(model, values, columns=3, shown=3, pca=pca)
    assert_shows(picture, [*given[:3], *given[:3], *rebuilt[:3]], 3)
    assert exploring.reconstruction_error(model, values) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        shift = Plane()
        shift.encode = lambda values, labels=None: values.flatten(1) / 25.5 - 4
    inside = values.clamp(max=200)
    assert exploring.reconstruction_error(shift, inside) == pytest.approx(2 * 0.1**2, rel=1e-4), "x in [0, 1]"
    coder = Autoencoder(latent=2, hidden=(4,), image_size=(1, 2))
    with torch.no_grad():
        own = coder.losses(values[:9] // 128)["squared_error"].mean().item()
    assert exploring.reconstruction_error(coder, values[:9] // 128) == pytest.approx(own)


def test_nearest_is_the_nearest() -> None:
    images, among = torch.randint(256, (7, 3, 2, 2)), torch.randint(256, (9000, 3, 2, 2))
    indices, distances = exploring.nearest(images, among, k=3)
    every = torch.cdist(
        images.flatten(1).double(), among.flatten(1).double(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    wanted = every.topk(3, largest=False)
    assert_parity(distances.float(), wanted.values.float(), wanted.values)
    assert torch.equal(every.gather(1, indices), wanted.values)
    index, distance = exploring.nearest(among[8999:], among)
    assert torch.equal(among[index[0, 0]], among[8999])
    assert distance.item() == 0


def test_nearest_images_are_below_the_samples() -> None:
    model, train = VAE(latent=2, hidden=(4,), image_size=(1, 2)), torch.randint(2, (30, 1, 1, 2))
    picture = exploring.draw_nearest(model, train, n=4, k=2)
    drawn = model.sample(4, seed=0)
    indices, _ = exploring.nearest(drawn, train, 2)
    images = pictures.to_rgb(torch.cat([drawn, train[indices[:, 0]], train[indices[:, 1]]]), 2)
    find(picture, images, 4, below=sheets.LINE + 4)


@pytest.mark.parametrize("labels", [None, torch.arange(20) % 3])
def test_scatter_is_a_picture(tmp_path: Path, labels: Tensor | None) -> None:
    values = random_plane(20)
    values[..., 0] //= 10
    assert exploring.draw_scatter(Plane(), values, labels, tmp_path / "scatter.png") == (1, 0)
    with pytest.importorskip("PIL.Image").open(tmp_path / "scatter.png") as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20)}
    tab10 = {(31, 119, 180), (255, 127, 14), (44, 160, 44)}
    assert len(colors & tab10) == (1 if labels is None else 3)


def test_a_scatter_of_many_classes_keeps_its_axes_and_tells_all_apart(tmp_path: Path) -> None:
    looks = [scatter.look(label, 40) for label in range(40)]
    assert len({(tuple(color), marker) for color, marker in looks}) == 40
    many = [scatter.look(label, 1000) for label in range(1000)]
    assert len({(tuple(color), marker) for color, marker in many}) == 1000
    names = [f"_a name of $ 20 characters or more, {i}" for i in range(40)]
    values, sizes = random_plane(80), {}
    for classes in (3, 40):
        exploring.draw_scatter(Plane(), values, torch.arange(80) % classes, tmp_path / "s.png", names=names)
        with pytest.importorskip("PIL.Image").open(tmp_path / "s.png") as picture:
            pixels = np.asarray(picture.convert("RGB"))
        dark = (pixels < 90).all(axis=2)
        sizes[classes] = max(dark.sum(axis=0)), picture.size[0]
        assert not dark[[0, -1]].any(), "nothing is cut off"
        assert not dark[:, [0, -1]].any()
    assert sizes[40][0] > 600, "the axes are as high as without a legend"
    assert sizes[40][1] > sizes[3][1] + 200 > 1000, "and the legend has its own room"


def test_samples_of_a_conditional_model_have_a_class_in_each_column() -> None:
    model = VAE(latent=2, hidden=(4,), image_size=(1, 2), classes=2)
    drawn = pictures.to_rgb(model.sample(6, seed=0, labels=torch.tensor([0, 1, 0, 1, 0, 1])), 2)
    top, *_ = find(exploring.draw_samples(model, n=6), drawn, 2)
    named, *_ = find(exploring.draw_samples(model, n=6, names=["a cat", "a dog"], of="it"), drawn, 2)
    assert named == top
    other = exploring.draw_samples(model, 4, 2, labels=torch.tensor([1, 1, 0, 1]))
    find(
        other, pictures.to_rgb(model.sample(4, seed=0, labels=torch.tensor([1, 1, 0, 1])), 2), 2, below=sheets.LINE + 4
    )


IMAGES = torch.zeros(3, 1, 28, 28, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exploring.lerp(torch.zeros(2), torch.ones(2), 1), "steps: expected 2 or more, got 1"),
        (lambda: exploring.manifold_codes(3, 2, (1, 1)), r"dims: expected two different ones of 2, got \(1, 1\)"),
        (lambda: exploring.manifold_codes(0, 2), "side: expected 1 or more, got 0"),
        (lambda: exploring.nearest(IMAGES, IMAGES, 4), "k: expected 1 to 3, the number of images .* got 4"),
        (lambda: exploring.arithmetic(Plane(), *[IMAGES[:0]] * 3), "a: expected at least one image, got none"),
        (lambda: exploring.draw_arithmetic(Plane(classes=2), *[IMAGES] * 3), "model: expected one without classes"),
        (
            lambda: exploring.draw_samples(VAE(latent=2, classes=3), names=["a", "b"]),
            "names: .* each of 3 classes, got 2",
        ),
        (lambda: exploring.draw_scatter(Autoencoder(latent=1), IMAGES, None, "x"), "model: expected at least 2 latent"),
    ],
)
def test_errors_name_argument_expected_and_got(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_words_and_baselines_are_checked() -> None:
    with pytest.raises(TypeError, match="of: expected text, got"):
        exploring.draw_manifold(Plane(), 2, of=3)
    with pytest.raises(TypeError, match="pca: expected a fitted PCA, got"):
        exploring.draw_reconstructions(Plane(), random_plane(3), pca="PCA")


def test_what_is_far_has_its_distance() -> None:
    _, distance = exploring.nearest(torch.full((1, 1, 1, 1), 255), torch.zeros(1, 1, 1, 1, dtype=torch.uint8))
    assert distance.item() == math.hypot(255)
