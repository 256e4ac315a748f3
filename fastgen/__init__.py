"""fastgen: classic generative models of images at the speed of the hardware.

Submodules are imported when they are first used: ``import fastgen`` is enough for ``fastgen.sampling.compile``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import _interrupt
from ._version import __version__

_interrupt.prepare()

if TYPE_CHECKING:
    from . import (
        baselines,
        codec,
        conditions,
        data,
        distributions,
        exploring,
        exporting,
        losses,
        measures,
        metrics,
        models,
        nn,
        ops,
        pictures,
        quality,
        sampling,
        training,
    )
    from ._memory import keep_freed_memory
    from .fusing import fuse, unfuse
    from .training import load_model as load

__all__ = [
    "__version__",
    "baselines",
    "codec",
    "conditions",
    "data",
    "distributions",
    "exploring",
    "exporting",
    "fuse",
    "keep_freed_memory",
    "load",
    "losses",
    "measures",
    "metrics",
    "models",
    "nn",
    "ops",
    "pictures",
    "quality",
    "sampling",
    "training",
    "unfuse",
]

_FUNCTIONS = {
    "fuse": ("fusing", "fuse"),
    "keep_freed_memory": ("_memory", "keep_freed_memory"),
    "load": ("training", "load_model"),
    "unfuse": ("fusing", "unfuse"),
}
"""What is called by a shorter name than it has where it lives."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, function = _FUNCTIONS.get(name, (name, None))
    found = importlib.import_module(f".{module}", __name__)
    value = found if function is None else getattr(found, function)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


if not _interrupt.is_command():  # which shows its help without torch; for all others torch.ops.fastgen is there
    importlib.import_module(".ops", __name__)
