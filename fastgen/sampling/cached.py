"""Cached sampling: every feature is computed once per image instead of once per pixel, and the images stay the same.

The walk has two clocks. What a feature owes to the rows above is computed when its row begins, for the whole row in one
matrix product. What it owes to its own row is one matrix product per pixel, over a window of the row that lies
contiguous in memory, so nothing is copied. A model says in ``incremental`` how it is built of these two, much as it
says in ``forward`` how it is built of convolutions::

    def incremental(self, plan, x, labels=None):
        ...
        return params

    y = plan.rows(weight, x, addend)      # a convolution over complete rows
    y = plan.pixels(weight, x, addend)    # a causal convolution, up to the current pixel
    y = plan.gate(x)                      # tanh(a)·σ(b)
    y = plan.relu(x)

Binding a plan turns it into flat lists of calls, one for a row and one for each column, on buffers and views that are
made once: at a batch of one, the time goes to calls, not to arithmetic. Ramachandran et al. 2017, arXiv:1704.06001, do
the same for a fixed graph.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ..nn import MaskedConv2d
from .sampler import Engine, Sampler

Call = Callable[[], object]
Clock = Literal["row", "pixel"]
Bind = Callable[[int | None], Iterable[Call]]  # the calls of a step at column c, or for the whole row (None)


class CachedSampler(Sampler):
    """Computes each feature once. Takes models that describe themselves in ``incremental``.

    See :class:`~fastgen.sampling.sampler.Sampler` for arguments and methods. Weights are read anew at each call, so
    changed parameters are never missed.
    """

    def _engine(self, n: int, labels: Tensor | None) -> Engine:
        device, dtype = self._like()
        C, _, W = self.shape
        plan = Plan(n, C, W, device, dtype)
        plan.bind(self.model.incremental(plan, plan.image, labels))  # type: ignore[operator]
        return plan


class Feature:
    """One layer's output at the current row, and as many rows above as a later layer reads.

    The buffer is (above + 1, N, margin + columns + margin, channels), channels innermost, the current row last; margins
    and rows above the image are zeros, as a convolution's padding is. A feature on the "row" clock is complete when its
    row begins, one on the "pixel" clock fills up from the left. If nobody reads a pixel's neighbours, there is one
    column for all.
    """

    def __init__(self, channels: int, clock: Clock) -> None:
        self.channels = channels
        self.clock = clock
        self.above = 0
        self.margin = 0

    def reserve(self, above: int, margin: int) -> None:
        """A later layer reads ``above`` rows above the current one, and ``margin`` columns to either side."""
        self.above = max(self.above, above)
        self.margin = max(self.margin, margin)

    def allocate(self, n: int, width: int, like: dict[str, Any]) -> None:
        self.columns = width if self.clock == "row" or self.above or self.margin else 1
        shape = (self.above + 1, n, self.columns + 2 * self.margin, self.channels)
        self.buffer = torch.zeros(shape, **like)

    def next_row(self) -> Iterator[Call]:
        for above in range(self.above):
            yield partial(self.buffer[above].copy_, self.buffer[above + 1])

    def at(self, c: int | None) -> Tensor:
        """The pixel (N, channels) in column ``c``, or the current row (N, W, channels) for None."""
        row = self.buffer[-1, :, self.margin : self.margin + self.columns]
        return row if c is None else row[:, min(c, self.columns - 1)]

    def window(self, c: int, taps: int) -> Tensor:
        """The last ``taps`` pixels of the current row up to column ``c``, side by side: (N, taps·channels)."""
        end = self.margin + min(c, self.columns - 1) + 1
        return self.buffer[-1, :, end - taps : end].view(-1, taps * self.channels)

    def patches(self, KH: int, KW: int) -> Tensor:
        """What a KH×KW kernel sees of the last KH complete rows: (N, W, KH, KW, channels), overlapping."""
        last = self.above + (self.clock == "row")
        left = self.margin - KW // 2
        rows = self.buffer[last - KH : last, :, left : left + self.columns + KW - 1]
        return rows.unfold(2, KW, 1).permute(1, 2, 0, 4, 3)


class Plan:
    """A model's incremental evaluation: first described, then bound to buffers, then walked (:class:`Engine`)."""

    def __init__(self, n: int, channels: int, width: int, device: torch.device, dtype: torch.dtype) -> None:
        self.n = n
        self.width = width
        self._like = {"device": device, "dtype": dtype}
        self._features: list[Feature] = []
        self._steps: list[tuple[Clock, Bind]] = []
        self.image = self._feature(channels, "pixel")

    def rows(self, weight: Tensor, x: Feature, *addends: Tensor | None) -> Feature:
        """Convolve the last KH complete rows of ``x``: those above the current one, with it if ``x`` has it already.

        Args:
            weight: (O, I, KH, KW), KW odd.
            x: what to convolve, I channels.
            addends: biases to add, each (O,), or (N, O) where images differ, or None.
        """
        O, _, KH, KW = weight.shape
        x.reserve(above=KH - (x.clock == "row"), margin=KW // 2)
        y = self._feature(O, "row")
        packed = weight.permute(2, 3, 1, 0).reshape(-1, O)
        bias = sum((addend for addend in addends if addend is not None), start=weight.new_zeros(O))
        bias = bias if bias.dim() == 1 else bias.repeat_interleave(self.width, dim=0)

        def bind(_: int | None) -> Iterator[Call]:
            patches, row = x.patches(KH, KW), y.at(None)
            out = row if row.is_contiguous() else row.contiguous()
            if not patches.is_contiguous():
                overlapping, patches = patches, patches.contiguous()
                yield partial(patches.copy_, overlapping)
            yield partial(torch.addmm, bias, patches.view(-1, packed.shape[0]), packed, out=out.view(-1, O))
            if out is not row:
                yield partial(row.copy_, out)

        return self._step(y, bind)

    def pixels(self, weight: Tensor, x: Feature, addend: Tensor | Feature | None) -> Feature:
        """Convolve the current row of ``x`` up to the pixel: the live taps of a masked 1×KW convolution.

        Args:
            weight: (O, I, 1, KW), KW odd, zero at dead taps.
            x: what to convolve, I channels.
            addend: a bias (O,) or None; or a feature on the row clock, such as what the rows above contribute.
        """
        O, I, _, KW = weight.shape
        taps = KW // 2 + 1
        x.reserve(above=0, margin=KW // 2)
        y = self._feature(O, "pixel")
        packed = weight[:, :, 0, :taps].permute(2, 1, 0).reshape(taps * I, O)
        bias = weight.new_zeros(O) if addend is None else addend

        def bind(c: int | None) -> Iterator[Call]:
            assert c is not None
            added = bias.at(c) if isinstance(bias, Feature) else bias
            yield partial(torch.addmm, added, x.window(c, taps), packed, out=y.at(c))

        return self._step(y, bind)

    def masked(self, layer: MaskedConv2d, x: Feature, residual: Feature | None = None) -> Feature:
        """A masked convolution as a whole: its rows above, its own row, its bias, activation and residual."""
        activations = {"none": lambda y: y, "relu": self.relu, "gated": self.gate}
        if layer.activation not in activations:
            raise ValueError(f"layer: expected an activation of {', '.join(activations)}, got {layer.activation}")
        weight, middle = layer.live_weight(), layer.kernel_size[0] // 2
        addend = self.rows(weight[:, :, :middle], x, layer.bias) if middle else layer.bias
        y = activations[layer.activation](self.pixels(weight[:, :, middle : middle + 1], x, addend))
        return y if residual is None else self.add(y, residual)

    def gate(self, x: Feature) -> Feature:
        """The gate tanh(a)·σ(b), where x = [a, b] along channels."""
        C = x.channels // 2
        y, s = self._feature(C, x.clock), self._feature(C, x.clock)
        return self._step(y, lambda c: (
            partial(torch.tanh, x.at(c)[..., :C], out=y.at(c)),
            partial(torch.sigmoid, x.at(c)[..., C:], out=s.at(c)),
            partial(y.at(c).mul_, s.at(c)),
        ))  # fmt: skip

    def relu(self, x: Feature) -> Feature:
        y = self._feature(x.channels, x.clock)
        return self._step(y, lambda c: [partial(torch.clamp_min, x.at(c), 0, out=y.at(c))])

    def add(self, a: Feature, b: Feature) -> Feature:
        y = self._feature(a.channels, "row" if a.clock == b.clock == "row" else "pixel")
        return self._step(y, lambda c: [partial(torch.add, a.at(c), b.at(c), out=y.at(c))])

    def bind(self, params: Feature) -> None:
        """Allocate the buffers and turn the description into calls; ``params`` is what :meth:`pixel` answers with."""
        W = self.width
        for feature in self._features:
            feature.allocate(self.n, W, self._like)
        self._params = [params.at(c) for c in range(W)]
        self._image = [self.image.at(c) for c in range(W)]
        self._next_row = [call for feature in self._features for call in feature.next_row()]
        self._row = [call for clock, bind in self._steps if clock == "row" for call in bind(None)]
        self._pixel = [[call for clock, bind in self._steps if clock == "pixel" for call in bind(c)] for c in range(W)]

    def row(self, r: int) -> None:
        if r > 0:
            for call in self._next_row:
                call()
        for call in self._row:
            call()

    def pixel(self, c: int, k: int) -> Tensor:
        for call in self._pixel[c]:
            call()
        params = self._params[c]
        return params.chunk(self.image.channels, dim=1)[k]

    def reveal(self, c: int, x: Tensor) -> None:
        self._image[c].copy_(x)

    def _feature(self, channels: int, clock: Clock) -> Feature:
        self._features.append(Feature(channels, clock))
        return self._features[-1]

    def _step(self, y: Feature, bind: Bind) -> Feature:
        self._steps.append((y.clock, bind))
        return y
