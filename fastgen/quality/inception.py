"""FID, KID and inception score, by torch-fidelity's extractor, where its weights are at hand: nothing is downloaded.

The extractor is the network of the published numbers, with TensorFlow's way of resizing. The numbers depend on N, on
the split of the real images and on how both were resized and saved: all of it stands in ``protocol``.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._checks import check_integer
from .._extras import MissingExtraError, require
from ..data import Dataset
from ..metrics import frechet_distance, inception_score, kernel_distance

NAME = "inception-v3-compat"
BATCH = 32
"""Images that the extractor reads at once: it makes them 299 pixels wide."""
FEATURES = 2048
SPLITS = 10
SUBSETS, SUBSET = 100, 1000


@dataclass(frozen=True)
class InceptionNumbers:
    """FID, KID and inception score of drawn images.

    Attributes:
        fid: Fréchet distance of 2,048 features; None where there are not more images than that.
        kid: kernel distance of them.
        kid_error: its standard deviation over subsets.
        inception_score: of the drawn images alone, over 1,008 classes of ImageNet.
        inception_score_error: its standard deviation over parts.
        protocol: what they were found by.
        left_out: by name, why a number is not there.
    """

    fid: float | None
    kid: float | None
    kid_error: float | None
    inception_score: float | None
    inception_score_error: float | None
    protocol: dict[str, Any]
    left_out: dict[str, str]

    def __str__(self) -> str:
        pairs = (
            ("FID", self.fid, None),
            ("KID", self.kid, self.kid_error),
            ("inception score", self.inception_score, self.inception_score_error),
        )
        said = [
            f"{name} {value:.5g}" + ("" if error is None else f" ± {error:.2g}")
            for name, value, error in pairs
            if value is not None
        ]
        said += [f"{name}: none, {why}" for name, why in self.left_out.items()]
        return f"{', '.join(said)} ({', '.join(f'{key} {value}' for key, value in self.protocol.items())})"


class Inception:
    """The extractor with the weights in a file.

    Args:
        weights: weights-inception-2015-12-05-6726825d.pth, as torch-fidelity publishes it.
        device: where to compute.

    Raises:
        MissingExtraError: torch-fidelity is not installed, or cannot be imported; the message says which.
        FileNotFoundError: there is no such file.
        ValueError: it holds no weights of the extractor.
    """

    def __init__(self, weights: str | Path, device: torch.device | str = "cpu") -> None:
        path = Path(weights)
        if not path.is_file():
            raise FileNotFoundError(
                f"inception: expected the weights of torch-fidelity's extractor, which are not downloaded, got {path}"
            )
        extractor = _extractor_class()
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        self.version = getattr(require("torch_fidelity", "fidelity"), "__version__", "of unknown version")
        try:
            made = extractor(NAME, ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path))
        except Exception as error:  # torch's, or the extractor's own: the file is another's
            said = str(error).partition("\n")[0]
            raise ValueError(
                f"inception: expected the weights of torch-fidelity's extractor in {path}: {said}"
            ) from error
        self.extractor = made.to(device).eval()
        self.device = device

    @torch.no_grad()
    def features(self, values: Tensor, levels: int) -> tuple[Tensor, Tensor]:
        """Features (N, 2048) and logits (N, 1008) of images, on the CPU.

        Args:
            values: integers (N, C, H, W) in [0, levels), C 1 or 3; grey ones are read as three equal colours.
            levels: values of a pixel; they are spread over 8 bits.

        Raises:
            ValueError: images of another number of colours.
        """
        if values.dim() != 4 or values.shape[1] not in (1, 3):
            raise ValueError(f"values: expected (N, C, H, W) with C 1 or 3, got {tuple(values.shape)}")
        parts = []
        for part in values.split(BATCH):
            pixels = (part.double() * (255 / (levels - 1))).round().to(torch.uint8).expand(-1, 3, -1, -1)
            parts.append([found.float().cpu() for found in self.extractor(pixels.contiguous().to(self.device))])
        features, logits = (torch.cat(found) for found in zip(*parts, strict=True))
        return features, logits

    def score(self, real: Dataset, drawn: Tensor, seed: int = 0) -> InceptionNumbers:
        """The numbers of drawn images beside real ones.

        Args:
            real: real images.
            drawn: integers (N, C, H, W) in [0, levels).
            seed: of subsets and parts.
        """
        seed = check_integer("seed", seed, 0, 2**63 - 1)
        (a, _), (b, logits) = self.features(real.values, real.levels), self.features(drawn, real.levels)
        n = min(len(a), len(b))
        left_out: dict[str, str] = {}
        if n <= FEATURES:
            left_out["FID"] = f"since a covariance of {FEATURES:,} features needs more images than {n:,}"
        if n < 2 * SPLITS:
            left_out |= dict.fromkeys(("KID", "inception score"), f"since {n} images are too few")
        kid: tuple[float | None, float | None] = (None, None)
        score = kid
        if n >= 2 * SPLITS:
            kid, score = (
                kernel_distance(a, b, SUBSETS, min(SUBSET, n // 2), seed),
                inception_score(logits, SPLITS, seed),
            )
        protocol = {
            "extractor": f"{NAME} of torch-fidelity {self.version}",
            "weights": self.sha256,
            "resize": "299x299, bilinear as in TensorFlow 1",
            "drawn": len(b),
            "real": len(a),
            "split": real.description,
            "subsets": f"{SUBSETS} pairs of {min(SUBSET, n // 2)} images for KID",
            "parts": f"{SPLITS} for the inception score",
            "seed": seed,
        }
        fid = frechet_distance(a, b) if n > FEATURES else None
        return InceptionNumbers(fid, *kid, *score, protocol, left_out)


def _extractor_class() -> Any:
    """torch-fidelity's class; what it imports may fail in its own ways, as torchvision beside another torch does."""
    try:
        return require("torch_fidelity.feature_extractor_inceptionv3", "fidelity").FeatureExtractorInceptionV3
    except MissingExtraError:
        raise
    except Exception as error:
        said = str(error).partition("\n")[0]
        raise MissingExtraError(f"torch-fidelity cannot be imported: {type(error).__name__}: {said}") from error
