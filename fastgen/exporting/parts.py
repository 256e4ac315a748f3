"""What of a model can be exported: its parts, their inputs and their output, by name."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..conditions import Classes, kind_said
from ..models import AutoregressiveModel, LatentModel, Model, MultiScale
from ..models.model import DecodingModel
from ..models.networks import Decoder, Encoder

PARTS = ("generator", "decoder", "encoder", "classifier")
"""Their names; of a model that has several, the first is exported where nobody says which."""


class Named(NamedTuple):
    """An input or output: shape with "N" for the batch, dtype, and what it is, in words."""

    shape: tuple[int | str, ...]
    dtype: torch.dtype
    what: str

    def __str__(self) -> str:
        shape = ", ".join(map(str, self.shape)) + "," * (len(self.shape) == 1)
        return f"({shape}) {dtype_name(self.dtype)}: {self.what}"


class Part(NamedTuple):
    """A part of a model: ``method`` of the model computes ``output`` from ``inputs``, each by its name."""

    name: str
    method: str
    inputs: Mapping[str, Named]
    output: tuple[str, Named]

    def of(self, model: nn.Module) -> nn.Module:
        """The part of ``model`` as a module, whose forward takes the inputs by their names."""
        return FORWARDS[tuple(self.inputs)](model, self.method)

    def example(self, model: Any, n: int, seed: int) -> tuple[Tensor, ...]:
        """Inputs of ``n`` images: codes as the model draws them, or else normal; values and labels of every kind."""
        given, generator = [], torch.Generator().manual_seed(seed)
        for name, (shape, dtype, _) in self.inputs.items():
            size = (n, *shape[1:])
            if name == "labels":
                given.append(torch.arange(n) % model.classes)
            elif name == "values":
                given.append(torch.randint(model.levels, size, generator=generator).to(dtype))  # type: ignore[arg-type]
            elif hasattr(model, "draw_codes"):
                given.append(model.draw_codes(n, seed).to(dtype))
            else:
                given.append(torch.randn(size, generator=generator, dtype=dtype))  # type: ignore[arg-type]
        return tuple(given)


def parts_of(model: Any) -> dict[str, Part]:
    """The parts of a model that can be exported, by name.

    Raises:
        TypeError: it is no model of fastgen's.
        ValueError: it has none; it is told something other than a class.
    """
    if not isinstance(model, Model):
        raise TypeError(f"model: expected a model of fastgen.models, got {type(model).__name__}")
    kind, name = kind_said(model), type(model).__name__
    if isinstance(model, AutoregressiveModel | MultiScale):
        raise ValueError(
            f"model: expected one with a {_any_of(PARTS)}, got {name}, which draws an image value by value, each from"
            " those before it; fastgen sample RUN --out DRAWN.npy draws as many images as are wanted"
        )
    if kind is not None and not isinstance(kind, Classes):
        raise ValueError(f"model: expected one that is told a class or nothing, got {name}, which is told {kind}")
    dtype, image = next(model.parameters()).dtype, ("N", model.in_channels, *model.sides)
    pixels = torch.uint8 if model.levels <= 256 else torch.int64
    values = {"values": Named(image, pixels, f"integers in [0, {model.levels - 1}]")}
    labels = {} if model.classes is None else {"labels": Named(("N",), torch.int64, f"in [0, {model.classes - 1}]")}
    found = {}
    if isinstance(model, DecodingModel):
        layout = f", {model.layout}" if hasattr(model, "layout") else ""
        prior = _prior(model)
        told = "" if prior is None else f"; its prior is {prior}"
        z = Named(("N", model.latent), dtype, f"a code{layout}{told}")
        drawn = Named(image, dtype, f"in [0, {model.levels - 1}]")
        way = "generator" if hasattr(model, "generator") else "decoder"
        found[way] = Part(way, "decode", {"z": z, **(labels if _is_told(model, way) else {})}, ("image", drawn))
        if isinstance(model, LatentModel):
            read = {**values, **(labels if _is_told(model, "encoder") else {})}
            found["encoder"] = Part("encoder", "encode", read, ("code", z))
    if hasattr(model, "logits"):
        logits = Named(("N", model.classes or 1), dtype, "of a softmax over the classes")
        found["classifier"] = Part("classifier", "logits", values, ("logits", logits))
    if not found:
        raise ValueError(f"model: expected one with a {_any_of(PARTS)}, got {name}")
    return found


def _prior(model: Any) -> str | None:
    """What codes are drawn from, in words: all that somebody needs who draws them elsewhere."""
    if hasattr(model, "layout"):
        return "uniform in (−1, 1), of categories each as likely"
    if getattr(model, "prior", None) == "uniform":
        return "uniform in (−1.7321, 1.7321), of variance 1"
    prior = getattr(model, "prior", "normal" if hasattr(model, "sample") else None)
    prior = getattr(model, "p_z", prior)
    return None if prior is None else str(prior)


def dtype_name(dtype: torch.dtype) -> str:
    """As "float32"."""
    return str(dtype).removeprefix("torch.")


def _any_of(words: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _is_told(model: Any, part: str) -> bool:
    """Whether a part of a model with classes reads them: of an adversarial autoencoder the prior may be told alone."""
    network = getattr(model, part, None)
    return not (isinstance(network, Encoder | Decoder) and network.classes is None)


class _Forward(nn.Module):
    def __init__(self, model: nn.Module, method: str) -> None:
        super().__init__()
        self.model, self.method = model, method


class _OfCodes(_Forward):
    def forward(self, z: Tensor) -> Tensor:
        return getattr(self.model, self.method)(z)


class _OfCodesAndLabels(_Forward):
    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return getattr(self.model, self.method)(z, _there(labels, self.model))


class _OfValues(_Forward):
    def forward(self, values: Tensor) -> Tensor:
        return getattr(self.model, self.method)(values)


class _OfValuesAndLabels(_Forward):
    def forward(self, values: Tensor, labels: Tensor) -> Tensor:
        return getattr(self.model, self.method)(values, _there(labels, self.model))


def _there(labels: Tensor, model: Any) -> Tensor:
    """Labels, looked up in a table of all that there are: of others every runtime says that the index is out of range.

    One-hot vectors of such labels are zeros in a program, an image of no class, and no error. A negative index would
    count from the end, so it is made one that there is not.
    """
    table = torch.arange(model.classes, device=labels.device)
    return table[torch.where(labels < 0, model.classes, labels)]


FORWARDS: dict[tuple[str, ...], type[_Forward]] = {
    ("z",): _OfCodes,
    ("z", "labels"): _OfCodesAndLabels,
    ("values",): _OfValues,
    ("values", "labels"): _OfValuesAndLabels,
}
"""A program's inputs are called as the arguments of the forward that it was exported from."""
