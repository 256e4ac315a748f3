"""What this machine can do at best, measured beside the cases: copies, and products of matrices.

The floor of a case is the time that its least traffic takes as a plain copy of that size, or its operations at the rate
of torch's own product of large matrices in the precision the case multiplies in, whichever is longer.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from environment import precision
from timing import Timer

#: Bytes that a copy for the roof itself moves: far more than any cache holds.
LARGE = {"cpu": 2**28, "cuda": 2**31}


class Ceilings:
    """Measured when first asked for, then kept.

    Args:
        timer: of the device.
        device: "cpu" or "cuda".
        quick: small sizes, whose numbers mean nothing.
    """

    def __init__(self, timer: Timer, device: str, quick: bool = False) -> None:
        self.timer = timer
        self.device = device
        self.turns, self.seconds = (2, 0.001) if quick else (7, 0.02)
        self.large = 2**22 if quick else LARGE[device]
        self.size = 256 if quick else {"cpu": 2048, "cuda": 8192}[device]
        self._copies: dict[int, float] = {}
        self._rates: dict[str, float] = {}

    def copy_seconds(self, nbytes: int) -> float:
        """The shortest time for a copy that moves ``nbytes``, half of them read and half written."""
        if nbytes not in self._copies:
            source = torch.ones(max(1, nbytes // 8), device=self.device)  # float32: 4 bytes read, 4 written
            target = torch.empty_like(source)
            self._copies[nbytes] = self._best(lambda: target.copy_(source))
        return self._copies[nbytes]

    def rate(self, unit: str) -> float:
        """FLOP/s of a product of large matrices: "float32" (IEEE), "tf32", "float64", "bfloat16" or "float16"."""
        if unit not in self._rates:
            dtype = torch.float32 if unit == "tf32" else getattr(torch, unit)
            a, b = (torch.randn(self.size, self.size, device=self.device).to(dtype) for _ in range(2))
            out = torch.empty_like(a)
            with _products("tf32" if unit == "tf32" else "ieee") if self.device == "cuda" else nullcontext():
                self._rates[unit] = 2 * self.size**3 / self._best(lambda: torch.mm(a, b, out=out))
        return self._rates[unit]

    def unit(self, kind: str, dtype: torch.dtype) -> str:
        """The unit of :meth:`rate` for work of a kind in a dtype.

        Args:
            kind: "conv" or "matmul", products in ``dtype`` at the precision that torch's flags allow; "vector", scalar
                arithmetic, which is float32 (float64) inside whatever the dtype.
            dtype: of the case.
        """
        if kind == "vector":
            return "float64" if dtype == torch.float64 else "float32"
        if dtype == torch.float32 and self.device == "cuda" and precision(kind) == "tf32":
            return "tf32"
        return str(dtype).removeprefix("torch.")

    def report(self) -> dict[str, Any]:
        """Everything measured, for JSON; begins with a copy larger than any cache."""
        self.copy_seconds(self.large)
        return {
            "copy_gb_per_s": {str(n): round(1e-9 * n / s, 1) for n, s in sorted(self._copies.items())},
            "product_tflop_per_s": {unit: round(1e-12 * rate, 3) for unit, rate in sorted(self._rates.items())},
            "product_size": self.size,
        }

    def _best(self, run: Any) -> float:
        pace = self.timer.prepare(run, self.seconds)
        return min(self.timer.turn(run, pace, self.seconds) for _ in range(self.turns))


@contextmanager
def _products(precision: str) -> Iterator[None]:
    """Inside, CUDA multiplies float32 matrices in this precision; after it, as before."""
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = precision
    try:
        yield
    finally:
        matmul.fp32_precision = before
