"""BEGAN: Berthelot, Schumm and Metz, "BEGAN: Boundary Equilibrium Generative Adversarial Networks", 2017,
arXiv:1703.10717.

    discriminator   image ── encoder ── h ── decoder ── image       makes L(x) − k·L(G(z)) small, L(v) = mean |v − D(v)|
    generator       z ── decoder, with weights of its own ── image  makes L(G(z)) small
    k               ← clip(k + λ·(γ·L(x) − L(G(z))), 0, 1)          after each round; it begins at 0           section 3

    decoder   linear ── [ 3×3, ELU ] × 2 ── ×2 ── [ 3×3, ELU ] × 2 ── … ── 3×3                                  figure 1
    encoder   3×3, ELU ── [ 3×3, ELU ] × 2 ── 3×3, ÷2 ── [ 3×3, ELU ] × 2 ── … ── linear

No normalisation, and nothing at the end: images are in [−1, 1], drawn ones are cut. Sides are halved, rounded down, to
7 to 13 pixels on the shorter one: 32 → 16 → 8, 28 → 14 → 7. The paper's residuals that vanish and its decoders that
read h at every size (section 3.5.1) are left out, as in most code.
"""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .._checks import check_number, describe
from ..losses import reconstruction_error
from ..measures import Measure
from .adversarial import BY_PIXELS, AdversarialModel
from .began_objective import BEGANObjective
from .game import check_players
from .model import check_positive
from .networks import check_class, halved
from .residual_blocks import UpsampledConv2d, begun


