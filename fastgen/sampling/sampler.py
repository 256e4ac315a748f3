"""The walk that every sampler takes: pixel by pixel in raster order, colour by colour."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .._checks import check_finite, check_floating, check_instance, check_integer, check_numbers, check_values
from .._philox import uniforms as philox_uniforms
from .._shadow import uncast
from ..conditions import (
    AnyCondition,
    Classes,
    Condition,
    Kinds,
    Labels,
    apply,
    as_condition,
    batch_sizes,
    described,
    named,
    told,
)  # fmt: skip
from ..distributions import check_temperature
from .arguments import batch_size, check_distribution, check_shape, image_shape, known_values
from .inputs import Inputs, ToInput, dtype_and_device_of, inputs_of
from .precision import beyond
from .told import kind_told, needs_condition

Progress = Callable[[int, int], object]
Choose = Callable[[Tensor, Tensor, int, int, int], Tensor]


class Engine(Protocol):
    """Evaluates a model along the walk, from what was revealed to it and nothing else."""

    def draws(self) -> Iterator[tuple[int, int, int]]:
        """The walk: every value (r, c, k), row, column and colour, so that rows are finished from the top."""

    def params(self) -> Tensor:
        """Parameters of the value that the walk is at: (N, P / C), or all (N, P) where a colour reads all."""

    def reveal(self, x: Tensor) -> None:
        """The pixel's input (N, C·k). Colours not chosen yet hold a placeholder, which no parameter may depend on."""


