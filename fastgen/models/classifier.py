"""Classifier on an encoder: what was learned without labels initialises a model that is trained with few.

    x ── encoder ── features ── linear ── softmax ── p(class|x)            Hinton and Salakhutdinov, Science 2006

``Classifier.from_encoder(model, classes)`` takes the encoder of an autoencoder or a VAE, to be fine-tuned, or frozen,
which trains the last layer alone. ``Classifier(...)`` has the same architecture with random weights, to compare with.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import check_finite, check_flag, check_floating, check_instance, check_number
from ..measures import Measure
from .model import LatentModel, Model, check_positive
from .networks import Encoder


class Classifier(Model):
    """Classifier that begins with the encoder of a run, to be trained with few labels.

    Args:
        in_channels: colours of an image.
        levels: values of a pixel.
        classes: number of classes.
        image_size: one size or (H, W).
        encoder: arguments of ``fastgen.models.networks.Encoder`` after its first two; None gives one hidden layer.
        frozen: leave the encoder as it is, and train the last layer alone.
    """

    recipes: ClassVar = {"paper": {}, "small": {"epochs": 5, "lr": 2e-3, "schedule": "cosine"}}
    """paper: nothing beyond the defaults: the sizes are those of the encoder it begins with."""

    @classmethod
    def arguments(cls) -> dict[str, Any]:
        """An encoder is a run's, and no option."""
        return {"encoder": None}

    per_dimension = False
    """The loss of an image does not grow with its size."""

    def __init__(
        self,
        in_channels: int = 1,
        levels: int = 256,
        classes: int = 10,
        image_size: int | tuple[int, int] = 28,
        encoder: dict[str, Any] | None = None,
        frozen: bool = False,
    ) -> None:
        super().__init__(in_channels, levels, classes, image_size)
        check_positive(classes=classes)
        if encoder is not None:
            check_instance("encoder", encoder, dict, "the arguments of an Encoder by name, or None")
        try:
            arguments = encoder or {"code": 64, "hidden": (256,)}
            self.encoder_network = Encoder(in_channels, self.sides, **arguments)
        except (TypeError, ValueError) as error:
            raise ValueError(f"encoder: {error}") from error
        self.encoder = self.encoder_network.config
        self.frozen = check_flag("frozen", frozen)
        self.head = nn.Linear(self.encoder_network.code, int(classes))
        self.encoder_network.requires_grad_(not frozen)

    @classmethod
    def from_encoder(cls, model: LatentModel, classes: int, frozen: bool = False) -> "Classifier":
        """A classifier that begins with a copy of the encoder of ``model``.

        Args:
            model: with an ``encoder`` that reads images only.
            classes: number of classes.
            frozen: leave the encoder as it is, and train the linear layer alone.

        Raises:
            TypeError: the model has no encoder.
            ValueError: its encoder reads labels, which would tell the answer.
        """
        encoder = getattr(model, "encoder", None)
        if not isinstance(encoder, Encoder):
            raise TypeError(f"model: expected one with an encoder, as Autoencoder and VAE, got {type(model).__name__}")
        if encoder.classes is not None:
            raise ValueError("model: expected an encoder that reads images only, got one that reads their classes too")
        classifier = cls(model.in_channels, model.levels, classes, model.sides, encoder.config, frozen)
        classifier.encoder_network.load_state_dict(encoder.state_dict())
        return classifier.to(next(encoder.parameters()))

    def forward(self, x: Tensor) -> Tensor:
        """Inputs (N, C, H, W) in [0, 1] → logits (N, classes)."""
        self.check_dtype("x", check_floating("x", x, ("N", self.in_channels, *self.sides)))
        return self.head(self.encoder_network.features(x))

    def losses(self, values: Tensor, labels: Tensor | None = None, progress: float = 1.0) -> dict[str, Tensor]:
        """{"cross_entropy": −log p(label|x) in nats, "accuracy": 1 where the likeliest class is the label}, (N,)."""
        check_number("progress", progress, 0, 1)
        logits, labels = self.logits(values), self.check_labels(values.shape[0], labels)
        assert labels is not None  # a classifier has classes
        right = torch.eq(logits.detach().argmax(dim=1), labels).to(logits.dtype)
        return {"cross_entropy": F.cross_entropy(logits, labels, reduction="none"), "accuracy": right}

    @property
    def measures(self) -> dict[str, Measure]:
        right = Measure("share of images whose likeliest class is the label")
        return {"cross_entropy": Measure("−log p(y | x)", "nats"), "accuracy": right}

    def logits(self, values: Tensor) -> Tensor:
        """Integers (N, C, H, W) → logits (N, classes), at least float32."""
        self.check_images(values)
        logits = self(self.to_input(values))
        return logits if logits.dtype == torch.float64 else logits.float()

    def predict(self, values: Tensor) -> Tensor:
        """The likeliest class of each image, int64 (N,).

        Raises:
            ValueError: ``values`` do not fit, or the logits are not finite.
        """
        return check_finite("model", self.logits(values), "finite logits").argmax(dim=1)
