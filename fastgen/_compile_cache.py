"""What torch's compiler has kept on disk, of which versions of our ops."""

import hashlib
from pathlib import Path

from torch.compiler import config

from ._version import __version__


def keep_apart() -> None:
    """Have programs that torch has compiled found again with these ops alone.

    Its caches know a graph by its nodes, by torch's version and by ``torch.compiler.config.cache_key_tag``. An op's
    gradient is traced into what is kept, and not looked at when that is found: after an upgrade a compiled training
    step would go on with the gradients of before, and nothing would say so. A tag that is there already is kept.
    """
    root, digest = Path(__file__).parent, hashlib.sha256(__version__.encode())
    for path in sorted([*root.glob("_*.py"), *root.glob("ops/*.py")]):
        digest.update(path.read_bytes())
    own = f"fastgen {digest.hexdigest()[:16]}"
    if own not in config.cache_key_tag:
        config.cache_key_tag = f"{config.cache_key_tag} {own}".lstrip()
