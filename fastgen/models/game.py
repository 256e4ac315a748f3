"""How two networks play: which losses, how often each moves, and by which optimiser; combinations known to be wrong are
refused, with the reason.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from torch import nn

from .._checks import check_flag, check_integer, check_number, check_option, describe
from ..losses import LOSSES, AdversarialLoss
from ..nn._batch_norms import BATCH_NORMS

Loss = Literal["minimax", "non-saturating", "least-squares", "least-squares-pearson", "wasserstein", "hinge"]


@dataclass(frozen=True, kw_only=True)
class Game:
    """Settings of a game between a discriminator and a generator."""

    loss: Loss = "non-saturating"
    """What both minimise: minimax and non-saturating of Goodfellow 2014, least-squares with the coding 0 and 1, or
    -1, 1 and 0 (pearson), wasserstein, hinge; see fastgen.losses."""
    discriminator_steps: int = 1
    """Moves of the discriminator, each on new images, for every move of the generator."""
    gradient_penalty: float = 0.0
    """Weight of (slope - 1)^2 of the discriminator, between real and drawn images; 10 in WGAN-GP."""
    r1: float = 0.0
    """Weight of half the discriminator's squared slope at real images (Mescheder 2018)."""
    weight_clip: float = 0.0
    """Clamp the discriminator's weights to so much after each of its moves; 0.01 in WGAN."""
    label_smoothing: float = 0.0
    """Tell the discriminator that real images are real with a probability lower by so much; of drawn ones the truth."""
    class_weight: float = 1.0
    """Of the classes' cross-entropy with an auxiliary classifier, beside the game's losses."""
    fake_class_weight: float | None = None
    """The same of drawn images in the discriminator's loss, which AC-GAN's classifier learns from, too, and WGAN-GP's
    does not; default: --class-weight."""
    generator_class_weight: float | None = None
    """The same in the generator's loss; default: --class-weight."""
    dequantize: bool = False
    """Add uniform noise of one level's width to real images, which no generator's look like otherwise."""
    discriminator_lr: float | None = None
    """Learning rate of the discriminator; default: --lr."""
    generator_lr: float | None = None
    """Learning rate of the generator; default: --lr."""
    discriminator_betas: tuple[float, float] | None = None
    """Of the discriminator's optimiser; default: --betas."""
    generator_betas: tuple[float, float] | None = None
    """Of the generator's optimiser; default: --betas."""

    def __post_init__(self) -> None:
        check_option("loss", self.loss, list(LOSSES))
        object.__setattr__(
            self, "discriminator_steps", check_integer("discriminator_steps", self.discriminator_steps, 1)
        )
        for name in ("gradient_penalty", "r1", "weight_clip", "class_weight"):
            object.__setattr__(self, name, float(check_number(name, getattr(self, name), 0)))
        for name in ("fake_class_weight", "generator_class_weight"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(check_number(name, getattr(self, name), 0)))
        smoothing = float(check_number("label_smoothing", self.label_smoothing, 0, 0.5))
        object.__setattr__(self, "label_smoothing", smoothing)
        object.__setattr__(self, "dequantize", check_flag("dequantize", self.dequantize))
        check_players(self)
        if smoothing and not self.pair.smooths:
            why = "has no labels to smooth: its scores are no probabilities"
            raise ValueError(f"label_smoothing: expected 0, since {self.loss} {why}, got {smoothing}")
        if self.weight_clip and (self.gradient_penalty or self.r1):
            raise ValueError(
                "weight_clip: expected 0 with a penalty on the gradient, since both bound the discriminator's slope and"
                f" clipped weights cannot reach a slope of 1, got {self.weight_clip}"
            )

    @property
    def pair(self) -> AdversarialLoss:
        """The losses."""
        return LOSSES[self.loss]

    @property
    def class_weights(self) -> tuple[float, float, float]:
        """Of classes' cross-entropy: of real and of drawn images in the discriminator's loss; in the generator's."""
        own = self.fake_class_weight, self.generator_class_weight
        fake, generator = (self.class_weight if each is None else each for each in own)
        return self.class_weight, fake, generator

    @property
    def differentiates_twice(self) -> bool:
        """Whether the discriminator's gradient is differentiated again."""
        return self.gradient_penalty > 0 or self.r1 > 0

    @property
    def config(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def check_discriminator(self, discriminator: nn.Module) -> None:
        """Raise ValueError if what is known of the losses and of the network's layers says that it cannot go well."""
        layers = list(discriminator.modules())
        batch_norm = any(isinstance(layer, BATCH_NORMS) for layer in layers)
        spectral = any(map(_is_spectrally_normalized, layers))
        if batch_norm and self.differentiates_twice:
            name = "gradient_penalty" if self.gradient_penalty else "r1"
            raise ValueError(
                f"{name}: expected 0 with batch norm in the discriminator, where an image's score depends on its whole"
                " batch, so that the slope is no longer of one image (WGAN-GP, section 4); another normalisation goes,"
                f" got {getattr(self, name):g}"
            )
        if spectral and self.weight_clip:
            raise ValueError(
                f"weight_clip: expected 0 with spectral normalisation, which scales its weights anyway, got"
                f" {self.weight_clip:g}"
            )
        if self.loss == "wasserstein" and not (self.weight_clip or self.gradient_penalty or spectral):
            raise ValueError(
                "loss: expected a bound on the critic's slope with wasserstein, without which its loss has no minimum:"
                " gradient_penalty (10), weight_clip (0.01) or spectral normalisation, got none"
            )
        last = [layer for layer in layers if not list(layer.children()) and not _free(layer)][-1:]
        if last and isinstance(last[0], (nn.Sigmoid, nn.Softmax, nn.LogSigmoid)):
            raise ValueError(
                f"discriminator: expected one that ends in a score, since the log of a sigmoid that is 0 or 1 in its"
                f" last digits is lost, and the losses take logits, got one that ends in {type(last[0]).__name__}"
            )


def check_players(record: Any) -> None:
    """Raise ValueError unless learning rates and betas of both players fit, in a frozen record that has them; betas
    become tuples.
    """
    for name in ("discriminator_lr", "generator_lr"):
        check_lr(name, getattr(record, name))
    for name in ("discriminator_betas", "generator_betas"):
        object.__setattr__(record, name, check_betas(name, getattr(record, name)))


def check_lr(name: str, lr: Any) -> float | None:
    """A player's own learning rate; raise ValueError unless it is a positive number, or None."""
    if lr is not None and check_number(name, lr, 0) == 0:
        raise ValueError(f"{name}: expected a positive number, got 0")
    return lr


def check_betas(name: str, betas: Any) -> tuple[float, float] | None:
    """A player's own betas, as a tuple; raise ValueError unless they are two numbers in [0, 1), or None."""
    if betas is None:
        return None
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise ValueError(f"{name}: expected two numbers in [0, 1), got {describe(betas)}")
    first, second = (float(check_number(f"{name}[{index}]", beta)) for index, beta in enumerate(betas))
    if not (0 <= first < 1 and 0 <= second < 1):
        raise ValueError(f"{name}: expected two numbers in [0, 1), got {describe(betas)}")
    return first, second


def _is_spectrally_normalized(layer: nn.Module) -> bool:
    """Whether it is torch's parametrisation, a layer of somebody's own called so, or has torch's older hook."""
    kinds = (layer, *layer._forward_pre_hooks.values())
    return any("spectralnorm" in type(each).__name__.lower().replace("_", "") for each in kinds)


def _free(layer: nn.Module) -> bool:
    """Whether a layer at the end changes nothing of a score but its shape."""
    return isinstance(layer, (nn.Flatten, nn.Identity, nn.Unflatten))


GAME_FIELDS = tuple(each.name for each in fields(Game))
"""Names of the settings."""


def as_game(game: Any, defaults: dict[str, Any]) -> Game:
    """A ``Game``, or one with settings by name other than ``defaults``; None are the defaults.

    Raises:
        ValueError: a name is no setting's, or a value does not fit.
    """
    if isinstance(game, Game):
        return game
    if game is not None and not isinstance(game, dict):
        raise ValueError(f"game: expected a Game, settings of one by name, or None, got {describe(game)}")
    if unknown := set(game or {}) - set(GAME_FIELDS):
        raise ValueError(f"game: expected {', '.join(GAME_FIELDS)}, got {', '.join(map(str, sorted(unknown)))}")
    return Game(**{name: value for name, value in defaults.items() if name in GAME_FIELDS} | (game or {}))
