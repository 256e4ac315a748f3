"""VQ-VAE: van den Oord, Vinyals and Kavukcuoglu, "Neural Discrete Representation Learning", 2017, arXiv:1711.00937.

    x ── encoder ── z_e (N, D, h, w) ── the nearest of K vectors e, at each place ── z_q ── decoder ── x̂
                                             its number is the code, (N, 1, h, w)

    L = −log p(x | z_q) + β ‖z_e − sg[e]‖²                                          eq. 3, without its second term, for
    N_k ← γ N_k + (1 − γ) n_k,   m_k ← γ m_k + (1 − γ) Σ z_e,   e_k = m_k / N_k                 appendix A.1 has these

sg stops the gradient; that of z_q goes to z_e as it is (section 3.2). n_k are the places of a batch whose code is k,
and the sum is over their z_e: vectors follow the means of what they stand for. One that stands for nearly nothing
begins anew as the z_e of some place, as in Dhariwal et al. 2020, arXiv:2005.00341, section 3.2. Encoder and decoder are
those of section 4.1: two convolutions of stride 2 and two residual blocks (ReLU, 3×3, ReLU, 1×1), and the same
mirrored. Codes are integers: a model of their maps, trained on them as on images, is the prior, and ``sample`` decodes
what it draws.
"""

import math
from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import check_integer, check_number, check_values
from .._shadow import evaluated
from ..measures import Measure
from ..nn import Conv2dChain, ConvTranspose2dChain
from ..ops._batch_norm_sync import is_shared
from .autoregressive import AutoregressiveModel
from .drawing import draw_in_parts
from .model import Model, check_positive
from .networks import halved
from .vqvae_objective import VQVAEObjective

IDLE = 0.02
"""Share of an average vector's places below which a vector begins anew."""


