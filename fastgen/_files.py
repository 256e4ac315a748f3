"""Files that are never half written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that, whatever happens, ``path`` is the old file or the new one, never a part.

    The bytes go to a temporary file in the same folder, reach the disk, and only then take the name. A failure
    (a full disk, Ctrl-C) removes the temporary file; after SIGKILL it stays, for ``remove_temporaries`` to find.

    Raises:
        OSError: the system's own, for example errno ENOSPC, and names ``path``, which is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with errors_name(path):
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Make OSErrors inside name ``path``: the system's own name no file (a full disk), or a temporary one."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed process left behind in ``folder``."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder; its rename needs no second step
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
