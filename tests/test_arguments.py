"""Arguments as people give them: they work, or one sentence says what is expected. Real conditions are refused."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoregressive import build
from fastgen import sampling
from fastgen.conditions import as_labels
from fastgen.data import Dataset
from fastgen.distributions import Bernoulli, Categorical
from fastgen.models import VAE, Autoencoder, Classifier
from fastgen.nn import MaskedConv2d
from fastgen.sampling import NaiveSampler

VALUES = torch.tensor([0, 1, 1, 0]).view(4, 1, 1, 1).repeat(1, 1, 4, 5)
REAL = torch.tensor([0.0, 0.9, -0.9, 1.9])


class Conditional(nn.Module):
    """Somebody's model with conditions; it names no number of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.embedding = MaskedConv2d(1, 4, 3, "A"), nn.Embedding(2, 4)
        self.output = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.output(torch.tanh(self.first(x) + self.embedding(labels)[:, :, None, None]))


GATED = build("gated-pixelcnn-classes", classes=2, image_size=(4, 5))
PLAIN = build("pixelcnn", image_size=(4, 5))
CODES = VAE(latent=2, hidden=(8,), classes=2, image_size=(4, 5))
SORTER = Classifier(levels=2, classes=2, image_size=(4, 5))
FOREIGN = sampling.compile(Conditional(), (1, 4, 5), Bernoulli(), "[-1, 1]")

TAKES_LABELS: dict[str, Callable[[Any], object]] = {
    "sample": lambda y: GATED.sample(labels=y, seed=0),
    "log_prob": lambda y: GATED.log_prob(VALUES, y),
    "losses": lambda y: GATED.losses(VALUES, y)["nats"],
    "compiled": lambda y: sampling.compile(GATED, (1, 4, 5)).sample(labels=y, seed=0),
    "compiled, another's": lambda y: FOREIGN.sample(labels=y, seed=0),
    "forced": lambda y: FOREIGN.forced(VALUES, y),
    "naive": lambda y: NaiveSampler(FOREIGN.model, (1, 4, 5), Bernoulli(), "[-1, 1]").sample(labels=y, seed=0),
    "naive forward": lambda y: NaiveSampler(FOREIGN.model, (1, 4, 5), Bernoulli(), "[-1, 1]").forward(VALUES, y),
    "VAE sample": lambda y: CODES.sample(4, labels=y, seed=0),
    "VAE encode": lambda y: CODES.encode(VALUES, y),
    "VAE decode": lambda y: CODES.decode(torch.zeros(4, 2), y),
    "classifier": lambda y: SORTER.losses(VALUES, y)["cross_entropy"],
}


@pytest.mark.parametrize("takes", TAKES_LABELS)
def test_labels(takes: str) -> None:
    call = TAKES_LABELS[takes]
    for wrong in (REAL, REAL.double(), REAL > 0, [0.5, 1, 0, 1], REAL.numpy(), 0.5, "cat", [[0], [1, 0]]):
        with pytest.raises(TypeError, match=r"labels: expected (an integer tensor|integers, one for each image), got"):
            call(wrong)
    for wrong in (torch.zeros(4, 1, dtype=torch.int64), [[0], [1], [0], [1]]):
        with pytest.raises(ValueError, match=r"labels: expected shape \(\w+,\), one for each image, got \(4, 1\)"):
            call(wrong)
    with pytest.raises(ValueError, match=r"labels: expected .*got (none|\(0,\)|\w+ from \w+, 0 from labels)"):
        call(torch.zeros(0, dtype=torch.int64))
    labels = torch.tensor([0, 1, 1, 0])
    expected = call(labels)
    for given in (labels.tolist(), tuple(labels.tolist()), labels.numpy(), labels.to(torch.uint16), labels.int()):
        assert torch.equal(call(given), expected)
    assert torch.equal(call(labels.numpy().astype(np.uint8)), expected)


def test_one_label_is_for_all_images() -> None:
    ones = torch.ones(4, dtype=torch.int64)
    for one in (1, np.int64(1), torch.tensor(1)):
        assert torch.equal(GATED.sample(4, labels=one, seed=0), GATED.sample(4, labels=ones, seed=0))
        assert torch.equal(GATED.log_prob(VALUES, one), GATED.log_prob(VALUES, ones))
        assert torch.equal(CODES.sample(4, labels=one, seed=0), CODES.sample(4, labels=ones, seed=0))
        assert torch.equal(FOREIGN.forced(VALUES, one), FOREIGN.forced(VALUES, ones))
    assert GATED.sample(labels=1, seed=0).shape == (1, 1, 4, 5)
    with pytest.raises(ValueError, match=r"labels: expected integers in \[0, 2\), got values from 2 to 2"):
        GATED.sample(4, labels=2)
    with pytest.raises(ValueError, match="labels: expected integers"):
        as_labels(torch.tensor([2**63 + 1], dtype=torch.uint64), 1, 2)
    with pytest.raises(ValueError, match="labels: expected None, since the model has no classes, got a tensor"):
        PLAIN.sample(labels=1)