@dataclass(frozen=True, kw_only=True)
class Balance:
    """How generator and discriminator are held in balance."""

    gamma: float = 0.5
    """Error of drawn images over that of real ones that is aimed at, in (0, 1]: less gives clearer and more similar
    images; 0.3 to 0.7 in the paper."""
    gain: float = 1e-3
    """How far k moves after each step, per unit of what the errors are out of balance."""
    discriminator_lr: float | None = None
    """Learning rate of the discriminator; default: --lr."""
    generator_lr: float | None = None
    """Learning rate of the generator; default: --lr."""
    discriminator_betas: tuple[float, float] | None = None
    """Of the discriminator's optimiser; default: --betas."""
    generator_betas: tuple[float, float] | None = None
    """Of the generator's optimiser; default: --betas."""

    dequantize: ClassVar = False

    def __post_init__(self) -> None:
        for name, most in (("gamma", 1.0), ("gain", math.inf)):
            object.__setattr__(self, name, float(check_number(name, getattr(self, name), 0, most)))
            if getattr(self, name) == 0:
                raise ValueError(f"{name}: expected a positive number, got 0")
        check_players(self)

    @property
    def config(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


class BEGAN(AdversarialModel):
    """BEGAN, Berthelot et al. 2017, arXiv:1703.10717: the discriminator is an autoencoder, its error the score.

    Args:
        in_channels: colours of an image.
        levels: values of a pixel.
        latent: dimensions of z, uniform as in the paper, and of the autoencoder's code h.
        channels: n, of every convolution but the encoder's, which have n, 2n, 3n and so on at each halving.
        image_size: one size or (H, W), in pixels.
        balance: of the two networks, ``Balance`` or by name.

    Attributes:
        k: weight of drawn images' error in the discriminator's loss, a buffer: checkpoints have it.
    """

    defaults: ClassVar = {**AdversarialModel.defaults, "lr": 1e-4, "betas": (0.9, 0.999), "batch_size": 16}
    recipes: ClassVar = {
        "paper": {"channels": 128, "lr": 8e-5, "epochs": 40, "ema": 0.0},
        "small": {
            "channels": 16, "gamma": 0.7, "gain": 1.0, "lr": 4e-4, "epochs": 1, "channels_last": True,
            "schedule": "linear",
        },
    }  # fmt: skip
    """paper: section 4 and its best-known code (carpedm20/BEGAN-tensorflow): Adam, whose lr is halved when M stands
    still, which is no option here; batches of 16, for 500,000 steps: 40 epochs of CelebA."""

    k: Tensor

    def __init__(
        self,
        in_channels: int = 3,
        levels: int = 256,
        latent: int = 64,
        channels: int = 64,
        image_size: int | tuple[int, int] = 32,
        balance: Balance | None = None,
    ) -> None:
        super().__init__(in_channels, levels, None, image_size, latent, prior="uniform")
        check_positive(channels=channels)
        self.channels = int(channels)
        self.settings = as_balance(balance)
        stages = max((min(self.sides) // 7).bit_length() - 1, 0)
        sizes = halved(self.sides, stages)
        self.generator = BEGANGenerator(in_channels, self.latent, self.channels, sizes)
        self.discriminator = BEGANDiscriminator(in_channels, self.latent, self.channels, sizes)
        self.register_buffer("k", torch.zeros(()))

    @property
    def balance(self) -> dict[str, Any]:
        """The settings of the balance, by name."""
        return self.settings.config

    def objective(self) -> BEGANObjective:
        """Two players, and k between them."""
        return BEGANObjective(self)

    @property
    def measures(self) -> dict[str, Measure]:
        return BY_PIXELS | {
            "convergence": Measure("M = L(x) + |γL(x) − L(G(z))|, by the autoencoder that judges: no likelihood"),
            "loss": Measure("L(x) − k·L(G(z)), what the autoencoder that judges minimises: no likelihood"),
            "error_of_real": Measure("L(x), mean |x − D(x)| of the autoencoder that judges, in [−1, 1]"),
            "error_of_fake": Measure("L(G(z)), the same of drawn images"),
        }


class BEGANDecoder(nn.Module):
    """Codes (N, code) → images (N, C, H, W), unbounded.

    Args:
        out_channels: C, colours.
        code: dimensions of the code.
        channels: n.
        sizes: (h, w) of the image and of each halving.
    """

    def __init__(self, out_channels: int, code: int, channels: int, sizes: list[tuple[int, int]]) -> None:
        super().__init__()
        H, W = sizes[-1]
        self.start = (channels, H, W)
        self.linear = begun(nn.Linear(code, channels * H * W), relu=False)
        layers: list[nn.Module] = []
        for stage in reversed(range(len(sizes))):
            first: nn.Module = nn.Conv2d(channels, channels, 3, padding=1)
            if stage < len(sizes) - 1:
                (tall, wide), (h, w) = sizes[stage], sizes[stage + 1]
                first = UpsampledConv2d(channels, channels, (tall - 2 * h, wide - 2 * w))
            layers += [begun(first, relu=False), nn.ELU()]
            layers += [begun(nn.Conv2d(channels, channels, 3, padding=1), relu=False), nn.ELU()]
        last = begun(nn.Conv2d(channels, out_channels, 3, padding=1), relu=False)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, code: Tensor) -> Tensor:
        return self.layers(self.linear(code).unflatten(1, self.start))


class BEGANGenerator(BEGANDecoder):
    """z (N, latent), uniform in ±√3 → images (N, C, H, W): what is decoded is uniform in ±1, as in the paper."""

    def forward(self, z: Tensor, labels: None = None) -> Tensor:
        check_class(labels, z.shape[0], None)
        return super().forward(z / math.sqrt(3))


class BEGANDiscriminator(nn.Module):
    """Images (N, C, H, W) → scores (N,): −L, less the worse they are reconstructed.

    Args:
        in_channels: C, colours.
        code: dimensions of h.
        channels: n.
        sizes: (h, w) of the image and of each halving.
    """

    def __init__(self, in_channels: int, code: int, channels: int, sizes: list[tuple[int, int]]) -> None:
        super().__init__()
        layers: list[nn.Module] = [begun(nn.Conv2d(in_channels, channels, 3, padding=1), relu=False), nn.ELU()]
        width = channels
        for stage in range(len(sizes)):
            if stage:  # the last row and column are doubled by zeros; of an odd side they have no place
                layers += [nn.ZeroPad2d((0, 1, 0, 1)), begun(nn.Conv2d(width, width, 3, stride=2), relu=False)]
            for inputs in (width, channels * (stage + 1)):
                layers += [begun(nn.Conv2d(inputs, channels * (stage + 1), 3, padding=1), relu=False), nn.ELU()]
            width = channels * (stage + 1)
        H, W = sizes[-1]
        self.encoder = nn.Sequential(*layers, nn.Flatten(), begun(nn.Linear(width * H * W, code), relu=False))
        self.decoder = BEGANDecoder(in_channels, code, channels, sizes)

    def reconstruct(self, x: Tensor) -> Tensor:
        """D(v), (N, C, H, W)."""
        return self.decoder(self.encoder(x))

    def error(self, x: Tensor) -> Tensor:
        """L(v), (N,)."""
        return reconstruction_error(x, self.reconstruct(x))

    def forward(self, x: Tensor, labels: None = None) -> Tensor:
        check_class(labels, x.shape[0], None)
        return -self.error(x)


def as_balance(balance: Any) -> Balance:
    """A ``Balance``, also of its settings by name; None are the defaults.

    Raises:
        ValueError: a name is no setting's, or a value does not fit.
    """
    if balance is None or isinstance(balance, Balance):
        return balance or Balance()
    if not isinstance(balance, dict):
        raise ValueError(f"balance: expected a Balance, settings of one by name, or None, got {describe(balance)}")
    names = [each.name for each in fields(Balance)]
    if unknown := set(balance) - set(names):
        raise ValueError(f"balance: expected {', '.join(names)}, got {', '.join(map(str, sorted(unknown)))}")
    return Balance(**balance)
