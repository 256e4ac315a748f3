"""What discriminators have in common: features of an image, and what is said of them, with classes and without.

score     s(x) = l(φ(x)), or with classes
concat        the class enters the network beside the image                  Mirza and Osindero 2014, arXiv:1411.1784
auxiliary     s(x), and p(y|x) = softmax(c(φ(x)))                            Odena 2017, arXiv:1610.09585
projection    s(x, y) = l(φ(x)) + ⟨V_y, φ(x)⟩                                Miyato and Koyama 2018, arXiv:1802.05637
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from .._checks import check_option
from .networks import check_class

Conditioning = Literal["concat", "auxiliary", "projection"]
CONDITIONINGS = ("concat", "auxiliary", "projection")


class Judged(NamedTuple):
    """What a discriminator says of images: scores (N,), and logits of their classes (N, K), or None."""

    scores: Tensor
    logits: Tensor | None


class Discriminator(nn.Module):
    """Base of discriminators: images (N, C, H, W) in [−1, 1], and their classes if it is told any → scores (N,).

    A subclass defines ``features`` and ``score``.

    Args:
        width: F, numbers of φ(x).
        classes: number of classes, or None.
        conditioning: how they enter.
    """

    def __init__(self, width: int, classes: int | None = None, conditioning: Conditioning = "concat") -> None:
        super().__init__()
        check_option("conditioning", conditioning, CONDITIONINGS)
        self.classes = classes
        self.conditioning = conditioning if classes is not None else None
        if classes is not None and conditioning == "projection":
            self.embedding = nn.Embedding(classes, width)
        elif classes is not None and conditioning == "auxiliary":
            self.classifier = nn.Linear(width, classes)

    @property
    def beside(self) -> int:
        """Classes that enter beside the image: all or none."""
        return self.classes or 0 if self.conditioning == "concat" else 0

    def features(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """φ: (N, C, H, W), with labels int64 (N,) where classes enter ``beside`` it → (N, F)"""
        raise NotImplementedError

    def score(self, features: Tensor) -> Tensor:
        """l: (N, F) → (N,)"""
        raise NotImplementedError

    def judge(self, x: Tensor, labels: Tensor | None = None) -> Judged:
        """Scores, and with an auxiliary classifier logits of classes; ``labels``: int64 (N,), where it is told any."""
        if labels is not None or self.conditioning in ("concat", "projection"):
            check_class(labels, x.shape[0], self.classes)
        features = self.features(x, labels if self.beside else None)
        scores = self.score(features)
        if self.conditioning == "projection" and labels is not None:
            scores = scores + (self.embedding(labels) * features).sum(1)
        logits = self.classifier(features).float() if self.conditioning == "auxiliary" else None
        return Judged(scores if scores.dtype == torch.float64 else scores.float(), logits)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """(N, C, H, W) → (N,)"""
        return self.judge(x, labels).scores


def with_planes(x: Tensor, labels: Tensor | None, classes: int | None) -> Tensor:
    """``x`` (N, C, H, W) and a plane for each class, ones for the image's own, else zeros: (N, C + classes, H, W)."""
    if not classes or labels is None:
        return x
    planes = torch.nn.functional.one_hot(labels.long(), classes).to(x.dtype)
    return torch.cat([x, planes[:, :, None, None].expand(-1, -1, *x.shape[2:])], dim=1)


def normalization_named(name: str, channels: int) -> nn.Module:
    """A layer that normalises ``channels`` channels: batch, instance, layer; none and spectral have no layer."""
    kinds: dict[str, Callable[[int], nn.Module]] = {
        "batch": nn.BatchNorm2d,
        "instance": lambda n: nn.InstanceNorm2d(n, affine=True),
        "layer": lambda n: nn.GroupNorm(1, n),
    }
    return kinds[name](channels) if name in kinds else nn.Identity()


Normalization = Literal["batch", "spectral", "layer", "instance", "none"]
NORMALIZATIONS = ("batch", "spectral", "layer", "instance", "none")


def spectrally_normalized(module: nn.Module) -> None:
    """Divide every weight of convolutions, linear layers and embeddings by its largest singular value, as it is used.

    torch's own parametrisation: one step of the power method in each forward in training mode, none in eval mode
    (Miyato et al. 2018, arXiv:1802.05957).
    """
    for layer in list(module.modules()):
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding)):
            nn.utils.parametrizations.spectral_norm(layer)
