"""Variational autoencoder: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, arXiv:1312.6114.

    z ~ N(0, I)         p(x|z) = likelihood(decoder(z))         q(z|x) = N(μ(x), diag σ²(x)), μ and log σ² = encoder(x)

    log p(x) ≥ L = E_q[log p(x|z)] − KL(q(z|x) ‖ p(z))                                                             eq. 3

The expectation is of one sample, z = μ + σ·ε; the KL is in closed form; both come from ``rsample_kl`` (section 2.4 and
appendix B). With k importance samples (Burda, Grosse and Salakhutdinov 2016, arXiv:1509.00519, eq. 8) the bound
tightens towards log p(x) as k grows:

    L_k = E[log 1/k Σ_i w_i],  w_i = p(x|z_i)·p(z_i) / q(z_i|x),  z_i ~ q(z|x)

A class y conditions encoder and decoder: q(z|x, y) and p(x|z, y), with the same p(z) (Sohn, Lee and Yan 2015).

While training, KL may be weighted by β (Higgins et al. 2017), its weight may rise from 0 ("warm-up", Sønderby et al.
2016, arXiv:1602.02282), and λ nats of it may be free in each dimension, Σ_j max(λ, KL_j) with KL_j averaged over the
batch (Kingma et al. 2016, arXiv:1606.04934, eq. 15). In eval mode the loss is the bound itself.
"""

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .._checks import check_finite, check_integer, check_number
from .._philox import seed_or_any, uniforms_like
from .._shadow import evaluated
from ..conditions import Labels
from ..measures import Measure, law
from ..nn import GaussianRSample
from ..ops.rsample_kl import LOGVAR_MAX, LOGVAR_MIN
from .likelihoods import likelihood as likelihood_named
from .likelihoods import normals_from
from .model import LatentModel, check_positive
from .networks import Activation, Decoder, Encoder, as_widths
from .posterior import Posterior

ROWS = 1 << 23
"""Parameters of pixels to hold at once when many samples are drawn for an image."""


