"""InfoGAN: what codes are, that Q reads them of each image by itself, and that they become what images differ in."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from fastgen.data import Dataset
from fastgen.losses import categorical_information, gaussian_information
from fastgen.metrics import clustering_error
from fastgen.models import InfoGAN
from fastgen.training import Recipe, Trainer
from parity import assert_parity

SMALL = {"levels": 5, "latent": 12, "categories": (3, 2), "channels": 4, "hidden": 8, "code_hidden": 6, "image_size": 8}


def build(**changes: object) -> InfoGAN:
    torch.manual_seed(0)
    return InfoGAN(**(SMALL | changes))


def some(n: int = 6) -> Tensor:
    return torch.randint(5, (n, 1, 8, 8), generator=torch.Generator().manual_seed(n))


def test_information_of_categories_is_at_most_their_entropy() -> None:
    codes = torch.arange(10)
    sure = torch.where(torch.eye(10) > 0, 0.0, -1e4)
    assert categorical_information(sure, codes).mean().item() == pytest.approx(2.302585, abs=1e-6)
    assert categorical_information(torch.zeros(10, 10), codes).abs().max() < 1e-6
    assert categorical_information(torch.randn(1000, 10), torch.arange(1000) % 10).max() < 2.302586
    channel = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.0625, 0.4375, 0.5]]).double()  # p(x|c) of three x
    joint = channel / 3
    exact = (joint * (joint / joint.sum(0) * 3).log()).sum()  # I(c; x)
    c, x = torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij")
    bound = lambda logits: (joint.flatten() * categorical_information(logits[x.flatten()], c.flatten())).sum()  # noqa: E731
    assert_parity(bound((joint / joint.sum(0)).T.log()), exact, exact)
    assert bound((joint / joint.sum(0)).T.log() * 1.3) < exact - 0.001


def test_information_by_its_formula_and_its_gradient() -> None:
    logits, codes = torch.randn(7, 4, dtype=torch.float64, requires_grad=True), torch.arange(7) % 4
    (grad,) = torch.autograd.grad(categorical_information(logits, codes).sum(), logits)
    wanted = nn.functional.one_hot(codes, 4) - logits.detach().softmax(1)
    assert_parity(grad, wanted, wanted)
    mean, c, logvar = (torch.randn(7, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    told = gaussian_information(mean, c, logvar, entropy=math.log(2))
    wanted = (Normal(mean, (0.5 * logvar).exp()).log_prob(c) + math.log(2)).sum(1)
    assert_parity(told.detach(), wanted.detach(), wanted.detach())
    (grad,) = torch.autograd.grad(gaussian_information(mean, c).sum(), mean)
    assert_parity(grad, (c - mean).detach(), (c - mean).detach())
    assert gaussian_information(c, c, entropy=math.log(2)).mean().item() == pytest.approx(3 * (0.6931472 - 0.9189385))


def test_the_networks_of_the_paper() -> None:
    model = InfoGAN()
    wide = [(layer.in_features, layer.out_features) for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert wide == [(74, 1024), (1024, 6272), (6272, 1024), (1024, 128), (128, 12), (1024, 1)]
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    deep = [(layer.in_channels, layer.out_channels) for layer in model.modules() if isinstance(layer, kinds)]
    assert deep == [(128, 64), (64, 1), (1, 64), (64, 128)]
    discriminator, generator = model.objective().players()
    assert {id(each) for each in model.discriminator.q.parameters()} < {id(each) for each in discriminator.parameters}
    assert (discriminator.lr, generator.lr) == (None, 1e-3)


def test_z_is_noise_categories_and_continuous_codes() -> None:
    model = build()
    for z in (model.noise(3000), model.draw_codes(3000, 7)):
        noise, first, second, reals = z.split([5, 3, 2, 2], 1)
        assert -1 <= min(noise.min(), reals.min()) < -0.99 < 0.99 < max(noise.max(), reals.max()) < 1
        for hot, count in ((first, 3), (second, 2)):
            assert set(hot.unique().tolist()) == {0.0, 1.0}
            assert torch.equal(hot.sum(1), torch.ones(3000))
            assert (hot.mean(0) - 1 / count).abs().max() < 0.04
        categories, continuous = model.codes(z)
        assert torch.equal(categories, torch.stack([first.argmax(1), second.argmax(1)], 1))
        assert torch.equal(continuous, reals)
    assert torch.equal(model.draw_codes(3, 7, first=5), model.draw_codes(8, 7)[5:])
    still = model.draw_codes(3, 7, temperature=0.0)
    assert torch.equal(still[:, 5:10], model.draw_codes(3, 7)[:, 5:10]), "categories stay"
    assert not still[:, :5].any()
    whole = model.sample(5, seed=3)
    assert torch.equal(whole[3:], model.sample(2, seed=3, first=3))
    assert torch.equal(model.eval().decode(model.draw_codes(5, 3)).round().long(), whole)


def test_codes_are_set_and_the_rest_stays() -> None:
    model = build()
    z = model.draw_codes(4, 0)
    chosen = torch.tensor([[0, 1], [1, 0], [2, 1], [0, 0]])
    changed = model.with_codes(z, chosen, [0.5, -2.0])
    assert torch.equal(model.codes(changed)[0], chosen)
    assert torch.equal(model.codes(changed)[1], torch.tensor([[0.5, -2.0]] * 4))
    assert torch.equal(changed[:, :5], z[:, :5])
    assert torch.equal(model.with_codes(z), z)
    assert model.codes(model.with_codes(z, 1))[0].tolist() == [[1, 1]] * 4
    alone = build(categories=(4,), continuous=0)
    assert alone.codes(alone.with_codes(alone.noise(3), [3, 0, 1]))[0][:, 0].tolist() == [3, 0, 1]
    first, second, *reals = model.code_traversals(rows=2, steps=4)
    assert [each.name for each in (first, second, *reals)] == ["category 1", "category 2", "code 1", "code 2"]
    assert (first.values, second.values, reals[0].values) == (["0", "1", "2"], ["0", "1"], ["-2", "-0.67", "0.67", "2"])
    kept = model.draw_codes(2, 0)
    for index, one in enumerate((first, second)):
        for row in range(2):
            categories, continuous = model.codes(one.z[row])
            assert categories[:, index].tolist() == list(range(len(one.values)))
            assert torch.equal(categories[:, 1 - index], model.codes(kept)[0][row, 1 - index].expand(len(one.values)))
            assert torch.equal(one.z[row][:, :5], kept[row, :5].expand(len(one.values), -1))
            assert torch.equal(continuous, model.codes(kept)[1][row].expand(len(one.values), -1))
    assert torch.equal(model.codes(reals[1].z[1])[1][:, 1], torch.linspace(-2, 2, 4))
    assert torch.equal(reals[1].z[1][:, :11], kept[1, :11].expand(4, -1))


def test_what_is_read_of_an_image_depends_on_no_other() -> None:
    model = build(learned_variance=True)
    values = some()
    whole, alone = model.infer(values), [model.infer(values[i : i + 1]) for i in range(6)]
    deep = copy.deepcopy(model).double()
    assert [part.shape for part in whole.logits] == [(6, 3), (6, 2)]
    assert torch.equal(whole.categories, torch.cat([each.categories for each in alone]))
    for name in ("mean", "logvar"):
        exact = getattr(deep.infer(values), name)
        assert_parity(torch.cat([getattr(each, name) for each in alone]), getattr(whole, name), exact)
    assert whole.logvar.any()
    assert not build().infer(values).logvar.any()
    assert model.training


def test_both_minimise_the_game_less_the_information() -> None:
    model = build(category_weight=0.5, continuous_weight=0.25)
    for player in model.objective().players():
        found = player.losses(some(), None, 0.0)
        told = 0.5 * found["category_information"] + 0.25 * found["continuous_information"]
        assert next(iter(found)) == "objective"
        torch.testing.assert_close(found["objective"], found["loss"] - told)
        grads = torch.autograd.grad(found["objective"].sum(), player.parameters)
        assert all(grad.any() for grad in grads), "Q's weights among them"
    alone = model.objective().evaluate(model.eval(), some(1), None)
    assert all(number.isfinite() for number in alone.values()), "the last batch of held-out images"
    assert "category_information" not in build(categories=()).losses(some())
    assert "continuous_information" not in build(continuous=0).losses(some())


def test_batch_norms_of_q_know_drawn_images_alone() -> None:
    found = []
    for values in (some(6), some(6).flip(0) * 0):
        model = build()
        torch.manual_seed(1)
        model.losses(values)
        found.append({name: buffer for name, buffer in model.discriminator.named_buffers() if "num" not in name})
    first = build().discriminator
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert all(not torch.equal(found[0][name], dict(first.named_buffers())[name]) for name in found[0])


def test_codes_become_what_images_differ_in() -> None:
    torch.manual_seed(0)
    labels = torch.arange(960) % 3
    values = torch.zeros(960, 1, 8, 8, dtype=torch.uint8)
    for index, label in enumerate(labels.tolist()):
        values[index, 0, :, 1 + 2 * label : 3 + 2 * label] = 4  # a bar on the left, in the middle or on the right
    values = torch.where(torch.rand(values.shape) < 0.05, 2, values).to(torch.uint8)
    data = Dataset(values, labels, 5, 3, "bars")
    model = build(categories=(3,), channels=8, hidden=32, code_hidden=32, game={"generator_lr": 1e-2})
    recipe = Recipe(epochs=3, batch_size=24, optimizer="adam", lr=2e-3, betas=(0.5, 0.999), clip=0.0, ema=0.9)
    trained, records = Trainer(model, recipe), []
    trained.fit(data, data, records.append)
    last = records[-1]
    assert last["held_out_category_information"] > 0.8 * math.log(3), records
    average = trained.ema
    z = average.draw_codes(300, 5)
    with torch.no_grad():
        read = average.infer(average.decode(z).round().long()).categories
    assert (read == average.codes(z)[0]).double().mean() > 0.9, "of drawn images, each by itself"
    error = clustering_error(labels, average.infer(data.values.long()).categories[:, 0])
    assert last["held_out_clustering_error"] == error < 2 / 3
    (line,) = [line for line in trained.objective.remarks(last) if "information" in line]
    assert line.startswith("information of the categories ")
    assert "of 1.10 nats; clustering error" in line
    without = replace(data, labels=None, classes=None)
    assert "clustering_error" not in trained.objective.measure_set(trained.ema, without)


def test_what_does_not_fit_is_named() -> None:
    model = build()
    z = model.draw_codes(2, 0)
    for call, words in (
        (lambda: build(latent=6), "latent: expected one code or more, and the 7 dimensions of the codes .* got 6"),
        (lambda: build(categories=(), continuous=0), "latent: expected one code or more"),
        (lambda: build(categories=(3, 1)), "categories: expected an integer of at least 2, got 1"),
        (lambda: build(category_weight=-1.0), "category_weight: expected a finite number"),
        (lambda: build(game={"r1": 1.0}), "r1: expected 0 with batch norm in the discriminator"),
        (lambda: model.with_codes(z, 3), r"categories: expected integers in \[0, 3\)"),
        (lambda: model.with_codes(z, continuous=[1.0, 2.0, 3.0]), r"continuous: expected shape \(2, 2\), or"),
        (lambda: model.with_codes(z[:, :9]), r"z: expected shape \(N, 12\)"),
        (lambda: model.losses(some(1)), "batch_size: expected 2 images or more .* got 1"),
        (lambda: model.infer(some() + 5), r"values: expected integers in \[0, 5\)"),
        (lambda: model.sample(2, labels=1), "labels: expected None, since the model has no classes"),
        (lambda: categorical_information(torch.zeros(2, 3), torch.tensor([0, 3])), "codes: expected integers in"),
        (lambda: categorical_information(torch.zeros(2, 3), torch.tensor([0])), r"codes: expected shape \(2,\)"),
        (lambda: gaussian_information(torch.zeros(2, 3), torch.zeros(2, 2)), r"codes: expected shape \(2, 3\)"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            call()
