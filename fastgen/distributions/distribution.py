"""Distribution: what samplers and likelihoods ask of one."""

from typing import NamedTuple

import torch
from torch import Tensor

from .._checks import (
    check_dense,
    check_device,
    check_floating,
    check_integer,
    check_levels,
    check_number,
    check_tensor,
    check_values,
)


class Marginal(NamedTuple):
    """Where a network may begin: the parameters of all pixels alike that fit some data, and how far around them."""

    params: Tensor
    """(P,), float32"""
    std: Tensor
    """(P,), float32: standard deviation of what the network answers at first."""


class Distribution:
    """What fastgen's distributions share; a distribution of one's own offers the same methods.

    A subclass defines ``param_channels``, ``_log_prob`` and ``_draw``; if it couples colours, ``_draw_color`` instead.
    One that networks are to begin with, as ``fastgen.models.PixelCNNPP`` does, defines ``_marginal``.

    Attributes:
        levels: values are integers in [0, levels).
        uniforms_per_value: m, how many uniform numbers a draw of one value takes.
        couples_colors: whether each colour reads all parameters of its pixel, and the values drawn before it there.
    """

    uniforms_per_value = 1
    couples_colors = False

    def __init__(self, levels: int) -> None:
        self.levels = check_integer("levels", levels, 2)

    def param_channels(self, channels: int) -> int:
        """P, the number of parameter channels for images of ``channels`` colours."""
        raise NotImplementedError

    def to_input(self, values: Tensor) -> Tensor:
        """Scale values to what models read: 2·v / (levels − 1) − 1.

        Args:
            values: integers in [0, levels), any shape.

        Returns:
            float32 in [−1, 1], shape of ``values``.
        """
        check_levels(values, self.levels)
        return values.to(torch.float32).mul_(2 / (self.levels - 1)).sub_(1)

    def log_prob(self, params: Tensor, values: Tensor) -> Tensor:
        """Log-probability of every value under its parameters.

        Args:
            params: (N, P, H, W), floating point; half types are computed in float32.
            values: (N, C, H, W), integers in [0, levels).

        Returns:
            (N, C, H, W) nats, differentiable in ``params``; or (N, 1, H, W), those of whole pixels, where colours are
            coupled.

        Raises:
            ValueError: shapes do not fit, or a value is out of range.
            TypeError: ``params`` are not floating point, or ``values`` are not integers.
        """
        check_values(values, self.levels)
        self._check_params(params, "values", values)
        return self._log_prob(self._read(params), values.to(torch.int64))

    def marginal(self, values: Tensor) -> Marginal:
        """Of all parameters that are the same at each pixel, those that fit ``values``: how often each of them is.

        Of a mixture they are near the likeliest ones; laws without an order count each level once more than it is. A
        network of which the last layer begins there need not learn first how often each value is (a bias that says so
        is from Lin et al. 2017, arXiv:1708.02002, section 4.1).

        Args:
            values: (N, C, H, W), integers in [0, levels), of one pixel or more.

        Returns:
            A ``Marginal``, on the device of ``values``: ``params`` and ``std``, (P,) each.

        Raises:
            ValueError: there is no value, or one is out of range.
            TypeError: ``values`` are not integers, or the distribution defines no such law.
        """
        if not self.has_marginal:
            raise TypeError(f"marginal: expected a distribution that defines one, got {self!r}")
        check_values(values, self.levels)
        check_dense("values", values)
        if values.dim() != 4 or not values.numel():
            raise ValueError(f"values: expected shape (N, C, H, W) of one pixel or more, got {tuple(values.shape)}")
        self.param_channels(values.shape[1])
        with torch.inference_mode(False), torch.enable_grad():
            return self._marginal(values.detach().movedim(1, -1).flatten(0, 2).to(torch.int64, copy=True))

    @property
    def has_marginal(self) -> bool:
        """Whether it says by ``marginal`` where a network may begin."""
        return type(self)._marginal is not Distribution._marginal

    def draw(self, params: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        """Draw values by inverting the cumulative distribution: the same uniforms give the same values.

        Args:
            params: (N, P, H, W), floating point.
            uniforms: (N, C·m, H, W), floating point in [0, 1), m = ``uniforms_per_value``.
            temperature: divides the logits; below 1 draws likelier values, above 1 more varied ones.

        Returns:
            int64 (N, C, H, W) in [0, levels).

        Raises:
            ValueError: shapes do not fit, or ``temperature`` is not positive.
            TypeError: ``params`` or ``uniforms`` are not floating point.
        """
        temperature = check_temperature(temperature)
        N, C, H, W = self._check_params(params, "uniforms", uniforms, self.uniforms_per_value)
        check_floating("uniforms", uniforms)
        params = at_least_float32(params)
        if not self.couples_colors:
            return self._draw(params / temperature, uniforms)
        values = torch.zeros((N, C, H, W), dtype=torch.int64, device=params.device)
        for k in range(C):
            values[:, k] = self._draw_color(params, uniforms, values, k, temperature)
        return values

    def draw_color(self, params: Tensor, uniforms: Tensor, values: Tensor, k: int, temperature: float = 1.0) -> Tensor:
        """Draw one colour of a distribution that couples them, given the colours before it.

        Args:
            params: (N, P, H, W), floating point: all of the pixels' parameters.
            uniforms: (N, C·m, H, W), floating point in [0, 1): all of the pixels' uniforms.
            values: integers (N, C, H, W); colours before ``k`` are read.
            k: the colour, in [0, C).
            temperature: 1 draws from the distribution; what else does is the distribution's to say.

        Returns:
            int64 (N, 1, H, W) in [0, levels).

        Raises:
            ValueError: shapes do not fit, ``k`` is no colour, or ``temperature`` is not positive.
            TypeError: a dtype does not fit, or colours are not coupled.
        """
        if not self.couples_colors:
            raise TypeError(f"draw_color: expected a distribution that couples colours, got {self!r}: see draw")
        temperature = check_temperature(temperature)
        N, C, H, W = self._check_params(params, "uniforms", uniforms, self.uniforms_per_value)
        check_floating("uniforms", uniforms)
        check_values(check_tensor("values", values, (N, C, H, W)), None)
        k = check_integer("k", k, 0, C - 1)
        return self._draw_color(at_least_float32(params), uniforms, values, k, temperature).unsqueeze(1)

    def _read(self, params: Tensor) -> Tensor:
        """As likelihoods read them."""
        return at_least_float32(params)

    def _log_prob(self, params: Tensor, values: Tensor) -> Tensor:
        raise NotImplementedError

    def _marginal(self, pixels: Tensor) -> Marginal:
        """Int64 (M, C), which are its own → parameters (P,), and how far a network may begin from each."""
        raise NotImplementedError

    def _draw(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """Logits (N, P, H, W), uniforms (N, C·m, H, W) → int64 (N, C, H, W)"""
        raise NotImplementedError

    def _draw_color(self, params: Tensor, uniforms: Tensor, values: Tensor, k: int, temperature: float) -> Tensor:
        """Parameters (N, P, H, W), uniforms (N, C·m, H, W), values (N, C, H, W) → int64 (N, H, W)"""
        raise NotImplementedError

    def _check_params(self, params: Tensor, name: str, tensor: Tensor, each: int = 1) -> tuple[int, int, int, int]:
        """(N, C, H, W), of which ``tensor`` has ``each`` numbers for each value; raise unless ``params`` fit it."""
        check_dense(name, tensor)
        check_dense("params", params)
        if tensor.dim() != 4 or not tensor.shape[1] or tensor.shape[1] % each:
            wanted = "(N, C, H, W)" if each == 1 else f"(N, C·{each}, H, W)"
            raise ValueError(f"{name}: expected shape {wanted}, got {tuple(tensor.shape)}")
        N, C, H, W = tensor.shape
        C //= each
        expected = (N, self.param_channels(C), H, W)
        if params.shape != expected:
            raise ValueError(
                f"params: expected shape {expected} for {name} of {(N, C, H, W)}, got {tuple(params.shape)}"
            )
        check_floating("params", params)
        check_device("params", params, name, tensor)
        return N, C, H, W

    def __repr__(self) -> str:
        return f"{type(self).__name__}(levels={self.levels})"


def check_temperature(temperature: float) -> float:
    """``temperature``; raise unless it is one that logits can be divided by."""
    return float(check_number("temperature", temperature, 1e-6))


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half types as float32."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
