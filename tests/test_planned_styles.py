"""Models of others, in the styles of public code: drawn exactly in float32, and refused when they see themselves."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen import sampling
from fastgen.distributions import Bernoulli, Categorical, Distribution
from foreign import CroppingGatedPixelCNN, classic_pixelcnn
from foreign_attention import GPT, MADE, STYLES, Axial, Encoder, Local, PixelSnail, SequenceFirst, WaveNet
from test_planned_attention import integers

Made = tuple[nn.Module, Distribution, tuple[int, int, int]]
#: Of an image's size, a model, the law of its values, and the shape of its images.
MODELS: dict[str, Callable[[tuple[int, int]], Made]] = {
    "PixelCNN": lambda size: (classic_pixelcnn(), Categorical(3), (1, *size)),
    "Gated PixelCNN": lambda size: (CroppingGatedPixelCNN(), Bernoulli(), (1, *size)),
    "PixelSNAIL, a background map": lambda size: (PixelSnail(size), Categorical(3), (1, *size)),
    **{
        f"GPT, {style}": lambda size, style=style: (GPT(size, style), Categorical(3), (1, *size))  # type: ignore[misc]
        for style in STYLES
    },
    "GPT, the sequence first": lambda size: (SequenceFirst(size), Categorical(2), (1, *size)),
    "torch's encoder": lambda size: (Encoder(size), Bernoulli(), (1, *size)),
    **{
        f"local attention, {kind}": lambda size, kind=kind: (Local(size, kind), Bernoulli(), (1, *size))  # type: ignore[misc]
        for kind in ("last", "near", "strided", "heads")
    },
    "axial attention": lambda size: (Axial(size), Bernoulli(), (1, *size)),
    "MADE": lambda size: (MADE(size), Bernoulli(), (1, *size)),
    "WaveNet": lambda size: (WaveNet(), Categorical(4), (1, 1, size[0] * size[1])),
}


class Unshifted(nn.Module):
    """A model moved by one place, so that every pixel sees itself."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(self.model(x), (0, 1))[..., 1:]


@pytest.mark.parametrize("size", [(4, 5), (3, 3)])
@pytest.mark.parametrize("name", MODELS)
def test_it_is_exact(name: str, size: tuple[int, int]) -> None:
    """In float32, one image and five: the same images, and parameters that agree with the model's own."""
    torch.manual_seed(0)
    model, law, shape = MODELS[name](size)
    sampler = sampling.compile(model.eval(), shape, law, integers)
    for n in (1, 5):
        found = sampling.verify(sampler, n)
        assert found.same, f"{name}: {found}"


@pytest.mark.parametrize("name", MODELS)
def test_one_that_sees_itself_is_refused(name: str) -> None:
    torch.manual_seed(0)
    model, law, shape = MODELS[name]((4, 5))
    with pytest.raises(sampling.UnsupportedModelError, match=r"reads \(r.*depend on (pixel \(|the pixel)"):
        sampling.compile(Unshifted(model).eval(), shape, law, integers)
