"""What autoregressive models of images share: exact likelihood, sampling, and the checks on what comes in.

p(x) = Π_i p(x_i | x_1 … x_{i−1}),  over pixels in raster order, and within a pixel over its colours
                                                                     van den Oord et al. 2016, arXiv:1601.06759, eq. 1
"""

import math
import threading
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from .._checks import check_dense, check_device, check_finite, check_number, check_option, check_pair, check_values
from ..conditions import AnyCondition, Classes, Labels, arguments, named, told
from ..distributions import Bernoulli, Categorical, DiscretizedLogisticMixture, Distribution
from ..measures import Measure, law
from ..sampling import Sampler
from ..sampling import compile as compile_sampler
from ..sampling.sampler import Progress
from .model import Model, check_positive

Law = Literal["categorical", "logistic-mixture"]
"""What a value is drawn from, in a word."""


SMOOTHED = "smoothed_cross_entropy"
"""What training by smoothed labels minimises."""


class AutoregressiveModel(Model):
    """Base of models whose parameters for a value depend on earlier values only.

    A model defines ``forward(x)`` → parameters (N, P, H, W). One that is told a class, or what it says by
    ``condition_kind``, defines ``forward(x, condition)``: labels int64 (N,), floating point (N, D) or (N, C', H', W'),
    or a dict of these. It is trained, evaluated and sampled on them.

    Attributes:
        distribution: of a value: Bernoulli for 2 levels, Categorical for more; or, of any number, a mixture of
            ``components`` discretised logistics.
        components: logistics of a mixture.
        label_smoothing: ε of the labels that training reads.
        image_size: (H, W) that ``sample`` draws by default, or None. Likelihoods take any size.
        subsampled: K, where every K-th pixel of every K-th row is not drawn but told, by a map of them; or None.
    """

    needs: ClassVar = {"components": {"distribution": ("logistic-mixture",)}}

    distribution: Distribution
    components: int = 10
    label_smoothing: float = 0.0
    subsampled: int | None = None

    def __init__(
        self,
        in_channels: int,
        levels: int,
        classes: int | None,
        image_size: int | tuple[int, int] | None,
        distribution: Law | None = "categorical",
        components: int = 10,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(in_channels, levels, classes, image_size)
        check_positive(components=components)
        if distribution is None:  # a mixture couples three colours, where the network does not
            distribution = "logistic-mixture" if self.in_channels == 3 else "categorical"
        self.components = int(components)
        if check_option("distribution", distribution, get_args(Law)) == "logistic-mixture":
            self.distribution = DiscretizedLogisticMixture(self.components, self.levels)
        else:
            self.distribution = Bernoulli() if levels == 2 else Categorical(levels)
        self.label_smoothing = float(check_number("label_smoothing", label_smoothing, 0, 1))
        if self.label_smoothing and not hasattr(self.distribution, "cross_entropy"):
            raise ValueError(
                f"label_smoothing: expected 0 with the distribution {distribution}, whose levels have an order, got"
                f" {label_smoothing:g}"
            )
        self._samplers: dict[tuple[int, int], Sampler] = {}
        self._lock = threading.RLock()

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, ready for JSON: its ``distribution`` in a word."""
        config = super().config
        if "distribution" in config:
            mixture = isinstance(self.distribution, DiscretizedLogisticMixture)
            config["distribution"] = "logistic-mixture" if mixture else "categorical"
        return config

    @property
    def color_groups(self) -> int:
        """Parts of the channels that masks tell apart at a pixel: one for each colour, where colours are not coupled.

        A mixture of logistics couples them itself, from parameters that know the pixels before alone.
        """
        return 1 if self.distribution.couples_colors else self.in_channels

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles are made without the compiled samplers."""
        return {name: held for name, held in self.__dict__.items() if name not in ("_samplers", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_samplers": {}, "_lock": threading.RLock()})

    def forward(self, x: Tensor, condition: Any = None) -> Tensor:
        raise NotImplementedError

    def to_input(self, values: Tensor) -> Tensor:
        """Values as ``forward`` reads them: ``distribution.to_input``, in the dtype of the parameters."""
        return self.distribution.to_input(values).to(next(self.parameters()).dtype)

    def log_prob(
        self, values: Tensor, labels: Labels | None = None, *, condition: AnyCondition | None = None
    ) -> Tensor:
        """Exact log-likelihood of images, by one forward.

        Args:
            values: integers (N, C, H, W) in [0, levels).
            labels: int64 (N,), for a model with classes.
            condition: for any model that is told one: labels, floating point (N, D) or (N, C', H', W'), or a dict of
                these, as ``condition_kind`` says; without N, one example for all images.

        Returns:
            (N,) nats, differentiable in the model's parameters.

        Raises:
            ValueError: a shape, value, label or condition does not fit.
            TypeError: a dtype does not fit.
        """
        _, given = told(labels, condition, self.condition_kind)
        return self._of_images(self.distribution.log_prob(self._params(values, given), values))

    def _params(self, values: Tensor, given: AnyCondition | None) -> Tensor:
        """Parameters (N, P, H, W) of images that are checked, given a condition that is."""
        check_device("values", check_dense("values", values), "the model", next(self.parameters()))
        if values.dim() != 4 or values.shape[1] != self.in_channels:
            raise ValueError(f"values: expected shape (N, {self.in_channels}, H, W), got {tuple(values.shape)}")
        self._check_pixels("values", values)
        check_values(values, self.levels)
        given = self.check_condition(len(values), given)
        for name, part in named(given).items():
            check_finite(name, part)
        return self(self.to_input(values), *arguments(given))

    def _of_images(self, each: Tensor) -> Tensor:
        """(N, C, H, W), of values → (N,)"""
        if self.subsampled is not None:  # what is given is certain
            each = each.masked_fill(self._given_pixels(each.shape[2:], each.device), 0)
        return each.sum(dim=(1, 2, 3))

    def known_by(self, condition: AnyCondition | None) -> tuple[Tensor, Tensor] | None:
        """The pixels that a condition tells, of a model of images ``subsampled``; None of others.

        Args:
            condition: a map (N, C', H', W') in [−1, 1], or a dict with it as "map"; without N, of one image.

        Returns:
            (values int64 (N, C, H, W), bool (H, W), true where they are told), as ``sample`` takes what is known.
        """
        if self.subsampled is None or condition is None:
            return None
        told = condition["map"] if isinstance(condition, dict) else condition
        small = ((torch.as_tensor(told).double() + 1) * ((self.levels - 1) / 2)).round().to(torch.int64)
        height, width = self.sides
        values = small.repeat_interleave(self.subsampled, -2).repeat_interleave(self.subsampled, -1)
        return values[..., :height, :width], self._given_pixels((height, width), small.device)

    def _given_pixels(self, size: Sequence[int], device: torch.device) -> Tensor:
        mask = torch.zeros(tuple(size), dtype=torch.bool, device=device)
        mask[:: self.subsampled, :: self.subsampled] = True
        return mask

    def losses(  # type: ignore[override]  # the base names its second argument condition
        self,
        values: Tensor,
        labels: Any = None,
        progress: float = 1.0,
        *,
        condition: AnyCondition | None = None,
    ) -> dict[str, Tensor]:
        """What training minimises: {"nats": −log_prob}, (N,) nats per example.

        In training mode with label smoothing, "smoothed_cross_entropy" comes first, which is no likelihood.
        ``labels`` is the condition of a batch, of whatever kind; a model that is told nothing does not read it.
        """
        check_number("progress", progress, 0, 1)
        if labels is not None:
            told(labels, condition, None)  # not both
            condition = labels
        given = None if self.condition_kind is None else condition
        if not (self.training and self.label_smoothing):
            return {"nats": -self.log_prob(values, condition=given)}
        params = self._params(values, given)
        smoothed = self.distribution.cross_entropy(params, values, self.label_smoothing)  # type: ignore[attr-defined]
        nats = -self.distribution.log_prob(params.detach(), values)
        return {SMOOTHED: self._of_images(smoothed), "nats": self._of_images(nats)}

    @property
    def measures(self) -> dict[str, Measure]:
        kind = self.condition_kind
        of_what = law(kind is not None, what="labels" if isinstance(kind, Classes) else "condition")
        if self.subsampled is not None:  # bits/dim would count dimensions that are given
            of_what = of_what.replace("p(x", "p(the other pixels")
        nats = Measure(f"{of_what}, exact", "nats", of_values=self.subsampled is None)
        return {SMOOTHED: smoothed_by(self.label_smoothing), "nats": nats} if self.label_smoothing else {"nats": nats}

    def bits_per_dim(
        self, values: Tensor, labels: Labels | None = None, *, condition: AnyCondition | None = None
    ) -> Tensor:
        """Exact negative log-likelihood, (N,) bits per value: −log_prob / (C·H·W·ln 2)."""
        return -self.log_prob(values, labels, condition=condition) / (math.prod(values.shape[1:]) * math.log(2))

    def sample(
        self,
        n: int | None = None,
        *,
        size: int | tuple[int, int] | None = None,
        labels: Labels | None = None,
        condition: AnyCondition | None = None,
        seed: int | None = None,
        uniforms: Tensor | None = None,
        temperature: float = 1.0,
        known: Tensor | None = None,
        known_mask: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Draw images with the compiled sampler: ``size`` (H, W), by default ``image_size``.

        It is compiled once for each size, and again when weights have changed. The other arguments, the result and the
        errors are those of ``fastgen.sampling.Sampler.sample``.
        """
        size = self.image_size if size is None else check_pair("size", size)
        if size is None:
            raise ValueError("size: expected (H, W), since the model was built without image_size, got None")
        with self._lock:  # threads that draw the first images at once wait for one compilation
            if size not in self._samplers:
                self._samplers[size] = compile_sampler(self, (self.in_channels, *size))
            sampler = self._samplers[size]
        told = self.known_by(condition)
        if told is not None:
            if known is not None or known_mask is not None:
                raise ValueError("known: expected None, since the condition tells the pixels that are known, got some")
            known, known_mask = told
        return sampler.sample(
            n, seed=seed, uniforms=uniforms, temperature=temperature, labels=labels, condition=condition,
            known=known, known_mask=known_mask, progress=progress,
        )  # fmt: skip

    def in_parts(self, params: Tensor) -> Tensor:
        """From channels whose colours are interleaved to one part for each, as the distribution reads them."""
        return params.unflatten(1, (-1, self.color_groups)).transpose(1, 2).flatten(1, 2)

    def _check_pixels(self, name: str, images: Tensor) -> None:
        if 0 in images.shape[2:]:
            raise ValueError(f"{name}: expected images of one pixel or more, got {tuple(images.shape)}")

    def check_input(self, x: Tensor) -> None:
        """Raise unless ``x`` is what ``forward`` reads: floating point, (N, C, H, W)."""
        check_dense("x", x)
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"x: expected shape (N, {self.in_channels}, H, W), got {tuple(x.shape)}")
        self._check_pixels("x", x)
        if not x.is_floating_point():
            raise TypeError(f"x: expected a floating-point tensor, as distribution.to_input(values) is, got {x.dtype}")
        self.check_dtype("x", x)


def smoothed_by(smoothing: float) -> Measure:
    """What a cross-entropy with smoothed labels is."""
    return Measure(f"what training minimises: cross-entropy, {smoothing:g} of each label spread over all levels")
