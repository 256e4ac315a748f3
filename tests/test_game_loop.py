"""A trained game is the loop that people write, weight for weight, on the same batches and the same noise."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen._draws import batch_of, uniforms_of_batch
from fastgen.models import DCGAN
from fastgen.training import Recipe, Trainer
from test_adversarial import blobs

for package in ("safetensors", "tqdm"):
    pytest.importorskip(package, reason=f"{package} comes with fastgen[train]")

BATCH = 8
GAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "non-saturating": ("batch", {}),
    "WGAN-GP": ("none", {"loss": "wasserstein", "gradient_penalty": 10.0, "discriminator_steps": 3}),
    "R1, hinge, k 2": ("layer", {"loss": "hinge", "r1": 2.0, "discriminator_steps": 2}),
}


def discriminated(D: nn.Module, real: Tensor, fake: Tensor, game: dict[str, Any], mix: Tensor | None) -> Tensor:
    on_real, on_fake = D(real).flatten(), D(fake).flatten()
    if game.get("loss") == "wasserstein":
        between = (mix * real + (1 - mix) * fake).requires_grad_()
        (slope,) = torch.autograd.grad(D(between).sum(), between, create_graph=True)
        return on_fake.mean() - on_real.mean() + 10 * ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
    if game.get("loss") == "hinge":
        at = real.clone().requires_grad_()
        (slope,) = torch.autograd.grad(D(at).sum(), at, create_graph=True)
        return F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean() + slope.flatten(1).square().sum(1).mean()
    ones, zeros = torch.ones_like(on_real), torch.zeros_like(on_real)
    bce = F.binary_cross_entropy
    return bce(torch.sigmoid(on_real), ones) + bce(torch.sigmoid(on_fake), zeros)


def generated(scores: Tensor, game: dict[str, Any]) -> Tensor:
    return -scores.mean() if "loss" in game else -torch.log(torch.sigmoid(scores)).mean()


@pytest.mark.parametrize("name", GAMES)
def test_weights_are_those_of_a_loop_by_hand(name: str) -> None:
    """In float64, after two epochs whose end is within a round; networks of torch's own layers. Our slopes have a tiny
    number under their root.
    """
    normalization, game = GAMES[name]
    torch.manual_seed(0)
    model = DCGAN(1, 5, latent=4, channels=3, image_size=16, normalization=normalization, game=game).double()
    G, D = (nn.Sequential(*copy.deepcopy(list(each.main))) for each in (model.generator, model.discriminator))
    data, k = blobs(43), game.get("discriminator_steps", 1)
    recipe = Recipe(
        epochs=2, batch_size=BATCH, lr=1e-3, betas=(0.3, 0.9), optimizer="adam", clip=0, ema=0, drop_last=True, seed=5
    )
    Trainer(model, recipe).fit(data, blobs(9))
    g, d = (torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.3, 0.9)) for network in (G, D))
    step = 0
    for epoch in range(2):
        order = np.random.default_rng([5, epoch]).permutation(43)
        for first in range(0, 40, BATCH):
            real = data.values[order[first : first + BATCH]].double() / 2 - 1
            with batch_of(5, step, "discriminator", torch.arange(BATCH)), torch.no_grad():
                fake = G(model.noise(BATCH)[:, :, None, None])
                mix = uniforms_of_batch(BATCH, (), real).view(-1, 1, 1, 1)
            d.zero_grad()
            discriminated(D, real, fake, game, mix).backward()
            d.step()
            step += 1
            if step % k == 0:
                with batch_of(5, step - 1, "generator", torch.arange(BATCH)):
                    z = model.noise(BATCH)[:, :, None, None]
                g.zero_grad()
                generated(D(G(z)).flatten(), game).backward()
                g.step()
    for ours, plain in ((model.generator.main, G), (model.discriminator.main, D)):
        for key, weight in plain.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[key], weight, rtol=1e-5, atol=1e-7)
