"""The one tolerance rule, and the inputs that every op is tested on."""

from collections.abc import Callable

import torch
from torch import Tensor

#: What a sampler promises about the parameters along its path, in float32, against one full forward.
LOGITS_AGREE = 1e-4

#: What a run on two processes promises about losses and weights, in float32, against one process, after a few epochs.
PROCESSES_AGREE = 1e-5

#: How many times what a formula's roundings do to its results, as tests/rounding.py draws it, an implementation may be
#: off: the moves are drawn only a few times, and some algorithms add other terms than the formula's (Winograd's).
ROUNDINGS = 2

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def assert_parity(actual: Tensor, eager: Tensor, exact: Tensor, moved: Callable[[], float] | None = None) -> None:
    """Hold ``actual`` to the accuracy of eager torch, or to what the formula's own roundings come to.

    The error of every element against ``exact`` may be at most twice the largest error that ``eager`` makes, plus one
    rounding of the largest value (sixteen in float64, where ``exact`` is no better than ``eager``). Where ``eager`` was
    lucky, or adds in another order than ``actual``, ``moved`` is asked as well: the largest move of an element by the
    roundings of the formula, from its dtype and the lengths of its sums, of which ``ROUNDINGS`` are allowed. A NaN
    where ``exact`` has none fails.

    Args:
        actual: what is tested.
        eager: the same in plain torch, in the dtype of ``actual``.
        exact: the same in float64, from the same inputs.
        moved: what ``rounding.moved_by_rounding`` says of this result; called only when it decides.
    """
    assert actual.shape == exact.shape, f"shape {tuple(actual.shape)}, expected {tuple(exact.shape)}"
    assert actual.dtype == eager.dtype, f"dtype {actual.dtype}, expected {eager.dtype}"
    if exact.numel() == 0:
        return
    error = (actual.double() - exact).abs()
    roundings = 16 if actual.dtype == torch.float64 else 1  # ``exact`` has been rounded as often as ``eager``
    allowed = 2 * (eager.double() - exact).abs().max() + roundings * torch.finfo(actual.dtype).eps * exact.abs().max()
    if moved is not None and not bool((error <= allowed).all()):
        allowed = torch.maximum(allowed, torch.as_tensor(ROUNDINGS * moved()).to(allowed))
    worst = torch.where(error <= allowed, 0, error).nan_to_num(nan=float("inf")).max().item()
    assert worst == 0, f"error {worst:.3e}, allowed {allowed.item():.3e}, largest value {exact.abs().max().item():.3e}"


def assert_same_layout(actual: Tensor, expected: Tensor) -> None:
    """Strides of every dimension that has more than one element are equal; an empty tensor has none that matter."""
    assert actual.shape == expected.shape
    if actual.numel() == 0:
        return
    strides = [
        [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]
        for tensor in (actual, expected)
    ]
    assert strides[0] == strides[1], f"strides {actual.stride()}, expected {expected.stride()}"


def contiguous(tensor: Tensor) -> Tensor:
    return tensor.contiguous()


def channels_last(tensor: Tensor) -> Tensor:
    """The same values, channels innermost in memory; of images, torch's channels_last."""
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1)


def sliced(tensor: Tensor) -> Tensor:
    """The same values as a slice of a larger tensor: odd offset, rows that are not adjacent."""
    larger = tensor.new_full((*tensor.shape[:-1], tensor.shape[-1] + 3), float("nan"))
    larger[..., 1:-2] = tensor
    return larger[..., 1:-2]


LAYOUTS: tuple[Callable[[Tensor], Tensor], ...] = (contiguous, channels_last, sliced)
