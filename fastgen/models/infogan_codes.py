"""Where InfoGAN's codes lie in z: noise ⊕ categories, one-hot ⊕ continuous codes."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import check_finite, check_values

REACH = 2.0
"""Continuous codes are uniform in (−1, 1) in training, and are shown from −2 to 2, as in the paper's figure 2."""


class CodePosterior(NamedTuple):
    """Q(c|x) of N images: for each categorical code logits (N, K); of the continuous codes mean and log-variance."""

    logits: tuple[Tensor, ...]
    mean: Tensor
    logvar: Tensor

    @property
    def categories(self) -> Tensor:
        """The likeliest category of each code, int64 (N, codes)."""
        return _stacked([each.argmax(1) for each in self.logits], self.mean)


class CodeTraversal(NamedTuple):
    """One code taken through its values, in words; ``z`` (rows, steps, latent): a row keeps all else of its z."""

    name: str
    values: list[str]
    z: Tensor


class CodeLayout(NamedTuple):
    """Numbers of z: ``noise`` of them, one for each category of each code, and ``continuous`` codes."""

    noise: int
    categories: tuple[int, ...]
    continuous: int

    def __str__(self) -> str:
        hot = "".join(f", one-hot of {count}" for count in self.categories)
        return f"{self.noise} of noise{hot}, {self.continuous} continuous"

    @property
    def uniforms(self) -> int:
        """Uniform numbers that a z is made of."""
        return self.noise + len(self.categories) + self.continuous

    def from_uniforms(self, u: Tensor, temperature: float = 1.0) -> Tensor:
        """Uniform numbers in [0, 1), (N, uniforms) → z; ``temperature`` scales what is no category."""
        noise, picks, continuous = u.split([self.noise, len(self.categories), self.continuous], dim=1)
        hot = [
            F.one_hot((pick * count).long().clamp(max=count - 1), count).to(u.dtype)
            for pick, count in zip(picks.unbind(1), self.categories, strict=True)
        ]
        return torch.cat([temperature * (2 * noise - 1), *hot, temperature * (2 * continuous - 1)], dim=1)

    def codes(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Categories int64 (N, codes), and continuous codes (N, continuous)."""
        _, *hot, continuous = self._split(z)
        return _stacked([each.argmax(1) for each in hot], z), continuous

    def replaced(self, z: Tensor, categories: Any, continuous: Any) -> Tensor:
        """``z`` with other codes; None leaves those that it has."""
        noise, *hot, reals = self._split(z)
        if categories is not None:
            chosen = _expanded("categories", categories, (len(z), len(self.categories)), z.device)
            for index, count in enumerate(self.categories):
                check_values(chosen[:, index], count, "categories")
                hot[index] = F.one_hot(chosen[:, index].long(), count).to(z.dtype)
        if continuous is not None:
            chosen = _expanded("continuous", continuous, (len(z), self.continuous), z.device)
            reals = check_finite("continuous", chosen.to(z.dtype))
        return torch.cat([noise, *hot, reals], dim=1)

    def posterior(self, told: Tensor) -> CodePosterior:
        """Q's numbers (N, ·): logits, means, and log-variances if they are there; otherwise these are 0."""
        *logits, mean, logvar = told.split(
            [*self.categories, self.continuous, told.shape[1] - sum(self.categories) - self.continuous], dim=1
        )
        return CodePosterior(tuple(logits), mean, logvar if logvar.shape[1] else torch.zeros_like(mean))

    def traversals(self, kept: Tensor, steps: int) -> list[CodeTraversal]:
        """Every code of each of ``kept`` (rows, latent) through its values: categories first."""
        found, rows = [], len(kept)
        for index, count in enumerate(self.categories):
            shown = min(count, steps)
            z = kept.repeat_interleave(shown, 0)
            chosen = self.codes(z)[0]
            chosen[:, index] = torch.arange(shown, device=z.device).repeat(rows)
            z = self.replaced(z, chosen, None).unflatten(0, (rows, shown))
            found.append(CodeTraversal(f"category {index + 1}", [str(each) for each in range(shown)], z))
        ticks = torch.linspace(-REACH, REACH, steps, dtype=kept.dtype, device=kept.device)
        for index in range(self.continuous):
            z = kept.repeat_interleave(steps, 0)
            chosen = self.codes(z)[1].clone()
            chosen[:, index] = ticks.repeat(rows)
            z = self.replaced(z, None, chosen).unflatten(0, (rows, steps))
            found.append(CodeTraversal(f"code {index + 1}", [f"{tick:.2g}" for tick in ticks.tolist()], z))
        return found

    def _split(self, z: Tensor) -> tuple[Tensor, ...]:
        return z.split([self.noise, *self.categories, self.continuous], dim=1)


def _stacked(columns: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(columns, 1) if columns else like.new_zeros((len(like), 0), dtype=torch.int64)


def _expanded(name: str, given: Any, shape: tuple[int, int], device: torch.device) -> Tensor:
    """What is given for each of N, or for all, as (N, codes)."""
    found = torch.as_tensor(given, device=device)
    if found.dim() == 1 and shape[1] == 1 and len(found) == shape[0]:
        found = found[:, None]
    try:
        return found.expand(shape)
    except RuntimeError as error:
        raise ValueError(f"{name}: expected shape {shape}, or what is for all, got {tuple(found.shape)}") from error
