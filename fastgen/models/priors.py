"""Laws that codes are to follow: exact samples of uniform numbers, and walks that show where their classes lie.

    normal        N(0, s²·I), in any number of dimensions
    mixture       K Gaussians in the plane, on a ring: means at radius 1.4 and angle 2πk/K; standard deviation 0.5 along
                  the radius and 0.1 across it
    swiss-roll    3·√t·(cos φ, sin φ) at φ = 4π·√t, t uniform in [0, 1): an arc of two turns, in K sections of t

The last two are of figure 3 of Makhzani et al. 2015, arXiv:1511.05644, which gives no sizes; these are those of
published code (musyoku/adversarial-autoencoder).
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from .likelihoods import normals_from

NAMES = ("normal", "mixture", "swiss-roll")
TURNS = 2
REACH = 3.0


class CodePrior:
    """A law of codes (N, latent).

    Attributes:
        latent: dimensions of a code.
        uniforms: numbers in [0, 1) that a code is made of.
        components: K parts of the law, one for each class; 1 where there are no parts.
        name: on the command line.
    """

    name: ClassVar[str]

    def __init__(self, latent: int, uniforms: int, components: int) -> None:
        self.latent, self.uniforms, self.components = latent, uniforms, components

    def __str__(self) -> str:
        return self.name if self.components == 1 else f"{self.name} of {self.components} parts"

    def from_uniforms(self, u: Tensor, parts: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Codes of the law.

        Args:
            u: (N, uniforms) in [0, 1).
            parts: the component of each, int64 (N,) in [0, K]; K, and None for all, is a draw from the whole law.
            temperature: scales the standard deviation of a Gaussian around its mean; of a roll it is 1.

        Raises:
            ValueError: the law has no temperature, and it is not 1.
        """
        raise NotImplementedError

    def components_of(self, z: Tensor) -> Tensor:
        """The component that a code (N, latent) is likeliest of, int64 (N,)."""
        return z.new_zeros(len(z), dtype=torch.int64)

    def walk(self, side: int) -> Tensor | None:
        """(K, side, latent): through each component, even in probability; None for a law without components."""
        return None

    def _parts(self, pick: Tensor, parts: Tensor | None) -> Tensor:
        """Components as given, and where there is none by ``pick``, uniform in [0, 1)."""
        drawn = (pick * self.components).long().clamp(max=self.components - 1)
        return drawn if parts is None else torch.where(parts < self.components, parts, drawn)


class NormalPrior(CodePrior):
    """N(0, s²·I)."""

    name = "normal"

    def __init__(self, latent: int, std: float = 1.0) -> None:
        super().__init__(latent, latent, 1)
        self.std = std

    def __str__(self) -> str:
        return f"normal, of standard deviation {self.std:g}"

    def from_uniforms(self, u: Tensor, parts: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        return temperature * self.std * normals_from(u)


class RingPrior(CodePrior):
    """K Gaussians around a ring, longer along its radius."""

    name = "mixture"
    radius, along, across = 1.4, 0.5, 0.1

    def __init__(self, components: int) -> None:
        super().__init__(2, 3, components)

    def from_uniforms(self, u: Tensor, parts: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        z = temperature * normals_from(u[:, :2]) * u.new_tensor([self.along, self.across])
        return self._turned(z, self._parts(u[:, 2], parts))

    def components_of(self, z: Tensor) -> Tensor:
        angle = 2 * math.pi / self.components * torch.arange(self.components, device=z.device, dtype=z.dtype)
        x, y = z[:, :1], z[:, 1:]
        along = (x * torch.cos(angle) + y * torch.sin(angle) - self.radius) / self.along
        across = (y * torch.cos(angle) - x * torch.sin(angle)) / self.across
        return (along.square() + across.square()).argmin(1)

    def walk(self, side: int) -> Tensor:
        z = torch.zeros(self.components, side, 2)
        z[:, :, 0] = self.along * torch.special.ndtri((torch.arange(side) + 0.5) / side)
        return self._turned(z.view(-1, 2), torch.arange(self.components).repeat_interleave(side)).view_as(z)

    def _turned(self, z: Tensor, parts: Tensor) -> Tensor:
        angle = 2 * math.pi / self.components * parts.to(z.dtype)
        along, across = z[:, 0] + self.radius, z[:, 1]
        turned = (
            along * torch.cos(angle) - across * torch.sin(angle),
            along * torch.sin(angle) + across * torch.cos(angle),
        )
        return torch.stack(turned, 1)


class SwissRollPrior(CodePrior):
    """An arc of two turns, in K sections one behind the other."""

    name = "swiss-roll"

    def __init__(self, components: int) -> None:
        super().__init__(2, 2, components)

    def from_uniforms(self, u: Tensor, parts: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        if temperature != 1:
            raise ValueError(f"temperature: expected 1 with a swiss roll, which has no width, got {temperature}")
        return self._at((self._parts(u[:, 1], parts) + u[:, 0]) / self.components)

    def components_of(self, z: Tensor) -> Tensor:
        t = (torch.arange(200 * self.components, device=z.device, dtype=z.dtype) + 0.5) / (200 * self.components)
        return torch.cdist(z, self._at(t)).argmin(1) // 200

    def walk(self, side: int) -> Tensor:
        t = (torch.arange(side * self.components) + 0.5) / (side * self.components)
        return self._at(t).view(self.components, side, 2)

    def _at(self, t: Tensor) -> Tensor:
        root = torch.sqrt(t)
        angle = 2 * math.pi * TURNS * root
        return torch.stack((REACH * root * torch.cos(angle), REACH * root * torch.sin(angle)), 1)
