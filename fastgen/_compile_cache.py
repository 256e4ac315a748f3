"""What torch's compiler has kept on disk, of which versions of our ops, and of which CPU."""

import hashlib
import os
from pathlib import Path

from torch.backends.cpu import get_cpu_capability
from torch.compiler import config

from ._version import __version__


def keep_apart() -> None:
    """Have programs that torch has compiled found again with these ops alone, and on such a CPU.

    Its caches know a graph by its nodes, by torch's version and by ``torch.compiler.config.cache_key_tag``. An op's
    gradient is traced into what is kept, and not looked at when that is found: after an upgrade a compiled training
    step would go on with the gradients of before, and nothing would say so. Which ops a gradient is made of is decided
    by the CPU's instructions, too; under another limit of these, ``ATEN_CPU_CAPABILITY``, torch's own kept programs
    crash. A tag that is there already is kept.
    """
    root, digest = Path(__file__).parent, hashlib.sha256(__version__.encode())
    for path in sorted([*root.glob("_*.py"), *root.glob("ops/*.py")]):
        digest.update(path.read_bytes())
    limits = [os.environ.get(name) for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")]
    digest.update(f"{get_cpu_capability()} {limits}".encode())
    own = f"fastgen {digest.hexdigest()[:16]}"
    if own not in config.cache_key_tag:
        config.cache_key_tag = f"{config.cache_key_tag} {own}".lstrip()
