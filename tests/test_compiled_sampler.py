"""The compiled sampler as people use it: draws, streams, weights that change, explanations."""

import copy

import pytest
import torch
from torch import Tensor, nn

from architectures import randomise
from autoregressive import build
from fastgen import sampling
from fastgen.distributions import Bernoulli, Categorical
from fastgen.nn import MaskedConv2d
from fastgen.sampling import NaiveSampler, native_executor
from fastgen.sampling.compiled_sampler import build_plan
from fastgen.sampling.explain import cost
from foreign import CroppingGatedPixelCNN, classic_pixelcnn
from parity import LOGITS_AGREE
from samplers import assert_same_as_naive

# ---- drawing


class Thirds:
    """A distribution of one's own: draws in torch."""

    levels = 3

    def param_channels(self, channels: int) -> int:
        return 3 * channels

    def to_input(self, values: Tensor) -> Tensor:
        return values.float() - 1

    def draw(self, params: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        order = params.argsort(dim=1)
        return order.gather(1, (uniforms * 3).long())


def test_a_distribution_of_ones_own():
    assert_same_as_naive(randomise(classic_pixelcnn()), (1, 6, 7), Thirds())


def test_a_model_behind_torch_compile():
    model = randomise(CroppingGatedPixelCNN()).eval()
    sampler = sampling.compile(torch.compile(model), (1, 6, 7), Bernoulli(), "[-1, 1]")  # type: ignore[arg-type]
    assert torch.equal(
        sampler.sample(3, seed=1), NaiveSampler(model, (1, 6, 7), Bernoulli(), "[-1, 1]").sample(3, seed=1)
    )


def test_inputs_of_ones_own():
    model = randomise(classic_pixelcnn()).eval()
    given = (model, (1, 5, 6), Categorical(3), lambda values: values.float() ** 2 - 0.5)
    assert torch.equal(sampling.compile(*given).sample(2, seed=0), NaiveSampler(*given).sample(2, seed=0))


@pytest.mark.parametrize("executor", ["native", "reference"])
def test_rows_are_streamed(executor):
    sampler = sampling.compile(build("pixelcnn-levels"), (1, 5, 4), executor=executor)
    whole = sampler.sample(2, seed=3)
    seen = [values.clone() for values in sampler.stream(2, seed=3)]
    assert len(seen) == 5
    for r, values in enumerate(seen):
        assert torch.equal(values[:, :, : r + 1], whole[:, :, : r + 1])


@pytest.mark.parametrize(("moment", "calls"), [(float("inf"), 3), (0.0, 5)])
def test_rows_that_nobody_asks_for_share_calls_that_take_no_time(moment, calls, monkeypatch):
    """1, 2 and 4 of 5 rows; each of its own where a row takes longer, since Ctrl-C waits for a call."""
    monkeypatch.setattr(native_executor, "MOMENT", moment)
    done, reached = [], []
    advance = native_executor.Walk.advance
    monkeypatch.setattr(native_executor.Walk, "advance", lambda walk, n: (done.append(n), advance(walk, n))[1])
    for wavefront in (False, True):
        sampler = sampling.compile(randomise(CroppingGatedPixelCNN()).eval(), (1, 5, 30), Bernoulli(), "[-1, 1]",
                                   wavefront=wavefront)  # fmt: skip
        assert (sampler.plan.slope is not None) == wavefront
        done.clear()
        whole = sampler.sample(2, seed=3)
        assert len(done) == calls
        assert torch.equal(sampler.sample(2, seed=3, progress=lambda *rows: reached.append(rows)), whole)
        assert torch.equal(list(sampler.stream(2, seed=3))[-1], whole)
        assert len(done) == calls + 10
    assert reached == [(r, 5) for r in range(1, 6)] * 2


def test_an_image_depends_on_seed_and_index_alone():
    sampler = sampling.compile(randomise(CroppingGatedPixelCNN()).eval(), (1, 6, 7), Bernoulli(), "[-1, 1]")
    images = sampler.sample(70, seed=3)
    for n in (1, 2, 33):
        assert torch.equal(sampler.sample(n, seed=3), images[:n])


# ---- labels


class Labelled(nn.Module):
    """Classes as planes beside the image, as planes of their own that are padded and cropped, and as a FiLM layer."""

    classes = 4

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.plane = nn.Embedding(4, 6 * 7)
        self.first = MaskedConv2d(1, 6, 3, "A")
        self.beside = nn.Conv2d(7, 6, 1)
        self.around = MaskedConv2d(6, 6, 3)
        self.film = nn.Sequential(nn.Embedding(4, 5), nn.ReLU(), nn.Linear(5, 12))
        self.output = nn.Conv2d(6, 1, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        h = self.first(x)
        plane = self.plane(labels).view(-1, 1, 6, 7)
        if self.style == "beside":
            h = self.beside(torch.cat((h, plane), dim=1))
        elif self.style == "shifted":
            moved = nn.ZeroPad2d((1, 0, 1, 0))(torch.cat((h, plane), dim=1)[:, :, :-1, :-1])
            h = torch.relu(self.around(nn.ZeroPad2d((1, 0, 1, 0))(self.beside(moved)))[:, :, :-1, :-1])
        elif self.style == "film":
            scale, shift = self.film(labels)[:, :, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        else:
            h = torch.where(labels.view(-1, 1, 1, 1) > 1, 2.0, 1.0) * h + plane
        return self.output(torch.tanh(h))


@pytest.mark.parametrize("style", ["beside", "shifted", "film", "plane"])
def test_labels_in_many_ways(style):
    assert_same_as_naive(randomise(Labelled(style)), (1, 6, 7), Bernoulli(), n=5)


def test_a_model_may_do_without_labels():
    class Optional(Labelled):
        classes = None

        def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
            return self.output(self.first(x)) if labels is None else super().forward(x, labels)

    model = randomise(Optional("film")).eval()
    sampler, naive = (make(model, (1, 6, 7), Bernoulli(), "[-1, 1]") for make in (sampling.compile, NaiveSampler))
    labels = torch.tensor([3, 0, 1, 1])
    for given in ({}, {"labels": labels}):
        assert torch.equal(sampler.sample(4, seed=1, **given), naive.sample(4, seed=1, **given))


def test_labels_are_checked():
    sampler = sampling.compile(Labelled("film"), (1, 6, 7), Bernoulli(), "[-1, 1]")
    with pytest.raises(ValueError, match=r"labels: expected integers in \[0, 4\), got values from 0 to 4"):
        sampler.sample(labels=torch.tensor([0, 4]))
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'labels'"):
        sampler.sample(2)


# ---- weights that change


def test_changed_weights_are_noticed_however_they_are_changed():
    model = randomise(CroppingGatedPixelCNN()).eval()
    sampler = sampling.compile(model, (1, 6, 7), Bernoulli(), "[-1, 1]")
    weight = model._head[3].weight

    def train() -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        model(torch.randn(1, 1, 6, 7)).mean().backward()
        optimizer.step()

    def swap() -> None:
        model._head[3].weight = nn.Parameter(torch.randn_like(weight))

    changes = (
        train,
        swap,
        lambda: model.load_state_dict(randomise(CroppingGatedPixelCNN()).state_dict()),
        lambda: model._head[1].weight.data.neg_(),
        lambda: model._head[1].bias.data.copy_(torch.randn(5)),
    )
    for change in changes:
        before = sampler.sample(8, seed=1)
        change()
        after = sampler.sample(8, seed=1)
        assert torch.equal(after, NaiveSampler(model, (1, 6, 7), Bernoulli(), "[-1, 1]").sample(8, seed=1))
        assert not torch.equal(after, before)


def test_unchanged_weights_are_not_compiled_again():
    model = randomise(CroppingGatedPixelCNN()).eval()
    sampler = sampling.compile(model, (1, 6, 7), Bernoulli(), "[-1, 1]")
    plan = sampler.plan
    sampler.sample(seed=1)
    assert sampler.plan is plan
    sampler.refresh()
    assert sampler.plan is not plan


def test_models_keep_their_samplers_but_copies_do_not():
    model = build("pixelcnn", image_size=5)
    model.sample(seed=0)
    assert model._samplers.keys() == {(5, 5)}
    assert copy.deepcopy(model)._samplers == {}
    assert torch.equal(copy.deepcopy(model).sample(seed=0), model.sample(seed=0))


# ---- explain, verify


def test_explain_lists_every_instruction():
    sampler = sampling.compile(build("gated-pixelcnn"), (1, 6, 5))
    text = sampling.explain(sampler)
    assert text == sampling.explain(build("gated-pixelcnn"), (1, 6, 5))
    lines = text.splitlines()
    assert sum(line.lstrip()[:1].isdigit() for line in lines) == len(sampler.plan.instructions)
    for words in (
        "stack.0.vertical",
        "b0[-1, -3…+3]",
        "gate",
        "steps             30 pixel by pixel",
        "30× fewer FLOPs",
    ):
        assert words in text
    with pytest.raises(TypeError, match=r"shape: expected \(C, H, W\), got None"):
        sampling.explain(build("pixelcnn"))


def test_the_plans_flops_are_one_forwards():
    """Of its live taps: what a model computes once for an image."""
    model = build("gated-pixelcnn", channels=8)
    sampler = sampling.compile(model, (1, 6, 5))
    weights = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 4)
    dead = sum(
        m.weight.numel() - m.live_weight().ne(0).sum().item() for m in model.modules() if isinstance(m, MaskedConv2d)
    )
    unread = sum(p.numel() for p in model.stack[-1].out.parameters() if p.dim() == 0)
    flops = sum(cost(sampler.plan, i).flops for i in sampler.plan.instructions)
    assert flops == 2 * (weights - dead - unread) * 30


def test_verify_reports_what_differs():
    model = build("gated-pixelcnn-classes")
    report = sampling.verify(sampling.compile(model, (1, 5, 4)), n=3)
    assert (report.images, report.values, report.differing, report.same) == (3, 60, 0, True)
    assert report.logit_error < LOGITS_AGREE
    assert "3 images drawn twice: 0 of 60 values differ" in str(report)

    class Wrong(NaiveSampler):
        def _draw(self, *args: object) -> object:
            return (1 - values for values in super()._draw(*args))

        def _see(self, *args: object) -> Tensor:
            return super()._see(*args) + 1

    report = sampling.verify(Wrong(model, (1, 5, 4)), n=3)
    assert report.differing == 60
    assert report.logit_error == pytest.approx(1, abs=LOGITS_AGREE)


def test_encoded_plans_say_where_everything_is():
    plan = build_plan(build("gated-pixelcnn"), (1, 6, 5), 1).plan
    codes, constants = plan.encode()
    assert codes[:7].tolist() == [1, 6, 5, -1, 0, 0, 0]
    weights = [i.weight for i in plan.instructions if i.weight is not None]
    assert len(constants) >= sum(weight.numel() for weight in weights)
    first = weights[0].flatten()
    assert any(torch.equal(constants[at : at + len(first)], first) for at in range(0, len(constants), 16))
