"""Complete models, one file each, with the paper at the top."""

from typing import Any

from .._checks import check_option
from .adversarial import AdversarialModel, AdversarialPair
from .adversarial_autoencoder import AdversarialAutoencoder
from .autoencoder import Autoencoder
from .autoregressive import AutoregressiveModel
from .began import BEGAN, Balance
from .classifier import Classifier
from .dcgan import DCGAN
from .game import Game
from .gan import GAN
from .gated_pixelcnn import GatedPixelCNN
from .image_gpt import ImageGPT
from .infogan import InfoGAN
from .model import DecodingModel, LatentModel, Model
from .multi_scale import MultiScale
from .pixel_rnn import DiagonalBiLSTM, RowLSTM
from .pixelcnn import PixelCNN
from .pixelcnnpp import PixelCNNPP
from .pixelsnail import PixelSNAIL
from .resnet_gan import ResNetGAN
from .vae import VAE
from .vqvae import VQVAE

__all__ = [
    "BEGAN",
    "DCGAN",
    "GAN",
    "NAMES",
    "VAE",
    "VQVAE",
    "AdversarialAutoencoder",
    "AdversarialModel",
    "AdversarialPair",
    "Autoencoder",
    "AutoregressiveModel",
    "Balance",
    "Classifier",
    "DecodingModel",
    "DiagonalBiLSTM",
    "Game",
    "GatedPixelCNN",
    "ImageGPT",
    "InfoGAN",
    "LatentModel",
    "Model",
    "MultiScale",
    "PixelCNN",
    "PixelCNNPP",
    "PixelSNAIL",
    "ResNetGAN",
    "RowLSTM",
    "build",
]

NAMES: dict[str, type[Model]] = {
    "pixelcnn": PixelCNN,
    "gated-pixelcnn": GatedPixelCNN,
    "row-lstm": RowLSTM,
    "diagonal-bilstm": DiagonalBiLSTM,
    "pixelcnn++": PixelCNNPP,
    "pixelsnail": PixelSNAIL,
    "image-gpt": ImageGPT,
    "multi-scale": MultiScale,
    "autoencoder": Autoencoder,
    "vae": VAE,
    "vqvae": VQVAE,
    "classifier": Classifier,
    "gan": GAN,
    "dcgan": DCGAN,
    "resnet-gan": ResNetGAN,
    "began": BEGAN,
    "infogan": InfoGAN,
    "adversarial-autoencoder": AdversarialAutoencoder,
}
"""The name of every model, as the command line has it."""


def build(name: str, **config: Any) -> Any:
    """The model called ``name``, with its constructor's arguments; a missing one has the paper's value.

    Raises:
        ValueError: no model is called so, or an argument's value does not fit.
        TypeError: the model has no such argument.
    """
    return NAMES[check_option("name", name, list(NAMES))](**config)
