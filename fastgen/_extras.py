"""Optional dependencies: imported when first needed, named together with their remedy when missing."""

import importlib
from types import ModuleType

_DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "torch_fidelity": "torch-fidelity"}


class MissingExtraError(ImportError):
    """A package of one of fastgen's extras is not installed."""


def require(module: str, extra: str = "train") -> ModuleType:
    """Import ``module``, which belongs to the optional dependencies ``fastgen[extra]``.

    Args:
        module: dotted name, for example "tyro" or "PIL.Image".
        extra: the extra of fastgen that installs it.

    Raises:
        MissingExtraError: it is not installed; the message names the package and the line that installs it.
            An installed package that fails to import raises its own error.
    """
    top = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != top:
            raise
        package = _DISTRIBUTIONS.get(top, top)
        message = f'{package} is not installed; it comes with the extra "{extra}": pip install "fastgen[{extra}]"'
        raise MissingExtraError(message, name=top) from error
