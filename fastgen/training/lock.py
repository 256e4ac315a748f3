"""One process writes a run's folder: a lock that ends with the process, and says whose it is."""

import errno
import os
import socket
import sys
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType

from .._files import NOT_SUPPORTED, errors_name

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = ".lock"


class Lock:
    """The file ``.lock`` of a folder, locked by the system while it is held: a process that is killed holds nothing.

    Args:
        folder: created where it is missing.
        name: of the file.
        what: is locked, in words.

    Raises:
        BlockingIOError: another process holds it; the message says which, on which machine, and since when.
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path, name: str = NAME, what: str = "a run") -> None:
        self.folder, self.what = folder, what
        self.path = folder / name
        folder.mkdir(parents=True, exist_ok=True)
        self._handle = self._open()
        now = datetime.now(timezone.utc)
        said = f"process {os.getpid()} on {socket.gethostname()} since {now:%Y-%m-%d %H:%M:%S} UTC\n"
        with errors_name(self.path):
            os.ftruncate(self._handle, 0)
            os.write(self._handle, said.encode())

    def _open(self) -> int:
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
            try:
                self._take(handle)
                if _is_at(handle, self.path):
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)  # its holder removed the file between these lines: the name is another file's now

    def _take(self, handle: int) -> None:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
                said = f"{self.folder}: expected {self.what} that no other process writes; {holder} holds it"
                raise LockedError(said) from error
            except OSError as error:
                if error.errno not in NOT_SUPPORTED | {errno.ENOLCK}:
                    raise
        sys.stderr.write(
            f"fastgen: {self.folder}: its file system has no locks; see to it that no other process writes there\n"
        )

    def check(self) -> None:
        """Raise FileNotFoundError if the folder is no longer where it was, or no longer the same."""
        if not _is_at(self._handle, self.path):
            said = f"the folder, or the {NAME} in it, was deleted, moved or replaced in training; nothing more is saved"
            raise FileNotFoundError(f"{self.folder}: {said}")

    def release(self) -> None:
        """Let others in; the file goes first, so that whoever waits for it sees that it is no longer the one."""
        if fcntl is not None and _is_at(self._handle, self.path):
            self.path.unlink(missing_ok=True)
        os.close(self._handle)


class LockedError(BlockingIOError):
    """Another process holds the lock."""


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
