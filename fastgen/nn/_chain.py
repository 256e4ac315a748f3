"""What the two chains are: nn.Sequential that runs its modules otherwise."""

from collections import OrderedDict
from typing import Any

from torch import Tensor, fx, nn

from .._checks import check_instance, check_tensor


class Chain(nn.Sequential):
    """``nn.Sequential`` with its state_dict; ``_run`` computes what it computes."""

    def __init__(self, *layers: Any) -> None:
        named = len(layers) == 1 and isinstance(layers[0], OrderedDict)
        for layer in layers[0].values() if named else layers:
            check_instance("layers", layer, nn.Module, "modules, or an OrderedDict of them")
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            if isinstance(x, fx.Proxy):  # whoever traces wants to see the modules
                return super().forward(x)
            check_tensor("x", x)
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        raise NotImplementedError