def test_numbers_may_be_numpys() -> None:
    two, seed = np.int32(2), np.int64(3)
    assert torch.equal(PLAIN.sample(two, seed=seed, size=np.array([4, 5]).tolist()), PLAIN.sample(2, seed=3))
    assert torch.equal(PLAIN.sample(2, seed=3, size=(np.int64(4), np.uint8(5))), PLAIN.sample(2, seed=3))
    assert torch.equal(PLAIN.sample(2, seed=np.uint64(2**64 - 1)), PLAIN.sample(2, seed=-1))
    assert torch.equal(PLAIN.sample(2, seed=3, temperature=np.float32(0.5)), PLAIN.sample(2, seed=3, temperature=0.5))
    shape = (np.int64(1), np.int64(4), np.int64(5))
    assert torch.equal(sampling.compile(PLAIN, shape).sample(two, seed=seed), PLAIN.sample(2, seed=3))
    given = {"seed": seed, "labels": 1, "first": two, "temperature": np.float64(0.5)}
    assert torch.equal(CODES.sample(two, **given), CODES.sample(2, seed=3, labels=1, first=2, temperature=0.5))
    assert Categorical(np.int64(3)).levels == 3
    assert Autoencoder(latent=np.int64(2), image_size=np.int64(8)).sides == (8, 8)


def test_values_of_any_integer_dtype() -> None:
    for dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int32):
        values = VALUES.to(dtype)
        assert torch.equal(PLAIN.log_prob(values), PLAIN.log_prob(VALUES))
        assert torch.equal(SORTER.predict(values), SORTER.predict(VALUES))
        assert torch.equal(CODES.encode(values, 1), CODES.encode(VALUES, 1))
        known = {"seed": 0, "known_mask": torch.eye(4, 5).bool()}
        assert torch.equal(PLAIN.sample(known=values, **known), PLAIN.sample(known=VALUES, **known))
        assert torch.equal(FOREIGN.forced(values, 1), FOREIGN.forced(VALUES, 1))


@pytest.mark.parametrize("make", [sampling.compile, NaiveSampler])
def test_a_class_is_no_distribution(make: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"distribution: expected an instance, got the class Bernoulli itself: call it"):
        make(Conditional(), (1, 4, 5), Bernoulli)
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got the class Conditional itself"):
        make(Conditional, (1, 4, 5), Bernoulli(), "[-1, 1]")


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda held: pickle.loads(pickle.dumps(held))])
def test_samplers_and_models_are_copied(copied: Callable[[Any], Any]) -> None:
    GATED.sample(1, labels=0)
    for sampler in (sampling.compile(GATED, (1, 4, 5)), FOREIGN, NaiveSampler(GATED, (1, 4, 5)), GATED):
        twin = copied(sampler)
        assert torch.equal(twin.sample(2, labels=1, seed=0), sampler.sample(2, labels=1, seed=0))
    plan = copied(FOREIGN).plan
    assert len(plan.instructions) == len(FOREIGN.plan.instructions)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: PLAIN.sample(2.0), ValueError, "n: expected a positive integer, got 2.0"),
        (lambda: PLAIN.sample(True), ValueError, "n: expected a positive integer, got True"),
        (lambda: PLAIN.sample(seed=0.5), TypeError, "seed: expected an integer, got 0.5"),
        (lambda: PLAIN.sample(size="4"), ValueError, "size: expected .* integer, got '4'"),
        (lambda: PLAIN.sample(uniforms=torch.rand(0, 1, 4, 5)), ValueError, "uniforms: expected at least one image"),
        (lambda: PLAIN.sample(uniforms=[0.5]), TypeError, r"uniforms: expected a tensor, got \[0.5\]"),
        (lambda: PLAIN.sample(known=1, known_mask=True), TypeError, "known: expected a tensor, got 1"),
        (lambda: PLAIN.sample(temperature="hot"), ValueError, "temperature: expected a finite number .* got 'hot'"),
        (lambda: PLAIN.log_prob(VALUES.numpy()), TypeError, r"values: expected a tensor, got an array \(4, 1, 4, 5\)"),
        (lambda: FOREIGN.forced(VALUES[:0], 1), ValueError, "values: expected at least one image, got none"),
        (lambda: CODES.sample(2, labels=1, first=-1), ValueError, "first: expected an integer of at least 0, got -1"),
        (lambda: CODES.decode([[0.0]], 1), TypeError, r"z: expected a tensor of shape \(N, 2\), got \[\[0.0\]\]"),
        (lambda: SORTER.predict(None), TypeError, "values: expected a tensor, got None"),
        (lambda: sampling.compile(PLAIN, 28), ValueError, r"shape: expected three positive integers .* got 28"),
        (
            lambda: Dataset(VALUES.byte(), REAL, 2, 2, "mine"),
            (TypeError, ValueError),
            r"labels: expected int64 \(N,\), got torch.float32",
        ),
    ],
)
def test_errors_name_argument_expected_and_got(call: Callable[[], object], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# ---- numbers that are not finite


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "categorical", "logistic"])
def test_a_vae_draws_nothing_from_weights_or_codes_that_are_not_finite(likelihood: str) -> None:
    model = VAE(levels=4, latent=2, hidden=(8,), likelihood=likelihood, image_size=4)
    with pytest.raises(ValueError, match=r"temperature: expected one that leaves codes finite, not 1e\+99, got inf"):
        model.sample(2, seed=0, temperature=1e99)
    drawn = model.sample(64, seed=0, temperature=1e9)
    assert ((drawn >= 0) & (drawn < 4)).all()
    nn.init.constant_(model.decoder.linear[-1].bias, float("nan"))
    for means in (False, True):
        with pytest.raises(ValueError, match="model: expected finite parameters, got inf or nan"):
            model.sample(2, seed=0, means=means)


def test_a_classifier_that_diverged_predicts_nothing() -> None:
    model = Classifier(levels=2, classes=2, image_size=(4, 5))
    nn.init.constant_(model.head.bias, float("nan"))
    with pytest.raises(ValueError, match="model: expected finite logits, got inf or nan"):
        model.predict(VALUES)
