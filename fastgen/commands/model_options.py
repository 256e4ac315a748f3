"""Options of ``fastgen train``: those of every model, and one dataclass for each. Their fields are the command line."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from .. import models
from ..data import Dataset, load_for_training
from ..training import Recipe


@dataclass(frozen=True, kw_only=True)
class Train(Recipe):
    """Options of every model."""

    data: str = "digits"
    """digits, mnist, fashion-mnist, binarized-mnist, cifar10; or a folder of images, an .npy or an .npz."""
    data_root: str | None = None
    """Folder of the named data sets' files, as torchvision lays them out; default: FASTGEN_DATA."""
    levels: int | None = None
    """Quantise the images to fewer levels."""
    limit: int | None = None
    """Train on so many images, drawn from all."""
    held_out: Literal["valid", "test"] = "valid"
    """Images to evaluate on after each epoch: the data's validation split, or else a tenth of the training images, so
    that the test split stays unseen; or the test split itself."""
    run: str | None = None
    """Folder of the run; default: runs/MODEL-DATA."""
    resume: bool = False
    """Continue the run in its folder, from its last checkpoint; from the beginning where it has none yet."""
    checkpoint: Literal["last", "best"] = "last"
    """Checkpoint to resume from."""
    samples: int = 36
    """Images to draw after each epoch; 0 draws none."""
    tensorboard: bool = False
    """Also write the metrics and pictures for TensorBoard, into RUN/tensorboard."""
    dry_run: bool = False
    """Say what would happen, compute the first losses, and write nothing."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto is CUDA where there is one."""

    def load_data(self) -> tuple[Dataset, Dataset]:
        """Images to train on, and held-out ones."""
        train, held_out = load_for_training(self.data, root=self.data_root, levels=self.levels, watch=self.held_out)
        return train if self.limit is None else train.subset(self.limit), held_out

    def build(self, name: str, data: Dataset) -> Any:
        """The model called ``name``, as it is before training."""
        return models.build(name, **self.model_config(data))

    def model_config(self, data: Dataset) -> dict[str, Any]:
        """Arguments of the model's constructor."""
        generic = {field.name for field in fields(Train)}
        channels, height, width = data.shape
        config = {"in_channels": channels, "levels": data.levels, "image_size": [height, width]}
        return config | {name: value for name, value in asdict(self).items() if name not in generic}


@dataclass(frozen=True, kw_only=True)
class TrainPixelCNN(Train):
    """PixelCNN, van den Oord et al. 2016, arXiv:1601.06759."""

    channels: int = 64
    """Width h of the residual blocks; their stream has 2h."""
    layers: int = 7
    """Residual blocks."""


@dataclass(frozen=True, kw_only=True)
class TrainGatedPixelCNN(Train):
    """Gated PixelCNN, van den Oord et al. 2016, arXiv:1606.05328."""

    channels: int = 128
    """Width of each stack."""
    layers: int = 15
    """Gated layers after the first."""
    kernel_size: int = 3
    """Of the gated layers."""
    conditional: bool = False
    """Condition on the images' labels."""

    def model_config(self, data: Dataset) -> dict[str, Any]:
        config = super().model_config(data)
        if config.pop("conditional") and data.classes is None:
            raise ValueError(f"conditional: expected data with labels, got {data.name}, which has none")
        return config | {"classes": data.classes if self.conditional else None}


#: The options of every model, by its name on the command line.
MODELS: dict[str, type[Train]] = {"pixelcnn": TrainPixelCNN, "gated-pixelcnn": TrainGatedPixelCNN}