class VAE(LatentModel):
    """Variational autoencoder, Kingma and Welling 2014, arXiv:1312.6114; fully connected, or convolutional.

    The sizes are by default those of the one-layer model of arXiv:1509.00519: 784-200-200-50, tanh.

    Args:
        in_channels: colours of an image.
        levels: values of a pixel.
        latent: dimensions of z.
        hidden: widths of the encoder's fully connected layers; the decoder has them reversed.
        channels: of the encoder's convolutions, each of which halves the image; none makes it fully connected.
        activation: between layers.
        likelihood: of a value given z; bernoulli reads grey values as probabilities. See
            ``fastgen.models.likelihoods``.
        classes: number of classes, or None for an unconditional model.
        image_size: one size or (H, W).
        beta: weight of the KL while training.
        warmup: part of the training, in [0, 1], over which that weight rises from 0.
        free_bits: nats λ in each latent dimension, averaged over the batch, below which the KL is not reduced further.
        importance_samples: k of the bound: 1 is the ELBO, more that of the importance-weighted autoencoder, in training
            and in evaluation.
        dequantize: add uniform noise of a value's width to the values that a gaussian likelihood reads, so that its
            nats are a bound on those of a law on the values (Theis et al. 2016, arXiv:1511.01844).
    """

    recipes: ClassVar = {
        "paper": {"epochs": 3280, "batch_size": 20, "optimizer": "adam"},
        "small": {"latent": 20, "hidden": (128,), "epochs": 10, "lr": 2e-3, "schedule": "cosine"},
    }
    """paper: one stochastic layer of arXiv:1509.00519, section 5, at the learning rate that it begins with, 1e-3. It
    falls to a tenth there in eight stages, 0.001·10^(−i/7) for 3^i passes each, and Adam has an ε of 1e-4: neither is
    an option here. The pixels of its images are drawn anew in every step; its k is 1, 5 or 50."""

    @classmethod
    def arguments(cls, beta: float = 1.0, kl_warmup: float = 0.0) -> dict[str, Any]:
        """The warm-up of the KL has another name, since the learning rate has one, too.

        Args:
            beta: weight of the KL while training.
            kl_warmup: part of the training over which that weight rises from 0.
        """
        check_number("kl_warmup", kl_warmup, 0, 1)
        return {"beta": beta, "warmup": kl_warmup}

    def __init__(
        self,
        in_channels: int = 1,
        levels: int = 2,
        latent: int = 50,
        hidden: tuple[int, ...] = (200, 200),
        channels: tuple[int, ...] = (),
        activation: Activation = "tanh",
        likelihood: Literal["bernoulli", "gaussian", "categorical", "logistic"] = "bernoulli",
        classes: int | None = None,
        image_size: int | tuple[int, int] = 28,
        beta: float = 1.0,
        warmup: float = 0.0,
        free_bits: float = 0.0,
        importance_samples: int = 1,
        dequantize: bool = False,
    ) -> None:
        super().__init__(in_channels, levels, classes, image_size)
        check_positive(latent=latent, importance_samples=importance_samples)
        check_number("beta", beta, 0)
        check_number("warmup", warmup, 0, 1)
        check_number("free_bits", free_bits, 0)
        self.reweighted = beta != 1 or warmup > 0 or free_bits > 0
        if importance_samples > 1 and self.reweighted:
            raise ValueError(
                "importance_samples: expected 1 with another beta than 1, a warmup or free_bits, since its bound has no"
                f" KL to weight, got {importance_samples}"
            )
        self.latent = int(latent)
        self.hidden, self.channels = as_widths("hidden", hidden), as_widths("channels", channels)
        self.activation = activation
        self.likelihood = likelihood
        self.beta, self.warmup, self.free_bits = float(beta), float(warmup), float(free_bits)
        self.importance_samples = int(importance_samples)
        self.p_x, self.dequantize = likelihood_named(likelihood, levels, dequantize), dequantize
        sizes = (self.hidden, self.channels, activation)
        self.encoder = Encoder(in_channels, self.sides, latent, *sizes, parts=2, classes=classes)
        self.decoder = Decoder(self.p_x.param_channels(in_channels), self.sides, latent, *sizes, classes=classes)
        self.rsample_kl = GaussianRSample()

    def losses(self, values: Tensor, labels: Tensor | None = None, progress: float = 1.0) -> dict[str, Tensor]:
        """The bound that is trained, and its terms, (N,) nats each.

        Returns:
            {"nats": −L or −L_k, "reconstruction": −E[log p(x|z)], "kl"}. In training mode with a β other than 1, a
            warm-up or free bits, "objective" comes first: reconstruction + weight · KL.
        """
        labels = self._labels(values, labels if self.classes is not None else None)
        check_number("progress", progress, 0, 1)
        h = self._encoded(values, labels)
        if self.importance_samples > 1:
            q = Posterior.of(h)
            log_p, log_w = self._log_weights(q, values, labels, self.importance_samples)
            terms = {"reconstruction": -log_p.mean(0).detach(), "kl": q.kl_per_dimension().sum(1).detach()}
            return {"nats": math.log(self.importance_samples) - torch.logsumexp(log_w, dim=0), **terms}
        z, kl = self.rsample_kl(h)
        reconstruction = -self.p_x.log_prob_of(self._params(z, labels), values)
        terms = {"nats": reconstruction + kl, "reconstruction": reconstruction.detach(), "kl": kl.detach()}
        if not (self.training and self.reweighted):
            return terms
        weight = self.beta * min(1.0, progress / self.warmup) if self.warmup else self.beta
        if self.free_bits:
            each = Posterior.of(h).kl_per_dimension()
            kl = torch.where(each.detach().mean(0) > self.free_bits, each, self.free_bits).sum(1)
        return {"objective": reconstruction + weight * kl, **terms, "nats": terms["nats"].detach()}

    @property
    def measures(self) -> dict[str, Measure]:
        return self.measures_by(self.importance_samples)

    def measures_by(self, importance_samples: int) -> dict[str, Measure]:
        """What the losses are when so many importance samples are drawn for an image."""
        check_positive(importance_samples=importance_samples)
        k, given = importance_samples, self.classes is not None
        by = "ELBO" if k == 1 else f"{k} importance samples"
        objective = Measure("what training minimises: reconstruction and weighted KL", "nats")
        return {
            "objective": objective,
            "nats": Measure(
                f"upper bound on {law(given)}, by {by}{self.p_x.caveat}", "nats", of_values=self.p_x.of_values
            ),
            "reconstruction": Measure("−log p(x | z, y), labels given" if given else "−log p(x | z)", "nats"),
            "kl": Measure("KL(q(z | x, y) ‖ p(z)), labels given" if given else "KL(q(z | x) ‖ p(z))", "nats"),
        }

    def elbo(self, values: Tensor, labels: Tensor | None = None, samples: int = 1) -> Tensor:
        """The bound on log p(x) from one draw, (N,) nats: L, or with more samples L_samples; differentiable."""
        check_positive(samples=samples)
        labels = self._labels(values, labels)
        h = self._encoded(values, labels)
        if samples > 1:
            log_w = self._log_weights(Posterior.of(h), values, labels, samples)[1]
            return torch.logsumexp(log_w, dim=0) - math.log(samples)
        z, kl = self.rsample_kl(h)
        return self.p_x.log_prob_of(self._params(z, labels), values) - kl

    def importance_log_prob(self, values: Tensor, labels: Tensor | None = None, samples: int = 5000) -> Tensor:
        """Estimate log p(x) by L_samples, in pieces, so that memory does not grow with ``samples``.

        Args:
            values: integers (N, C, H, W) in [0, levels).
            labels: int64 (N,), for a model with classes.
            samples: k. The estimate is too low on average, and less so with more of them.

        Returns:
            (N,) nats, float64, without gradients; in eval mode whatever the model's mode.
        """
        check_positive(samples=samples)
        labels = self._labels(values, labels)
        rows = max(1, ROWS // (self.p_x.param_channels(self.in_channels) * self.sides[0] * self.sides[1]))
        parts = []
        with evaluated(self) as model:
            for first in range(0, len(values), rows):
                part = slice(first, first + rows)
                x, y = values[part], None if labels is None else labels[part]
                q, step = Posterior.of(model._encoded(x, y)), max(1, rows // len(x))
                total = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
                for done in range(0, samples, step):
                    log_w = model._log_weights(q, x, y, min(step, samples - done))[1]
                    total = torch.logaddexp(total, torch.logsumexp(log_w.double(), dim=0))
                parts.append(total - math.log(samples))
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64, device=values.device)

    def posterior(self, values: Tensor, labels: Tensor | None = None) -> Posterior:
        """q(z|x) of images: mean and log-variance, (N, latent) each."""
        return Posterior.of(self._encoded(values, self._labels(values, labels)))

    def encode(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        """The mean of q(z|x), (N, latent), in the dtype of the parameters."""
        return self.posterior(values, labels).mean.to(next(self.parameters()).dtype)

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """E[x|z], floating point (N, C, H, W) in [0, levels − 1]."""
        self.check_codes(z)
        return self.p_x.mean(self.decoder(z, self.check_labels(z.shape[0], labels)))

    def sample(
        self,
        n: int = 1,
        *,
        seed: int | None = None,
        labels: Labels | None = None,
        temperature: float = 1.0,
        means: bool = False,
        first: int = 0,
    ) -> Tensor:
        """Draw images: z ~ N(0, temperature² I), then x ~ p(x|z). Image i depends on (seed, first + i) alone.

        Args:
            n: how many.
            seed: any 64-bit integer; by default one from torch's generator.
            labels: integers (n,), a tensor, an array or a list, or one for all; for a model with classes.
            temperature: scales the prior's standard deviation; below 1 gives likelier and less varied images.
            means: give E[x|z], rounded, instead of drawing x: without the pixels' own noise.
            first: index of the first image.

        Returns:
            int64 (n, C, H, W) in [0, levels).

        Raises:
            ValueError: an argument does not fit, or what the decoder answers is not finite.
        """
        n, first = check_integer("n", n, 1), check_integer("first", first, 0)
        temperature = check_number("temperature", temperature, 0)
        like = next(self.parameters())
        seed = seed_or_any(seed)
        labels = self.check_labels(n, labels)
        shape = (self.in_channels, *self.sides)
        step, parts = max(1, ROWS // (self.p_x.param_channels(shape[0]) * shape[1] * shape[2])), []
        with evaluated(self) as model:
            for done in range(0, n, step):
                count = min(step, n - done)
                u = uniforms_like(like, seed, count, (self.latent + math.prod(shape),), first + done)
                z = (temperature * normals_from(u[:, : self.latent])).to(like.dtype)
                pixels = u[:, self.latent :].view(-1, *shape)
                check_finite("temperature", z, f"one that leaves codes finite, not {temperature}")
                params = model.decoder(z, None if labels is None else labels[done : done + count])
                check_finite("model", params, "finite parameters")
                drawn = self.p_x.mean(params).round() if means else self.p_x.draw(params, pixels)
                parts.append(drawn.to(torch.int64))
        return torch.cat(parts)

    def _labels(self, values: Tensor, labels: Labels | None) -> Tensor | None:
        self.check_images(values)
        return self.check_labels(values.shape[0], labels)

    def _encoded(self, values: Tensor, labels: Tensor | None) -> Tensor:
        out: Tensor = self.encoder(self.to_input(values), labels)
        return out if out.dtype == torch.float64 else out.float()

    def _params(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Of p(x|z), of codes that are float32 where parameters are halves."""
        params: Tensor = self.decoder(z.to(next(self.parameters()).dtype), labels)
        return params

    def _log_weights(self, q: Posterior, values: Tensor, labels: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
        """The logarithms of p(x|z) and w for k draws of z, (k, N) each."""
        mean, logvar = (part.expand(k, *part.shape).flatten(0, 1) for part in q)
        z, _ = self.rsample_kl(mean, logvar)
        params = self._params(z, None if labels is None else labels.repeat(k))
        log_p = self.p_x.log_prob_of(params.unflatten(0, (k, values.shape[0])), values)
        logvar = logvar.clamp(LOGVAR_MIN, LOGVAR_MAX)
        noise = ((z - mean) * torch.exp(-0.5 * logvar)).detach()  # ε, of which neither μ nor σ is a part
        log_ratio = -0.5 * (z**2 - noise**2 - logvar).sum(1)  # log p(z) − log q(z|x)
        return log_p, log_p + log_ratio.view(k, values.shape[0])
