"""What samplers are given: checked, and in one form."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import check_integer, check_numbers, check_values, describe


def batch_size(n: int | None, sizes: dict[str, int]) -> int:
    """The batch size that ``n`` and all ``sizes``, by what has them, agree on; 1 if none says."""
    sizes = sizes if n is None else {"n": n, **sizes}
    if len(set(sizes.values())) > 1:
        got = ", ".join(f"{size} from {name}" for name, size in sizes.items())
        raise ValueError(f"{', '.join(sizes)}: expected one batch size, got {got}")
    if 0 in sizes.values():
        raise ValueError(f"{next(iter(sizes))}: expected at least one image, got none")
    return next(iter(sizes.values()), 1)


def check_distribution(distribution: Any, model: nn.Module) -> None:
    """Raise unless it offers what sampling asks of a distribution."""
    if distribution is None:
        raise TypeError(f"distribution: expected one, since {type(model).__name__} names none itself, got None")
    if isinstance(distribution, type):
        kind = distribution.__name__
        raise TypeError(f"distribution: expected an instance, got the class {kind} itself: call it, {kind}(…)")
    missing = [name for name in ("levels", "param_channels", "draw") if not hasattr(distribution, name)]
    if missing:
        raise TypeError(
            "distribution: expected one of fastgen.distributions or an object like them, got "
            f"{describe(distribution)} without {', '.join(missing)}"
        )
    check_integer("distribution: levels", distribution.levels, 2)
    check_integer("distribution: uniforms_per_value", getattr(distribution, "uniforms_per_value", 1), 1)
    if getattr(distribution, "couples_colors", False) and not hasattr(distribution, "draw_color"):
        raise TypeError(
            f"distribution: expected draw_color of one that couples colours, got {describe(distribution)} without it"
        )


def image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """(C, H, W), three positive integers; raise otherwise."""
    try:
        C, H, W = (check_integer("shape", size, 1, 2**31 - 1) for size in shape)
    except (TypeError, ValueError):
        got = tuple(shape) if isinstance(shape, list) else shape
        raise ValueError(f"shape: expected three positive integers (C, H, W) below 2^31, got {describe(got)}") from None
    return C, H, W


def known_values(
    n: int,
    known: Tensor | None,
    known_mask: Tensor | None,
    shape: tuple[int, int, int],
    levels: int,
    device: torch.device,
) -> tuple[Tensor, Tensor] | None:
    """``known``, int64, and where it is kept, bool, both (N, C, H, W) on ``device``; None if nothing is known."""
    if known is None and known_mask is None:
        return None
    if known is None or known_mask is None:
        missing, other = ("known", "known_mask") if known is None else ("known_mask", "known")
        raise ValueError(f"{missing}: expected a tensor together with {other}, got None")
    if check_numbers("known_mask", known_mask).dtype != torch.bool:
        raise TypeError(f"known_mask: expected a bool tensor, got {known_mask.dtype}")
    size = (n, *shape)
    if known_mask.dim() > 4 or any(
        have not in (1, want) for have, want in zip(reversed(known_mask.shape), reversed(size), strict=False)
    ):
        raise ValueError(f"known_mask: expected a shape that broadcasts to {size}, got {tuple(known_mask.shape)}")
    keep = known_mask.to(device).expand(size)
    check_values(known, None, "known")
    value = known.to(device, torch.int64).expand(size)
    check_values(value[keep], levels, "known")
    return value, keep


def check_shape(name: str, images: Tensor, shape: tuple[int, int, int], batched: bool = False) -> None:
    """Raise unless ``images`` are numbers (N, *shape), or of one image, unless they have to be ``batched``."""
    check_numbers(name, images)
    if images.dim() not in ((4,) if batched else (3, 4)) or images.shape[-3:] != shape:
        expected = f"(N, {', '.join(map(str, shape))})"
        raise ValueError(f"{name}: expected shape {expected}, got {tuple(images.shape)}")
