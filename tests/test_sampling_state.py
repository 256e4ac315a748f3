"""A compiled sampler leaves its model alone: among threads, in every mode of torch, whatever its forward keeps."""

import copy
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from architectures import randomise
from autoregressive import build
from fastgen import sampling
from fastgen.distributions import Bernoulli, Categorical
from fastgen.sampling import NaiveSampler, UnsupportedModelError
from foreign import classic_pixelcnn
from held import SHAPE, Held, compiled, drawn

# ---- a model that others use


class Meeting(Held):
    """Its forward meets others, and notes what a bystander sees of the shared model."""

    def __init__(self) -> None:
        super().__init__()
        self.meet: Callable[[], object] = lambda: None

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        self.meet()
        return self.output(F.dropout(self.third(self.activation(h)), training=self.training))


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """The results of ``calls``, all of which begin at once; the first error is raised."""
    start, results = threading.Barrier(len(calls), timeout=60), [None] * len(calls)

    def run(index: int) -> None:
        try:
            start.wait()
            results[index] = calls[index]()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


@pytest.mark.parametrize("draw", [compiled, lambda model: NaiveSampler(model, SHAPE, Bernoulli(), "[-1, 1]")])
def test_threads_that_run_one_model_at_once(draw: Callable[[nn.Module], Any]) -> None:
    """Each is inside of forward together with the other; the model in training mode stays so, without hooks."""
    model = randomise(Meeting()).train()
    expected = drawn(copy.deepcopy(model))
    together, seen, bystander = threading.Barrier(2, timeout=60), [], weakref.ref(model)

    def meet() -> None:
        together.wait()
        modules = bystander().modules()
        seen.append([(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules])
        together.wait()

    model.meet = meet
    one, two = in_threads(*[lambda: draw(model).sample(8, seed=0)] * 2)
    assert torch.equal(one, expected)
    assert torch.equal(two, expected)
    assert {each for modules in seen for each in modules} == {(True, 0, 0)}
    assert all(module.training for module in model.modules())


def test_threads_that_draw_the_first_images_wait_for_one_compilation() -> None:
    model = build("pixelcnn", image_size=5).train()
    entered, forwards = threading.Event(), []

    def slow(module: nn.Module, inputs: object) -> None:
        forwards.append(module)
        entered.wait(timeout=0.2)  # time for every other thread to begin as well

    model.register_forward_pre_hook(slow)
    images = in_threads(*[lambda: model.sample(4, seed=0)] * 8)
    assert len(forwards) == 1
    assert all(torch.equal(each, images[0]) for each in images)
    assert torch.equal(images[0], NaiveSampler(model, (1, 5, 5)).sample(4, seed=0))
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("times", [1, 3])
def test_weights_that_another_thread_changes_while_they_are_compiled(times: int) -> None:
    """Once, and it is compiled again; as often as it is compiled, and the next call does."""
    model = randomise(Meeting()).eval()
    left = [times]

    def train() -> None:
        with torch.no_grad():
            model.first.weight.neg_()
            model.output.weight.neg_()

    def meet() -> None:
        if left[0]:
            left[0] -= 1
            in_threads(train)

    model.meet = meet
    sampler = compiled(model)
    assert left == [0]
    assert torch.equal(sampler.sample(8, seed=0), drawn(model))


# ---- modes of torch


@pytest.mark.parametrize("within", [torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_inference_mode_and_autocast_change_nothing(within: Callable[[], Any]) -> None:
    model = build("gated-pixelcnn-classes", image_size=5)
    labels, expected = torch.arange(3), []
    for seed in range(2):
        expected.append(NaiveSampler(model, (1, 5, 5)).sample(3, seed=seed, labels=labels))
        model.stack[0].vertical.weight.data.neg_()
    model.stack[0].vertical.weight.data.neg_().neg_()
    sampler = sampling.compile(model, (1, 5, 5))
    for seed in range(2):
        with within():
            drawn = [
                model.sample(3, seed=seed, labels=labels),
                sampler.sample(3, seed=seed, labels=labels),
                NaiveSampler(model, (1, 5, 5)).sample(3, seed=seed, labels=labels),
                sampling.compile(model, (1, 5, 5), executor="reference").sample(3, seed=seed, labels=labels),
            ]
            assert sampling.verify(sampler, n=2).same
            model.stack[0].vertical.weight.data.neg_()
        assert all(torch.equal(each, expected[seed]) for each in drawn)


@pytest.mark.parametrize("make", [Held, lambda: classic_pixelcnn(layers=2)])
def test_a_model_built_in_inference_mode(make: Callable[[], nn.Module]) -> None:
    with torch.inference_mode():
        model = randomise(make()).eval()
        law = Categorical(3) if isinstance(model, nn.Sequential) else Bernoulli()
        inside = sampling.compile(model, SHAPE, law, "[-1, 1]").sample(4, seed=0)
    outside = sampling.compile(model, SHAPE, law, "[-1, 1]").sample(4, seed=0)
    expected = NaiveSampler(model, SHAPE, law, "[-1, 1]").sample(4, seed=0)
    assert torch.equal(inside, expected)
    assert torch.equal(outside, expected)


def test_log_prob_is_compiled_whole() -> None:
    model = build("gated-pixelcnn-classes")
    values, labels = torch.randint(2, (3, 1, 4, 5)), torch.arange(3)
    whole = torch.compile(model.log_prob, fullgraph=True, backend="eager")
    assert torch.equal(whole(values, labels), model.log_prob(values, labels))
    losses = torch.compile(model.losses, fullgraph=True, backend="eager")
    assert torch.equal(losses(values, labels)["nats"], model.losses(values, labels)["nats"])


# ---- models that keep something of a batch


class Padding(nn.Module):
    """Keeps the padding of its first batch: as an attribute, a buffer, or by size."""

    def __init__(self, kept: str) -> None:
        super().__init__()
        self.conv, self.output, self.kept = nn.Conv2d(1, 4, (2, 3), padding=(0, 1)), nn.Conv2d(4, 1, 1), kept
        self.padding: Any = {} if kept == "by size" else None
        if kept == "buffer":
            del self.padding
            self.register_buffer("padding", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.kept == "by size":
            rows = self.padding.setdefault(len(x), x.new_zeros(len(x), 1, 2, x.shape[3]))
        else:
            if self.padding is None:
                self.padding = x.new_zeros(len(x), 1, 2, x.shape[3])
            rows = self.padding
        return self.output(torch.relu(self.conv(torch.cat((rows, x[:, :, :-1]), dim=2))))


@pytest.mark.parametrize("kept", ["attribute", "buffer", "by size"])
def test_compiling_leaves_nothing_of_its_batch(kept: str) -> None:
    model = randomise(Padding(kept)).eval()
    sampler = compiled(model)
    assert not model.padding
    x = torch.randn(5, *SHAPE)
    assert torch.equal(model(x), copy.deepcopy(model)(x))
    expected = drawn(randomise_like(model))
    if kept == "by size":
        assert torch.equal(compiled(model).sample(8, seed=0), expected)
        return
    assert torch.equal(sampler.sample(5, seed=0), expected[:5])  # it was compiled before there was a padding
    with pytest.raises(UnsupportedModelError, match=r"padding: holds a tensor \(5, 1, 2, 6\), as a forward of 5 imag"):
        compiled(model)


def randomise_like(model: nn.Module) -> nn.Module:
    fresh = Padding(model.kept)
    fresh.load_state_dict({name: held for name, held in model.state_dict().items() if name != "padding"})
    return fresh.eval()


# ---- memory


def test_a_trace_keeps_no_activations_and_a_plan_its_weights_once() -> None:
    model, early, gone = randomise(Held()).eval(), [], []
    model.first.register_forward_hook(
        lambda module, inputs, output: early.append(StorageWeakRef(output.untyped_storage()))
    )
    model.third.register_forward_hook(lambda module, inputs, output: gone.append(early[-1].expired()))
    sampler = compiled(model)
    assert gone == [True]
    (program,) = sampler._programs.values()
    weights = {i.weight.untyped_storage().data_ptr() for i in program.plan.instructions if i.weight is not None}
    assert weights == {program.native._packed.constants.untyped_storage().data_ptr()}
    assert program.nodes == []
