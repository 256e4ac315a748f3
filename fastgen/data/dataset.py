"""A set of images of one size, quantised to a number of levels, whole in memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import conditions
from .._checks import check_finite, check_instance, check_integer, check_number, check_numbers
from .._console import several
from ..conditions import Classes, Condition, Kinds
from .storage import LARGEST, dtype_of


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and, where there are any, their labels; or what else a model is told beside each image.

    Attributes:
        values: (N, C, H, W) in [0, levels), uint8; int32 where there are more than 256 levels, as of codes.
        labels: (N,) int64 in [0, classes), or None.
        levels: number of values a pixel can take, 2 to 65,536.
        classes: number of classes, or None without labels.
        name: what to call the data in messages.
        class_names: the classes' names, by label; None where the data have numbers only.
        description: which images of the data these are, in words; the name by default.
        notes: what was found and left out as the data were read, for people; nothing where nothing needs saying.
        condition: of the N images: int64 (N,), floating point (N, D) or (N, C', H', W'), or a dict of these by name; or
            None. A model is told it in place of the labels.
    """

    values: Tensor
    labels: Tensor | None
    levels: int
    classes: int | None
    name: str
    class_names: tuple[str, ...] | None = None
    description: str = ""
    notes: tuple[str, ...] = ()
    condition: Condition | None = None

    def __post_init__(self) -> None:
        check_instance("name", self.name, str, "text")
        check_numbers("values", self.values)
        object.__setattr__(self, "levels", check_integer("levels", self.levels))
        if not 2 <= self.levels <= LARGEST:
            raise ValueError(f"levels: expected 2 to {LARGEST}, got {self.levels}")
        if self.values.dtype != dtype_of(self.levels) or self.values.dim() != 4:
            kind = str(dtype_of(self.levels)).removeprefix("torch.")
            raise ValueError(
                f"values: expected {kind} (N, C, H, W), got {self.values.dtype} {tuple(self.values.shape)}"
            )
        if not len(self):
            raise ValueError(f"{self.name}: expected at least one image, got none")
        if not self.values.numel():
            raise ValueError(f"values: expected images of one pixel or more, got {tuple(self.values.shape)}")
        if self.classes is not None:
            object.__setattr__(self, "classes", check_integer("classes", self.classes, 1))
        low, high = map(int, self.values.aminmax())
        if low < 0 or high >= self.levels:
            raise ValueError(
                f"{self.name}: expected values below {self.levels} levels, got {high if low >= 0 else low}"
            )
        if self.labels is not None:
            check_numbers("labels", self.labels)
            if self.labels.dtype != torch.int64 or self.labels.dim() != 1:
                raise ValueError(f"labels: expected int64 (N,), got {self.labels.dtype} {tuple(self.labels.shape)}")
        if self.labels is not None and len(self.labels) != len(self):
            raise ValueError(f"{self.name}: expected one label per image ({len(self)}), got {len(self.labels)}")
        if self.labels is not None and self.classes is not None:
            low, high = int(self.labels.min()), int(self.labels.max())
            if low < 0 or high >= self.classes:
                raise ValueError(f"{self.name}: expected labels from 0 to {self.classes - 1}, got {low} to {high}")
        if self.class_names is not None and len(self.class_names) != self.classes:
            raise ValueError(f"{self.name}: expected a name per class ({self.classes}), got {len(self.class_names)}")
        if self.condition is not None:
            object.__setattr__(self, "condition", _checked(self.condition, len(self)))
        if not self.description:
            object.__setattr__(self, "description", self.name)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        classes = "no labels" if self.labels is None else f"{self.classes} classes"
        told = (
            ""
            if self.condition is None or self.condition_kind is None
            else f", told {conditions.described(self.condition_kind)}"
        )
        return f"Dataset({self.name}: {tuple(self.values.shape)}, {self.levels} levels, {classes}{told})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.values.shape[1:]
        return channels, height, width

    @property
    def dims(self) -> int:
        """Dimensions of an image, C * H * W: what bits/dim divides by."""
        return self.values[0].numel()

    @property
    def told(self) -> Condition | None:
        """What a model is told beside the images: the condition, or else the labels; None where there are neither."""
        return self.labels if self.condition is None else self.condition

    @property
    def condition_kind(self) -> Kinds | None:
        """The kind of what a model is told, ``fastgen.conditions``."""
        if self.condition is None:
            return None if self.labels is None else Classes(self.classes)
        return conditions.kind_of_batch(self.condition)

    def told_to(self, kind: Kinds | None, dtype: torch.dtype | None = None) -> "Dataset":
        """The same images for a model that is told ``kind``: a class is told by the labels, where there are any.

        Args:
            kind: what the model says that it is told.
            dtype: of vectors and maps, as the model reads them; None leaves what they have.
        """
        if isinstance(kind, Classes) and self.labels is not None and self.condition is not None:
            return replace(self, condition=None)
        read = [part.dtype for part in conditions.tensors_of(self.condition) if part.is_floating_point()]
        if dtype is None or set(read) <= {dtype}:
            return self
        cast = conditions.apply(lambda part: part.to(dtype) if part.is_floating_point() else part, self.condition)
        return replace(self, condition=cast)

    def quantise(self, levels: int) -> "Dataset":
        """The same images with ``levels`` levels: value v of L becomes floor(v * levels / L).

        Raises:
            ValueError: ``levels`` is below 2 or above the levels there are.
        """
        levels = check_integer("levels", levels)
        if not 2 <= levels <= self.levels:
            raise ValueError(f"levels: expected 2 to {self.levels}, the levels of {self.name}, got {levels}")
        values = (self.values.to(torch.int64) * levels // self.levels).to(dtype_of(levels))
        return replace(self, values=values, levels=levels)

    def pick(self, indices: np.ndarray | Tensor) -> "Dataset":
        """The images at ``indices``, in that order."""
        indices = _indices("indices", indices, len(self))
        labels = None if self.labels is None else self.labels[indices]
        condition = conditions.select(self.condition, indices)
        return replace(self, values=self.values[indices], labels=labels, condition=condition)

    def subset(self, n: int, seed: int = 0) -> "Dataset":
        """``n`` images drawn without replacement, the same ones each time; all of them where there are no more.

        Drawn, not cut off the front: files may be sorted (the binarised MNIST test set is sorted by digit).
        """
        n, seed = check_integer("n", n), check_integer("seed", seed, 0, 2**64 - 1)
        if n < 1:
            raise ValueError(f"n: expected 1 or more images, got {n}")
        return self if n >= len(self) else self._draw(_permutation(len(self), seed)[:n])

    def balanced(self, n: int, seed: int = 0) -> "Dataset":
        """``n`` images, as many of each class as can be, drawn without replacement; the same ones for the same seed.

        Raises:
            ValueError: there are no labels, fewer images, or fewer wanted than classes.
        """
        return self.pick(self.balanced_indices(n, seed))

    def balanced_indices(self, n: int, seed: int = 0) -> np.ndarray:
        """Where the images are that ``balanced`` takes, int64 (n,)."""
        n, seed = check_integer("n", n), check_integer("seed", seed, 0, 2**64 - 1)
        if self.labels is None:
            raise ValueError(f"{self.name}: expected images with labels, got some without")
        classes = self.labels.unique()
        if not len(classes) <= n <= len(self):
            raise ValueError(f"n: expected {len(classes)} to {len(self)}, the classes and images there are, got {n}")
        order = np.random.default_rng(seed).permutation(len(self))
        labels = self.labels.numpy()[order]
        turn = np.zeros(len(self), dtype=np.int64)  # how many of its class come before an image
        for label in classes.tolist():
            turn[labels == label] = np.arange((labels == label).sum())
        return order[np.argsort(turn, kind="stable")[:n]]

    def hold_out(self, fraction: float = 0.1, seed: int = 0) -> tuple["Dataset", "Dataset"]:
        """Split into (rest, held out), the same way each time; at least one image goes to each side.

        Raises:
            ValueError: there is only one image.
        """
        if len(self) < 2:
            raise ValueError(f"{self.name}: expected at least two images to hold one out, got {len(self)}")
        check_number("fraction", fraction, 0, 1)
        seed = check_integer("seed", seed, 0, 2**64 - 1)
        held = min(max(1, round(len(self) * fraction)), len(self) - 1)
        order = _permutation(len(self), seed)
        return self._draw(order[held:]), self._draw(order[:held])

    def _draw(self, indices: np.ndarray) -> "Dataset":
        return replace(
            self.pick(indices), description=f"{several(len(indices), 'image')} drawn from {self.description}"
        )

    def batches(
        self, size: int, device: torch.device | str = "cpu", order: np.ndarray | None = None
    ) -> Iterator[tuple[Tensor, Any]]:
        """Yield (values int64 (n, C, H, W), the n images' condition or labels, or None) on ``device``.

        The last batch may be smaller.

        Args:
            size: images in a batch.
            device: where to put them.
            order: indices of the images to yield; all of them in file order by default.
        """
        size = check_integer("size", size)
        if size < 1:
            raise ValueError(f"size: expected 1 or more images in a batch, got {size}")
        indices = torch.arange(len(self)) if order is None else _indices("order", order, len(self))
        for part in indices.split(min(size, len(self))):
            values = self.values.index_select(0, part).to(device, torch.int64, non_blocking=True)
            told = conditions.select(self.told, part)
            yield values, conditions.apply(lambda each: each.to(device, non_blocking=True), told)


def _checked(condition: Condition, n: int) -> Condition:
    """The condition of ``n`` images, labels in it as int64.

    Raises:
        TypeError: a part is no tensor of integers or real numbers.
        ValueError: a part is of no condition's shape, on the meta device, or holds a number that is not finite; a dict
            is empty or has names that are no text.
    """
    found = conditions.as_condition(condition, n)
    for name, part in conditions.named(found).items():
        check_finite(name, check_numbers(name, part))
    return found


def _indices(name: str, given: np.ndarray | Tensor, n: int) -> Tensor:
    """Where images are, int64 (M,), each in [−n, n)."""
    indices = torch.from_numpy(given) if isinstance(given, np.ndarray) else given
    if isinstance(indices, (list, tuple)):
        for one in indices:
            check_integer(name, one)
        indices = torch.tensor(indices, dtype=torch.int64)
    check_numbers(name, indices, ("M",))
    if indices.dtype == torch.bool or indices.is_floating_point():
        raise TypeError(f"{name}: expected integers, got {indices.dtype}")
    indices = indices.to(torch.int64)
    if indices.numel() and not -n <= int(indices.min()) <= int(indices.max()) < n:
        got = f"{int(indices.min())} to {int(indices.max())}"
        raise ValueError(f"{name}: expected indices of {n} images, below {n}, got {got}")
    return indices


def _permutation(n: int, seed: int) -> np.ndarray:
    words = seed if seed < 2**32 else [seed % 2**32, seed >> 32]
    return np.random.RandomState(words).permutation(n)  # a stream NumPy has frozen: the split never moves