class VQVAE(Model):
    """VQ-VAE, van den Oord, Vinyals and Kavukcuoglu 2017, arXiv:1711.00937.

    Args:
        in_channels: colours of an image.
        levels: values of a pixel.
        codes: K, vectors in the codebook.
        code_channels: D, dimensions of each.
        channels: of the convolutions.
        layers: residual blocks of the encoder, and of the decoder.
        halvings: convolutions of stride 2: codes have a place for 2^halvings × 2^halvings pixels.
        commitment: weight β of what draws the encoder to the codebook, eq. 3.
        decay: share γ of the codebook that a batch leaves, appendix A.1.
        deviation: standard deviation σ of p(x | z), x in [0, 1]: the smaller, the more an error of the image counts.
        image_size: one size or (H, W).

    Attributes:
        codebook: e, (K, D).
        counts: N, (K,); zeros before the first batch of training.
        sums: m, (K, D).
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor
    shares_batches = True
    """Processes follow the means over all of them: each needs images of every batch."""
    needs_prior: ClassVar = True
    """``sample`` decodes what a prior draws, and draws nothing by itself."""
    recipes: ClassVar = {
        "paper": {"codes": 512, "channels": 256, "batch_size": 128, "lr": 2e-4, "ema": 0.0},
        "small": {"codes": 128, "code_channels": 32, "channels": 32, "epochs": 5, "batch_size": 64, "lr": 1e-3},
    }
    """paper: section 4.1, of CIFAR-10 and ImageNet: Adam at 2e-4, 250,000 steps of 128 images, which no number of
    epochs is given for. It says neither D, which is 64 in the authors' code, nor σ."""

    def __init__(
        self,
        in_channels: int = 1,
        levels: int = 256,
        codes: int = 512,
        code_channels: int = 64,
        channels: int = 128,
        layers: int = 2,
        halvings: int = 2,
        commitment: float = 0.25,
        decay: float = 0.99,
        deviation: float = 0.15,
        image_size: int | tuple[int, int] = 28,
    ) -> None:
        super().__init__(in_channels, levels, None, image_size)
        check_positive(code_channels=code_channels, channels=channels)
        self.codes = check_integer("codes", codes, 2)
        check_positive(codes=codes)
        self.code_channels, self.channels = int(code_channels), int(channels)
        self.layers = check_integer("layers", layers, 0)
        self.halvings = check_integer("halvings", halvings, 1)
        self.commitment = float(check_number("commitment", commitment, 0))
        self.decay = float(check_number("decay", decay, 0, 1))
        self.deviation = float(check_number("deviation", deviation, 0))
        if not self.deviation:
            raise ValueError("deviation: expected a positive number, got 0")
        sizes = halved(self.sides, self.halvings)
        self.code_size = sizes[-1]
        self.encoder = _encoder(self.in_channels, self.channels, self.code_channels, self.layers, self.halvings)
        self.decoder = _decoder(self.in_channels, self.channels, self.code_channels, self.layers, sizes)
        self.register_buffer("codebook", torch.randn(self.codes, self.code_channels))
        self.register_buffer("counts", torch.zeros(self.codes))
        self.register_buffer("sums", torch.zeros(self.codes, self.code_channels))
        self._has_begun = False  # as far as is known: one look at counts, which waits for a GPU, says more

    def objective(self) -> VQVAEObjective:
        """One player; how many of the codes are used is measured beside its losses."""
        return VQVAEObjective(self)

    def losses(self, values: Tensor, condition: Any = None, progress: float = 1.0) -> dict[str, Tensor]:
        """What training minimises, (N,) each; in training mode the codebook follows the batch.

        Returns:
            {"loss": L, −log p up to a constant; "squared_error": ‖x − x̂‖²; "code_error": ‖z_e − e‖²}.
        """
        self.check_images(values)
        check_number("progress", progress, 0, 1)
        x = self.to_input(values)
        z = self.encoder(x)
        if self.training and not self._has_begun:
            self._begin(z)
        nearest = self._nearest(z)
        e = self._vectors(nearest).to(z.dtype)
        error = x - self.decoder(z + (e - z).detach()).to(x.dtype)
        squared = error.square().flatten(1).sum(1)
        committed = (z - e).square().flatten(1).sum(1)
        loss = squared / (2 * self.deviation**2) + self.commitment * committed
        if self.training:
            self._follow(z, nearest)
        return {"loss": loss, "squared_error": squared.detach(), "code_error": committed.detach()}

    def begin_training(self, values: Tensor, condition: Any = None) -> None:
        """A codebook of the first batch's; ``losses`` does so where nobody calls this."""
        self.check_images(values)
        with torch.no_grad():
            self._begin(self.encoder(self.to_input(values)))

    @property
    def measures(self) -> dict[str, Measure]:
        return {
            "loss": Measure("a Gaussian's −log p(x | z) up to a constant, and β ‖z_e − e‖²: no likelihood"),
            "squared_error": Measure("‖x − x̂‖² of an image, its values in [0, 1]"),
            "code_error": Measure("‖z_e − e‖² of an image's codes"),
            "perplexity": Measure(f"exp of the entropy of the codes' frequencies, {self.codes} if all are used alike"),
        }

    def encode(self, values: Tensor) -> Tensor:
        """The codes of images, int64 (N, 1, h, w) in [0, K): images of ``code_size`` that a prior is trained on."""
        self.check_images(values)
        with torch.no_grad():
            return self._nearest(self.encoder(self.to_input(values)))[:, None]

    def decode(self, codes: Tensor) -> Tensor:
        """The images of codes, integers (N, 1, h, w) in [0, K): floating point (N, C, H, W) in [0, levels − 1].

        Raises:
            ValueError: they are not of this shape or range.
            TypeError: they are no integers.
        """
        check_values(codes, self.codes, "codes")
        if codes.dim() != 4 or tuple(codes.shape[1:]) != (1, *self.code_size):
            raise ValueError(
                f"codes: expected shape (N, 1, {', '.join(map(str, self.code_size))}), got {tuple(codes.shape)}"
            )
        image = self.decoder(self._vectors(codes[:, 0].to(torch.int64)))
        return image.clamp(0, 1) * (self.levels - 1)

    def reconstruct(self, values: Tensor) -> Tensor:
        """``decode`` of ``encode``."""
        return self.decode(self.encode(values))

    def sample(self, prior: AutoregressiveModel, n: int | None = None, **options: Any) -> Tensor:
        """Draw codes from a prior, and decode them, in eval mode.

        Args:
            prior: of maps of codes: one colour, K levels.
            n: how many images.
            options: of ``prior.sample``: seed, labels, temperature, known codes and so on.

        Returns:
            int64 (N, C, H, W) in [0, levels).

        Raises:
            ValueError: the prior draws other codes.
        """
        has = getattr(prior, "in_channels", None), getattr(prior, "levels", None)
        if has != (1, self.codes):
            raise ValueError(f"prior: expected one of 1 colour and {self.codes} levels, K, got {has[0]} and {has[1]}")
        return self.images(prior.sample(n, size=self.code_size, **options))

    def images(self, codes: Tensor) -> Tensor:
        """``decode`` of any number of codes, some at a time, in eval mode, as int64 (N, C, H, W) in [0, levels)."""

        def draw(model: VQVAE, count: int, seed: int, first: int, *_: Any) -> Tensor:
            return model.decode(codes[first : first + count])

        return draw_in_parts(self, len(codes), 0, None, 1.0, 0, draw)

    preview_rows = ("given", "reconstructed")

    def preview(self, n: int, seed: int, values: Tensor, condition: Any) -> list[Tensor]:
        """Held-out images, and what becomes of them."""
        with evaluated(self) as model:
            return [values[:n], model.reconstruct(values[:n])]

    def _nearest(self, z: Tensor) -> Tensor:
        """(N, D, h, w) → the number of the nearest vector at each place, int64 (N, h, w)."""
        e, flat = self.codebook, self._places(z)
        with torch.autocast(z.device.type, enabled=False):  # sums in half precision would choose others
            squares = e.square().sum(1) - 2 * (flat @ e.t())  # ‖z − e‖² less ‖z‖², which is the same for all
        return squares.argmin(1).view(z.shape[0], *z.shape[2:])

    def _vectors(self, codes: Tensor) -> Tensor:
        """(N, h, w) → (N, D, h, w)"""
        return self.codebook[codes].movedim(-1, 1)

    @torch.no_grad()
    def _begin(self, z: Tensor) -> None:
        """A codebook of what the encoder makes of some places, unless there is one: vectors far from all would be
        nobody's nearest.
        """
        self._has_begun = True
        if self.counts.any():
            return
        self.codebook.copy_(self._some(z, self.codes))
        self.counts.fill_(1)
        self.sums.copy_(self.codebook)

    @torch.no_grad()
    def _follow(self, z: Tensor, nearest: Tensor) -> None:
        """Appendix A.1, over the batch of all processes; vectors that are hardly used begin anew."""
        flat = self._places(z)
        counts = torch.bincount(nearest.flatten(), minlength=self.codes).to(self.counts.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, nearest.flatten(), flat)
        if is_shared(dist.group.WORLD):
            for part in (counts, sums):
                dist.all_reduce(part)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        mean = self.counts.mean()
        idle = self.counts < IDLE * mean
        fresh = self._some(z, self.codes)
        self.sums.copy_(torch.where(idle[:, None], fresh * mean, self.sums))
        self.counts.copy_(torch.where(idle, mean, self.counts))
        self.codebook.copy_(self.sums / self.counts[:, None])

    def _some(self, z: Tensor, count: int) -> Tensor:
        """``z`` (N, D, h, w) at ``count`` places, drawn: (count, D), the same in all processes."""
        flat = self._places(z)
        drawn = torch.randperm(len(flat), device=z.device)[torch.arange(count, device=z.device) % len(flat)]
        some = flat[drawn] + 0.01 * flat.std() * torch.randn(count, flat.shape[1], dtype=flat.dtype, device=z.device)
        if is_shared(dist.group.WORLD):
            dist.broadcast(some, 0)
        return some

    def _places(self, z: Tensor) -> Tensor:
        """(N, D, h, w) → (N·h·w, D), without a gradient, in the codebook's precision."""
        return z.detach().movedim(1, -1).flatten(0, -2).to(self.codebook.dtype)


