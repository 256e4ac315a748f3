"""Whether what a file says it holds fits into memory: asked before it is allocated."""

import os


def available() -> int | None:
    """Bytes that can be allocated without swapping; None where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def check_fits(what: str, size: int) -> None:
    """Raise ValueError if ``size`` bytes, and as many again for a copy of them, do not fit into memory.

    Args:
        what: holds them, for the message.
        size: in bytes.
    """
    free = available()
    if free is not None and 2 * size > free:
        raise ValueError(
            f"{what}: expected images that fit into memory, got {_human(size)}, and as much for a copy, where"
            f" {_human(free)} are free; scale the images down, or take fewer"
        )


def _human(size: int) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024  # type: ignore[assignment]
    return f"{size:.4g} TiB" if size < 1e6 else "more than any machine has"
