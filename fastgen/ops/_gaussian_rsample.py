"""What GaussianRSample computes: rsample_kl, seeded by torch's generator."""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch._C import _get_dispatch_mode, _TorchDispatchModeKey
from torch._guards import TracingContext
from torch.autograd import forward_ad

from .._constants import is_exporting
from ._composites import composite
from ._dtypes import check_floating
from ._layouts import is_vectorized
from ._registry import call, is_compiled
from .rsample_kl import checked, drawn_seed, rsample_kl

#: The mode in which graphs are written down.
_PROXY = _TorchDispatchModeKey.PROXY

_DRAWS: WeakKeyDictionary[TracingContext, int] = WeakKeyDictionary()


@composite("gaussian_rsample(Tensor mu, Tensor? logvar) -> (Tensor z, Tensor kl)")
def gaussian_rsample(
    mu: Tensor, logvar: Tensor | None = None, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """``rsample_kl`` with a seed of torch's generator of the device, or of another; of a pair, or of one's halves."""
    if logvar is None:
        _check_halves(mu)
    if generator is None and mu.device.type == "cpu" and _draws_itself():
        if logvar is None:
            z, kl, _ = call(torch.ops.fastgen.rsample_kl_halves.default, mu, _draw())
        else:
            z, kl, _ = call(torch.ops.fastgen.rsample_kl_drawn.default, *checked(mu, logvar), _draw())
        return z, kl
    if logvar is None:
        mu, logvar = mu.chunk(2, dim=1)
    return rsample_kl(mu, logvar, drawn_seed(mu.device, generator))


def _check_halves(h: Tensor) -> None:
    check_floating("mu", h)
    if h.dim() < 2 or h.shape[1] % 2:
        raise ValueError(f"mu: expected shape (N, 2D, *) without logvar, got {tuple(h.shape)}")


def _draws_itself() -> bool:
    """Not in a transform, of which the randomness is asked for, nor in what is written down for other executors."""
    if is_exporting() or is_vectorized() or forward_ad._current_level >= 0 or torch._C._get_tracing_state():
        return False
    return _get_dispatch_mode(_PROXY) is None or is_compiled()


def _draw() -> int:
    """How many there were in the program that is traced; of its own, so that the same program is the same again."""
    context = TracingContext.try_get()
    if context is None:
        return 0
    _DRAWS[context] = _DRAWS.get(context, 0) + 1
    return _DRAWS[context]