class Sampler:
    """Draws images from an autoregressive model, and walks given images to show what it saw.

    Args:
        model: maps inputs (N, C·k, H, W), and a condition of N examples if it takes one, to parameters (N, P, H, W).
        shape: (C, H, W) of one image.
        distribution: of a pixel value, see ``fastgen.distributions``; by default ``model.distribution``.
        to_input: what the model reads for a value, as it was trained: "[-1, 1]", "[0, 1]", "[0, 255]", "integers" (as
            they are), "one-hot" (k = levels channels for each colour, those of a colour side by side), a pair
            (mean, std), or an elementwise function. It has to be given, but for a model that says it itself, as
            fastgen's do by ``model.distribution``.
        condition: one example of what ``forward`` takes as its second argument: an integer for labels, floating point
            (D,) for a vector, (C', H', W') for an image or a feature map, or a dict of these by name; or its kind, as
            in ``fastgen.conditions``. Only its shape and dtype count. Not needed for labels, nor for a model that says
            it itself by ``condition_kind``.

    Attributes:
        condition_kind: what a condition has to be; labels, where nobody says.
    """

    def __init__(
        self,
        model: nn.Module,
        shape: tuple[int, int, int],
        distribution: Any = None,
        to_input: ToInput | None = None,
        *,
        condition: AnyCondition | Kinds | None = None,
    ) -> None:
        check_instance("model", model, nn.Module, "a torch.nn.Module")
        shape = image_shape(shape)
        self.model = model
        self.shape: tuple[int, int, int] = shape
        self.distribution: Any = distribution if distribution is not None else getattr(model, "distribution", None)
        check_distribution(self.distribution, model)
        self.condition_kind: Kinds = kind_told(model, condition)
        channels = getattr(model, "in_channels", shape[0])
        widens = callable(to_input) or (isinstance(to_input, str) and to_input == "one-hot")
        if not widens and channels != shape[0]:
            raise ValueError(f"shape: expected {channels} channels to fit the model, got {shape}")
        self.to_input: Inputs = inputs_of(model, shape[0], self.distribution, to_input)
        if getattr(model, "in_channels", self.in_channels) != self.in_channels:
            raise ValueError(
                f"to_input: expected inputs of {channels} channels to fit the model, got {self.in_channels}, "
                f"{self.to_input} for {shape[0]} colours"
            )

    @property
    def in_channels(self) -> int:
        """C·k, the channels that the model reads."""
        return self.shape[0] * self.to_input.channels

    @property
    def couples_colors(self) -> bool:
        """Whether the distribution draws a colour from all of its pixel's parameters, and what was drawn before it."""
        return bool(getattr(self.distribution, "couples_colors", False))

    @property
    def uniforms_shape(self) -> tuple[int, int, int]:
        """(C·m, H, W) of the uniforms of one image: m for each value."""
        C, H, W = self.shape
        return C * getattr(self.distribution, "uniforms_per_value", 1), H, W

    def __repr__(self) -> str:
        name, model = type(self).__name__, type(self.model).__name__
        return f"{name}({model}, {self.shape}, {self.distribution!r}, to_input={str(self.to_input)!r})"

    def sample(
        self,
        n: int | None = None,
        *,
        seed: int | None = None,
        uniforms: Tensor | None = None,
        temperature: float = 1.0,
        labels: Labels | None = None,
        condition: AnyCondition | None = None,
        known: Tensor | None = None,
        known_mask: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Draw images.

        Args:
            n: how many; by default as many as ``uniforms``, ``labels``, ``condition`` or ``known`` hold, else 1.
            seed: image i depends on (seed, i) alone. With neither seed nor uniforms, torch's generator is used.
            uniforms: (N, C, H, W) in [0, 1), or (N, C·m, H, W) for a distribution that wants m for each value: the same
                uniforms give the same images.
            temperature: divides the logits.
            labels: integers (N,), a tensor, an array or a list, or one for all; for a model with classes.
            condition: what the model is told: labels as above, floating point (N, D) or (N, C', H', W'), which is cast
                to the model's dtype, or a dict of these; without N, one example for all. Image i depends on its own.
            known: integers (N, C, H, W) or (C, H, W): what to keep where ``known_mask`` is true.
            known_mask: bool, broadcastable to (N, C, H, W), such as (H, W).
            progress: called with (rows done, rows in all) after each row.

        Returns:
            int64 (N, C, H, W).

        Raises:
            ValueError: a shape or value does not fit, or the model's parameters are not finite.
            TypeError: a dtype does not fit.
        """
        begun = self._begin(n, seed, uniforms, temperature, labels, condition, known, known_mask)
        if progress is None:
            *_, values = self._draw(*begun, False)
            return values
        rows = self._draw(*begun, True)
        for done in range(self.shape[1]):
            values = next(rows)
            progress(done + 1, self.shape[1])
        return values

    def stream(
        self,
        n: int | None = None,
        *,
        seed: int | None = None,
        uniforms: Tensor | None = None,
        temperature: float = 1.0,
        labels: Labels | None = None,
        condition: AnyCondition | None = None,
        known: Tensor | None = None,
        known_mask: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Draw images row by row: ``sample``, which yields after each row.

        Yields:
            int64 (N, C, H, W), always the same tensor; the r-th time its first r rows are drawn, the others are zeros.
        """
        return self._draw(*self._begin(n, seed, uniforms, temperature, labels, condition, known, known_mask), True)

    def forced(self, values: Tensor, labels: Labels | None = None, *, condition: AnyCondition | None = None) -> Tensor:
        """Walk given images along the sampling path, revealing them value by value.

        What a value's parameters are is recorded before the value is revealed. So agreement with one full forward
        proves both that the path computes the model and that the model is causal.

        Args:
            values: integers (N, C, H, W) in [0, levels).
            labels: int64 (N,), for a model with classes.
            condition: as ``sample`` takes it.

        Returns:
            (N, P, H, W), as ``model(to_input(values), condition)`` would be.
        """
        return self._see(*self._told_images(values, labels, condition))

    def walk(
        self,
        choose: Choose,
        n: int | None = None,
        *,
        labels: Labels | None = None,
        condition: AnyCondition | None = None,
    ) -> Tensor:
        """Images whose values somebody else chooses, one after the other, each by its parameters: as a decoder does.

        Args:
            choose: (params, pixel, k, r, c) → values int64 (N,): of colour ``k`` of the pixel in row ``r``, column
                ``c``, by its parameters (N, P / C), or all of the pixel's, (N, P), where colours are coupled.
                ``pixel``, int64 (N, C, 1, 1), has the values of the colours before.
            n: how many images; by default as many as ``labels`` or ``condition`` hold, else 1.
            labels: int64 (N,), for a model with classes.
            condition: as ``sample`` takes it.

        Returns:
            int64 (N, C, H, W).

        Raises:
            ValueError: the model's parameters are not finite.
            RuntimeError: the plan walks on a slanted front; ``wavefront=False`` compiles one that does not.
        """
        n, told = self._batch(n, labels, condition)
        *_, values = self._walk(n, told, choose)
        return values

    def _begin(
        self,
        n: int | None,
        seed: int | None,
        uniforms: Tensor | None,
        temperature: float,
        labels: Labels | None,
        condition: AnyCondition | None,
        known: Tensor | None,
        known_mask: Tensor | None,
    ) -> tuple[int, Condition | None, Tensor, float, tuple[Tensor, Tensor] | None]:
        """Arguments of ``stream``, checked and on the model's device; what is known is (values, which of them)."""
        temperature = check_temperature(temperature)
        if known is not None:
            check_shape("known", known, self.shape)
        if uniforms is not None:
            check_shape("uniforms", uniforms, self.uniforms_shape, batched=True)
            check_floating("uniforms", uniforms)
        each = known if known is None or known.dim() == 4 else None
        n, told = self._batch(n, labels, condition, uniforms=uniforms, known=each)
        uniforms = self._uniforms(n, seed, uniforms)
        kept = known_values(n, known, known_mask, self.shape, self.distribution.levels, self._device)
        return n, told, uniforms, temperature, kept

    def _draw(
        self,
        n: int,
        condition: Condition | None,
        uniforms: Tensor,
        temperature: float,
        known: tuple[Tensor, Tensor] | None,
        by_row: bool,
    ) -> Iterator[Tensor]:
        """``stream`` of checked arguments; without ``by_row`` it may yield as seldom as once, at the end."""
        law, m = self.distribution, self.uniforms_shape[0] // self.shape[0]

        def choose(params: Tensor, pixel: Tensor, k: int, r: int, c: int) -> Tensor:
            params, u = params[:, :, None, None], uniforms[:, :, r : r + 1, c : c + 1]
            if self.couples_colors:
                drawn = law.draw_color(params, u, pixel, k, temperature)[:, 0, 0, 0]
            else:
                drawn = law.draw(params, u[:, k * m : (k + 1) * m], temperature)[:, 0, 0, 0]
            if known is None:
                return drawn
            value, keep = known
            return torch.where(keep[:, k, r, c], value[:, k, r, c], drawn)

        return self._walk(n, condition, choose)

    def _see(self, values: Tensor, condition: Condition | None) -> Tensor:
        """``forced``, its arguments checked and on the model's device."""
        dtype, device = dtype_and_device_of(self.model)
        C, H, W = self.shape
        seen = torch.zeros((len(values), self.distribution.param_channels(C), H, W), dtype=dtype, device=device)
        of_color = seen.unflatten(1, (1 if self.couples_colors else C, -1))

        def choose(params: Tensor, pixel: Tensor, k: int, r: int, c: int) -> Tensor:
            if k < of_color.shape[1]:
                of_color[:, k, :, r, c] = params
            return values[:, k, r, c]

        for _ in self._walk(len(values), condition, choose):
            pass
        return seen

    def _told_images(
        self, values: Tensor, labels: Labels | None, condition: AnyCondition | None
    ) -> tuple[Tensor, Condition | None]:
        """Given images, int64, and what the model is told of them, on its device."""
        check_shape("values", values, self.shape, batched=True)
        check_values(values, self.distribution.levels)
        _, given = self._batch(None, labels, condition, values=values)
        return values.to(self._device, torch.int64), given

    def _batch(
        self, n: int | None, labels: Labels | None, condition: AnyCondition | None, **images: Tensor | None
    ) -> tuple[int, Condition | None]:
        """The batch size that all agree on, 1 if none says; and N conditions on the model's device, in its dtype."""
        n = None if n is None else check_integer("n", n, 1)
        sizes = {name: len(each) for name, each in images.items() if each is not None}
        kind = self.condition_kind
        name, given = told(labels, condition, kind)
        if given is None:
            if not isinstance(kind, Classes) and needs_condition(self.model):
                raise ValueError(f"condition: expected {described(kind)}, which the model is told, got None")
            return batch_size(n, sizes), None
        dtype, device = dtype_and_device_of(self.model)
        given = as_condition(given, None, kind, name=name, dtype=dtype)
        for part, tensor in named(given, name).items():
            check_finite(part, check_numbers(part, tensor))
        each = batch_sizes(given, kind)
        sizes |= {f"{name}[{part!r}]" if isinstance(kind, dict) else name: size for part, size in each.items()}
        n = batch_size(n, sizes)
        given = as_condition(given, n, kind, name=name)
        return n, apply(lambda part: part.to(device).contiguous(), given)

    def _engine(self, n: int, condition: Condition | None) -> Engine:
        raise NotImplementedError

    def _walk(self, n: int, condition: Condition | None, choose: Choose) -> Iterator[Tensor]:
        """Values (N, C, H, W), once for each row; each is what ``choose`` answers.

        It is asked with the value's parameters, its pixel (N, C, 1, 1) with the colours drawn already, and where it
        is: colour, row, column.
        """
        C, H, W = self.shape
        values = torch.zeros((n, C, H, W), dtype=torch.int64, device=self._device)  # users train on it
        with torch.inference_mode(), uncast():
            engine = self._engine(n, condition)
        draws = engine.draws()
        for _ in range(H):
            with torch.inference_mode(), uncast():
                self._finish_row(engine, draws, values, choose)
            yield values

    def _finish_row(
        self, engine: Engine, draws: Iterator[tuple[int, int, int]], values: Tensor, choose: Choose
    ) -> None:
        """Walk on until one more row is finished."""
        rows, finite = [], []
        for r, c, k in draws:
            pixel, params = values[:, :, r : r + 1, c : c + 1], engine.params()
            rows.append(r)
            finite.append(params.isfinite().all())
            pixel[:, k, 0, 0] = choose(params, pixel, k, r, c)
            engine.reveal(self.to_input(pixel)[:, :, 0, 0])
            if (c, k) == (values.shape[3] - 1, values.shape[1] - 1):
                break
        if not torch.stack(finite).all():
            row = min(r for r, fine in zip(rows, finite, strict=True) if not fine)
            hint = beyond(getattr(self, "precision", "float32"))
            raise ValueError(f"model: expected finite parameters, got inf or nan in row {row}{hint}")

    @property
    def _device(self) -> torch.device:
        """Where the model's inputs are."""
        return dtype_and_device_of(self.model)[1]

    def _uniforms(self, n: int, seed: int | None, uniforms: Tensor | None) -> Tensor:
        device = self._device
        if uniforms is None:
            if seed is None:
                return torch.rand((n, *self.uniforms_shape), device=device)
            return philox_uniforms(seed, n, self.uniforms_shape, device=device)
        if seed is not None:
            raise ValueError("seed: expected None together with uniforms, which it would replace, got both")
        if not ((uniforms >= 0) & (uniforms < 1)).all():
            raise ValueError("uniforms: expected numbers in [0, 1), got others")
        return uniforms.to(device)