class _Residual(nn.Module):
    """x + 1×1(ReLU(3×3(ReLU(x))))"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = math.ceil(channels / 4)
        self.first, self.second = nn.Conv2d(channels, inner, 3, padding=1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


def _encoder(colors: int, channels: int, code_channels: int, layers: int, halvings: int) -> nn.Sequential:
    stages: list[nn.Module] = []
    for stage in range(halvings):
        stages += [nn.Conv2d(channels if stage else colors, channels, 4, 2, 1), nn.ReLU()]
    stages += [nn.Conv2d(channels, channels, 3, padding=1), *(_Residual(channels) for _ in range(layers)), nn.ReLU()]
    return Conv2dChain(*stages, nn.Conv2d(channels, code_channels, 1))


def _decoder(
    colors: int, channels: int, code_channels: int, layers: int, sizes: list[tuple[int, int]]
) -> nn.Sequential:
    stages: list[nn.Module] = [nn.Conv2d(code_channels, channels, 3, padding=1)]
    stages += [_Residual(channels) for _ in range(layers)]
    for stage in range(len(sizes) - 1, 0, -1):
        odd = sizes[stage - 1][0] % 2, sizes[stage - 1][1] % 2
        stages += [nn.ReLU(), nn.ConvTranspose2d(channels, channels if stage > 1 else colors, 4, 2, 1, odd)]
    return ConvTranspose2dChain(*stages)
