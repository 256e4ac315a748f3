"""Feature classifiers, which are the same wherever they are trained; and the numbers of drawn images beside floors."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastgen import metrics, quality
from fastgen.conditions import Vector
from fastgen.data import Dataset, load
from fastgen.models import VAE, PixelCNN
from fastgen.quality import FeatureClassifier, Quality, Reference, feature_classifier, score
from fastgen.quality import training as making
from fastgen.quality.numbers import OF_SETS

for package in ("tqdm", "sklearn"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")

pytestmark = pytest.mark.usefixtures("few_steps")


def digits() -> tuple[Dataset, Dataset]:
    return load("digits"), load("digits", split="test")


def unlabelled(images: Dataset) -> Dataset:
    return replace(images, labels=None, classes=None)


def kept(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.pt"))


def test_a_classifier_is_trained_once_and_known_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train, test = digits()
    first = feature_classifier(train, test, folder=tmp_path)
    assert "training the feature classifier cnn128-v1 on 1,500 images" in capsys.readouterr().err
    about = first.identity
    assert (about.name, about.seed, about.epochs, about.images) == ("cnn128-v1", 0, 3, 1500)
    features, classes = first.features(test.values)
    assert features.shape == (297, 128)
    assert features.min() == 0, "they are what a ReLU leaves"
    assert about.accuracy == pytest.approx(float((classes == test.labels).double().mean()))
    assert about.accuracy > 0.6
    again = feature_classifier(train, test, folder=tmp_path)
    assert capsys.readouterr().err == "", "it was kept"
    assert again.identity == about
    assert torch.equal(again.features(test.values)[0], features)
    assert [path.name for path in kept(tmp_path)] == [f"cnn128-v1-seed0-{about.sha256[:16]}.pt"]
    other = feature_classifier(train, test, seed=1, folder=tmp_path)
    assert other.identity.weights != about.weights
    assert feature_classifier(train.subset(100), test, folder=tmp_path).identity.sha256 != about.sha256
    assert len(kept(tmp_path)) == 3, "a file for each seed, and for each data"


def test_whatever_else_the_process_does_it_is_the_same(tmp_path: Path) -> None:
    train, test = digits()
    first = feature_classifier(train, test, folder=tmp_path / "first").identity
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(5)
        drawn = torch.rand(3)
        torch.manual_seed(5)
        with torch.no_grad(), torch.autocast("cpu"):
            second = feature_classifier(train, test, folder=tmp_path / "second").identity
        assert torch.equal(torch.rand(3), drawn), "random numbers outside stay"
        assert (torch.get_num_threads(), torch.get_default_dtype()) == (2, torch.float64)
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float32)
        torch.set_rng_state(state)
    assert second == first


@pytest.mark.parametrize("fault", ["cut", "other weights", "other data", "code", "more epochs", "not its kind"])
def test_a_file_that_is_not_what_was_kept_is_never_believed(
    tmp_path: Path, capsys: pytest.CaptureFixture, fault: str
) -> None:
    train, test = (part.subset(64) for part in digits())
    good = feature_classifier(train, test, folder=tmp_path)
    (path,) = kept(tmp_path)
    held = torch.load(path, weights_only=True)
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-500])
    elif fault == "code":
        torch.save({**held, "more": torch.nn.Linear(1, 1)}, path)
    else:
        if fault == "other weights":
            held["weights"]["head.bias"] += 1
        elif fault == "other data":
            held["identity"]["sha256"] = "0" * 64
        elif fault == "more epochs":
            held["identity"]["epochs"] += 1
        else:
            held["identity"]["accuracy"] = "good"
        torch.save(held, path)
    capsys.readouterr()
    again = feature_classifier(train, test, folder=tmp_path)
    said = capsys.readouterr().err
    assert f"{path}: is not what was kept there" in said
    assert "is trained again" in said
    assert again.identity == good.identity
    assert feature_classifier(train, test, folder=tmp_path).identity == good.identity
    assert capsys.readouterr().err == "", "the file is good again"


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    train, test = (part.subset(32) for part in digits())
    assert feature_classifier(train, test, folder=tmp_path / "file").identity is not None
    said = capsys.readouterr().err
    assert "cannot be kept: Not a directory; it is trained each time" in said


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastgen.quality.kept import cache_folder

    monkeypatch.setenv("FASTGEN_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("FASTGEN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/fastgen"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache/fastgen"


def test_images_without_labels_teach_rotations(tmp_path: Path) -> None:
    train, test = map(unlabelled, digits())
    classifier = feature_classifier(train, test, folder=tmp_path)
    assert classifier.identity.name == "cnn128-rotation-v1"
    turned = torch.cat([test.values.rot90(k, (2, 3)) for k in range(4)])
    right = classifier.features(turned)[1] == torch.arange(4).repeat_interleave(297)
    assert classifier.identity.accuracy == pytest.approx(float(right.double().mean()))
    found = Reference(test, train, classifier, 200).score(train.values[:200])
    assert found.classes is None
    assert found.left_out["classes"] == "since the data have no labels"
    assert found.as_dict()["classes"] is None


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 9, 20), (1, 32, 32), (3, 40, 33)])
def test_images_of_any_size(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]) -> None:
    monkeypatch.setattr(making, "STEPS", 1)
    values = torch.randint(0, 7, (12, *shape), dtype=torch.uint8)
    plain = Dataset(values, None, 7, None, "noise")
    for images in (plain, replace(plain, labels=torch.arange(12) % 3, classes=3)):
        features, classes = feature_classifier(images, images).features(values)
        assert features.shape == (12, 128)
        assert int(classes.max()) < (3 if images.labels is not None else 4)


def test_what_cannot_be_classified_is_named() -> None:
    train, test = digits()
    with pytest.raises(ValueError, match=r"held_out: expected images as in train, .* 17 levels.*, got .* 4 levels"):
        feature_classifier(train, test.quantise(4))
    with pytest.raises(TypeError, match="train: expected a Dataset"):
        feature_classifier(train.values, test)
    untrained = FeatureClassifier(1, 17, 10, (8, 8))
    with pytest.raises(ValueError, match="classifier: expected one that feature_classifier has trained"):
        Reference(test, train, untrained)
    with pytest.raises(ValueError, match=r"expected shape \(N, 1, 8, 8\), got \(2, 1, 9, 9\)"):
        untrained.features(torch.zeros(2, 1, 9, 9, dtype=torch.uint8))


@pytest.fixture
def scored() -> tuple[Reference, Quality, Tensor]:
    """Training images as if they had been drawn, the first half of them blurred."""
    train, test = digits()
    reference = Reference(test, train, feature_classifier(train, test), 200, seed=3)
    drawn = train.values[:200].clone()
    drawn[:100] = drawn[:100].double().mean(0).round().byte()
    return reference, reference.score(drawn), drawn


def test_numbers_are_those_of_the_metrics(scored: tuple[Reference, Quality, Tensor]) -> None:
    reference, found, drawn = scored
    train, test = digits()
    classifier = feature_classifier(train, test)
    real = test.subset(200, 3)
    a, b = (classifier.features(values)[0] for values in (real.values, drawn))
    assert found.feature_fid == metrics.frechet_distance(a, b)
    assert (found.feature_kid, found.feature_kid_error) == metrics.kernel_distance(a, b, 50, 100, 3)
    assert (found.precision, found.recall) == metrics.precision_recall(a, b)
    assert (found.density, found.coverage) == metrics.density_coverage(a, b)
    floor = metrics.frechet_distance(a, classifier.features(train.subset(200, 3).values)[0])
    assert found.floors["train"]["feature_fid"] == floor
    assert floor < found.floors["blurred"]["feature_fid"] < found.floors["mean"]["feature_fid"]
    assert floor < found.floors["noisy"]["feature_fid"]
    mean = (train.subset(200, 3).values.double().mean(0) / 16 * 16).round().byte().expand(200, -1, -1, -1)
    assert found.floors["mean"]["feature_fid"] == metrics.frechet_distance(a, classifier.features(mean)[0])
    assert reference.floors is found.floors, "computed once"


def test_classes_and_copies_are_counted(scored: tuple[Reference, Quality, Tensor]) -> None:
    reference, found, drawn = scored
    classes = reference.classifier.features(drawn)[1].bincount(minlength=10)
    assert list(found.classes.drawn.values()) == [int(n) for n in classes]
    assert sum(found.classes.real.values()) == 200
    ones = reference.score(drawn[:1].expand(200, -1, -1, -1))
    assert len(ones.classes.missing) == 9
    assert "classes 1 of 10, KL" in str(ones)
    assert ones.classes.kl > 1.5
    assert (found.copies.drawn, found.copies.among) == (200, 1500)
    assert found.copies.pixels == 0.5, "the blurred half is nothing that there was"
    assert 0.5 <= found.copies.features < 0.8
    part = Reference(*reversed(digits()), reference.classifier, 200, trained_on=digits()[0].subset(30, 9))
    assert part.score(drawn).copies.pixels < 0.2, "of a model that was trained on other images, they are no copies"


def test_the_record_is_words_and_json(scored: tuple[Reference, Quality, Tensor]) -> None:
    _, found, _ = scored
    said = str(found).splitlines()
    assert said[0].startswith("200 drawn images, seed 3, against as many of ")
    assert said[1].startswith("by cnn128-v1 (seed 0, 3 epochs of 1,500 images, ")
    assert said[2].split("  ")[-1] == "mean image"
    assert [line.split()[0] for line in said[3:9]] == [
        *("feature_fid", "feature_kid", "precision", "recall", "density", "coverage"),
    ]  # fmt: skip
    there = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert there["samples"] == 200
    assert there["feature_fid"] == found.feature_fid
    assert there["features"] == asdict(feature_classifier(*digits()).identity)
    assert there["floors"]["train"]["precision"] == found.floors["train"]["precision"]
    assert found.numbers() == {name: there[name] for name in OF_SETS}


def test_too_few_images_leave_numbers_out_with_the_reason() -> None:
    train, test = digits()
    found = score(train.values[:60], test, train)
    assert found.samples == 60
    assert found.feature_fid is None
    assert found.left_out == {"feature_fid": "since a covariance of 128 features needs more images than 60"}
    assert "feature_fid: none, since a covariance of 128 features" in str(found)
    assert found.feature_kid is not None
    assert "feature_fid" not in found.numbers()
    few = score(train.values[:3], test, train)
    assert set(few.left_out) == {"feature_fid", "feature_kid", "precision", "recall", "density", "coverage"}
    with pytest.raises(ValueError, match="samples: expected 2 to 297, the test images there are, got 298"):
        score(train.values, test, train, n=298)
    with pytest.raises(ValueError, match=r"drawn: expected images \(3, 1, 8, 8\), got a tensor \(3, 1, 4, 4\)"):
        score(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), test, train)
    with pytest.raises(ValueError, match=r"drawn: expected integers in \[0, 17\)"):
        score(torch.full((3, 1, 8, 8), 17), test, train)


class Teller(torch.nn.Module):
    """Draws images of one value, which a vector tells."""

    condition_kind = Vector(2)

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def sample(self, n: int, *, seed: int, first: int, condition: Tensor) -> Tensor:
        assert len(condition) == n
        return (seed + (condition[:, 0] * 10).long()).view(n, 1, 1, 1).expand(n, 1, 8, 8)


def test_models_draw_what_they_are_told_of_the_real_images() -> None:
    train, test = digits()
    torch.manual_seed(0)
    vae = VAE(in_channels=1, levels=17, image_size=8, classes=10, latent=2, hidden=(8,)).eval()
    like = test.subset(30, 1)
    drawn, seconds = quality.draw(vae, like, seed=4)
    assert torch.equal(drawn.long(), vae.sample(30, seed=4, labels=like.labels))
    assert seconds > 0
    pixels = PixelCNN(in_channels=1, levels=17, image_size=8, channels=4, layers=1).eval()
    assert torch.equal(quality.draw(pixels, like, seed=4)[0].long(), pixels.sample(30, seed=4))
    found = score(vae, test, train, n=30, seed=4)
    assert found.as_dict() == score(quality.draw(vae, test.subset(30, 4), 4)[0], test, train, n=30, seed=4).as_dict()
    vectors = torch.rand(30, 2)
    drawn = quality.draw(Teller(), replace(like, labels=None, classes=None, condition=vectors), seed=2)[0]
    assert torch.equal(drawn[:, 0, 0, 0].long(), 2 + (vectors[:, 0] * 10).long()), "a condition, as a label"
    with pytest.raises(ValueError, match=r"model: expected to draw integers \(30, 1, 8, 8\) in \[0, 2\), got a tensor"):
        quality.draw(Teller(), replace(like.quantise(2), labels=None, classes=None, condition=vectors), seed=2)
    with pytest.raises(ValueError, match="like: expected images with what VAE is told"):
        quality.draw(vae, unlabelled(like))
    with pytest.raises(TypeError, match="model: expected one that draws images, by sample, got Linear"):
        quality.draw(torch.nn.Linear(1, 1), like)


def test_few_images_are_many_epochs_and_large_ones_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = (part.subset(64) for part in digits())
    assert feature_classifier(train, test).identity.epochs == 30, "of one step each"
    monkeypatch.setattr(making, "PIXELS", 64 * 50)
    assert feature_classifier(train, test).identity.images == 50
    assert feature_classifier(unlabelled(train), unlabelled(test)).identity.images == 12, "in four rotations"
