"""Files that are never half written, and places that are no files."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NOT_SUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM, errno.EBADF}
"""What a system answers that cannot do what it was asked for; not what it answers when doing it failed."""


def write_atomic(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write ``data`` to ``path`` so that, whatever happens, ``path`` is the old file or the new one, never a part.

    The bytes go to a temporary file in the same folder, reach the disk, and only then take the name. A failure
    (a full disk, Ctrl-C) removes the temporary file; after SIGKILL it stays, for ``remove_temporaries`` to find.
    A symbolic link stays one, and the file it leads to is written. What is no regular file (a device, a pipe) is
    written to, not replaced. Without ``sync`` the bytes reach the disk when the system likes, which is quicker for
    thousands of files.

    Raises:
        OSError: the system's own, for example errno ENOSPC, and names ``path``, which is untouched.
    """
    with errors_name(path):
        if _is_place(path):
            with open(path, "wb") as file:
                file.write(data)
            return
        target = Path(os.path.realpath(path))
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if sync:
            _sync_folder(target.parent)


def check_can_write(name: str, path: Path, suffixes: Sequence[str], *, named: bool = False) -> None:
    """A file of the kind that ``suffixes`` say can be at ``path``: to be found out before the work, not after it.

    Args:
        name: of the argument.
        path: where to write; a name without a suffix says nothing false.
        suffixes: those of the file's kind, such as ".png".
        named: whoever reads the file goes by its suffix, so that it needs one.

    Raises:
        ValueError: it is a folder, in none, or named as another kind of file.
    """
    if path.is_dir():
        raise ValueError(f"{name}: expected a file to write, got the folder {path}")
    if not path.parent.is_dir():
        raise ValueError(f"{name}: expected a file in a folder that exists, got {path}")
    if named and not path.suffix and not _is_place(path):
        raise ValueError(f"{name}: expected a name that ends in {' or '.join(suffixes)}, got {path}")
    check_suffix(name, path, suffixes)


def check_suffix(name: str, path: Path, suffixes: Sequence[str]) -> None:
    """``path`` is not named as another kind of file than is written to it.

    Raises:
        ValueError: it is.
    """
    if path.suffix and path.suffix.lower() not in suffixes and not _is_place(path):
        raise ValueError(f"{name}: expected a name that ends in {' or '.join(suffixes)}, got {path}")


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


def _is_place(path: Path) -> bool:
    """Whether ``path`` is something to write to that is no regular file, or leads to what a process has open."""
    return path.exists() and (not path.is_file() or path.absolute().parts[1:2] in (("dev",), ("proc",)))


def _sync_folder(folder: Path) -> None:
    """Let a new name reach the disk; where the system cannot promise that, it has the name all the same."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder; its rename needs no second step
        return
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno in NOT_SUPPORTED:  # a folder that may be written but not read
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:  # network and user-space file systems
            raise
    finally:
        os.close(handle)
