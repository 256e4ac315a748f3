"""Walker: a causal model's parameters position by position, for whoever decides the values: codecs above all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._checks import check_floating, check_instance
from .._shadow import evaluated, uncast
from ..conditions import AnyCondition, Kinds, Labels, arguments
from ..distributions import Distribution
from .arguments import image_shape
from .compiled_sampler import CompiledSampler, eager
from .inputs import dtype_and_device_of
from .lookups import Lookup
from .precision import Precision, beyond
from .sampler import Engine
from .told import kind_told, needs_condition, says_condition, traced_condition


@dataclass(eq=False)
class Step:
    """One position of the walk.

    Attributes:
        row, column: where it is.
        params: (N, P), what the model says of the position, given all earlier ones.
    """

    row: int
    column: int
    params: Tensor
    _engine: Engine
    _channels: int
    _lookups: list[Lookup]
    _revealed: bool = False
    _over: bool = False

    def reveal(self, values: Tensor) -> None:
        """Say what the model reads at this position from now on.

        Args:
            values: (N, C), floating point, any finite numbers.

        Raises:
            ValueError: another shape, numbers that are not finite, or an embedding has no row for one.
            RuntimeError: the position was revealed before, or its walk has ended.
        """
        if self._revealed:
            raise RuntimeError(f"step: expected one call of reveal at ({self.row}, {self.column}), got a second one")
        if self._over:
            raise RuntimeError(
                f"step: expected reveal(values) at ({self.row}, {self.column}) before its walk ended, got it afterwards"
            )
        expected = (len(self.params), self._channels)
        check_floating("values", values, expected)
        values = values.detach().to(self.params)
        if not bool(values.isfinite().all()):
            raise ValueError(f"values: expected finite numbers at ({self.row}, {self.column}), got inf or nan")
        for lookup in self._lookups:
            lookup.check("values", values, f" at ({self.row}, {self.column})")
        with torch.no_grad(), uncast():
            self._engine.reveal(values)
        self._revealed = True


class Walker:
    """Walks through images or feature maps whose values somebody else decides, all channels of a position at once.

    What a context model of learned image compression needs: for each position in raster order the parameters of its
    values, given those before, which an entropy coder decodes with and answers. The model is planned as for a sampler
    (``fastgen.sampling.compile``), and every feature is computed once.

        walker = fastgen.sampling.Walker(context_model, (192, 16, 16), condition=torch.zeros(384, 16, 16))
        for step in walker.walk(condition=hyper):
            means, scales = step.params.chunk(2, dim=1)
            step.reveal(decode(means, scales))  # (N, 192)

    Args:
        model: maps (N, C, H, W), and a condition of N examples if it takes one, to parameters (N, P, H, W). Those of a
            position may depend on all channels of earlier positions, and on none of its own.
        shape: (C, H, W) of what it reads.
        condition: one example of what ``forward`` takes as its second argument, as ``fastgen.sampling.compile`` has it.
        precision: "float32", or products of "bfloat16" or "float16", see there.
        executor: "native", compiled code where there is some, or "reference".

    Raises:
        UnsupportedModelError: the model is not causal, or does something that cannot be planned.

    Encoder and decoder have to see the same parameters: their bits are the same whatever the batch and the threads, but
    not on other processors or in other versions.
    """

    def __init__(
        self,
        model: nn.Module,
        shape: tuple[int, int, int],
        *,
        condition: AnyCondition | Kinds | None = None,
        precision: Precision = "float32",
        executor: Literal["native", "reference"] = "native",
    ) -> None:
        check_instance("model", model, nn.Module, "a torch.nn.Module")
        C, H, W = self.shape = image_shape(shape)
        told = condition is not None or says_condition(model) or needs_condition(model)
        kind = kind_told(model, condition) if told else None
        dtype, device = dtype_and_device_of(model)
        x = torch.zeros((1, C, H, W), dtype=dtype, device=device)
        with torch.no_grad(), uncast(), evaluated(eager(model)) as twin:
            params = twin(x, *arguments(None if kind is None else traced_condition(kind, 1, dtype, device)))
        if not isinstance(params, Tensor) or params.dim() != 4 or params.shape[2:] != (H, W):
            got = tuple(params.shape) if isinstance(params, Tensor) else type(params).__name__
            raise ValueError(f"model: expected parameters of shape (1, P, {H}, {W}), got {got}")
        self._sampler = CompiledSampler(
            model, (1, H, W), _Elsewhere(params.shape[1]), _channels(C), condition=condition, wavefront=False,
            precision=precision, executor=executor,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"Walker({type(self._sampler.model).__name__}, {self.shape})"

    @property
    def plan(self) -> Any:
        """How the model is evaluated, a ``fastgen.sampling.plan.Plan``."""
        return self._sampler.plan

    def walk(
        self, n: int | None = None, *, labels: Labels | None = None, condition: AnyCondition | None = None
    ) -> Iterator[Step]:
        """The positions, row by row; each has to be revealed before the next.

        Args:
            n: how many images or maps; by default as many as there are conditions, else 1.
            labels: as ``Sampler.sample`` takes them.
            condition: likewise.

        Yields:
            a ``Step`` for each position.

        Raises:
            ValueError: the parameters of a position are not finite.
            RuntimeError: a position was not revealed.
        """
        n, told = self._sampler._batch(n, labels, condition)
        return self._steps(n, told)

    def _steps(self, n: int, told: Any) -> Iterator[Step]:
        with torch.no_grad(), uncast():
            program = self._sampler._program_for(n, told)
            engine = self._sampler._engine_of(program, n, told)
        draws = engine.draws()
        while True:
            with torch.no_grad(), uncast():
                at = next(draws, None)
                if at is None:
                    return
                params = engine.params()
            row, column, _ = at
            if not bool(params.isfinite().all()):
                hint = beyond(self._sampler.precision)
                raise ValueError(f"model: expected finite parameters, got inf or nan at ({row}, {column}){hint}")
            step = Step(row, column, params, engine, self.shape[0], program.lookups)
            try:
                yield step
            finally:  # closed, or gone on with
                step._over = True
            if not step._revealed:
                raise RuntimeError(f"step: expected reveal(values) at ({row}, {column}) before the next, got none")


class _Elsewhere(Distribution):
    """Of values that are decided elsewhere: says how many parameters there are."""

    def __init__(self, params: int) -> None:
        super().__init__(2)
        self.params = params

    def param_channels(self, channels: int) -> int:
        return self.params


def _channels(count: int) -> Any:
    """A mapping of one value to ``count`` channels: what a position is read in."""

    def all_channels(values: Tensor) -> Tensor:
        return values.to(torch.float32).mul(0).expand(-1, count, -1, -1)  # what is read is revealed, and no value's

    return all_channels
