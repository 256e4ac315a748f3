"""What a drawing that was killed leaves: which batches are whole, so that the same command goes on with the others."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._checks import describe
from .._files import errors_name, write_atomic


class Unfinished:
    """A hidden file, there until all is drawn: a line of JSON, and a byte for each batch, 1 if it is drawn.

    Args:
        path: of it.
        request: all that decides on the images, and in how many batches they are drawn.
        batches: how many there are.
    """

    def __init__(self, path: Path, request: Mapping[str, Any], batches: int) -> None:
        self.path, self.request, self.batches = path, dict(request), batches
        self._head = json.dumps(self.request).encode() + b"\n"

    def check(self) -> bool:
        """Whether there is something to go on with.

        Raises:
            ValueError: there is, and it was begun by another request.
        """
        if not self.path.is_file():
            return False
        head, _, marks = self.path.read_bytes().partition(b"\n")
        try:
            known = json.loads(head)
        except ValueError:
            known = None
        if known == self.request and len(marks) == self.batches:
            return True
        differs = [name for name in self.request if isinstance(known, dict) and known.get(name) != self.request[name]]
        told = f"with {differs[0]} {describe(known[differs[0]])}" if differs and differs[0] in known else "by another"
        now = f", got {describe(self.request[differs[0]])}" if differs else ""
        raise ValueError(
            f"out: expected to go on with what {self.path} says was begun {told}{now}; --overwrite begins anew"
        )

    def begin(self) -> None:
        """Nothing is drawn yet."""
        write_atomic(self.path, self._head + bytes(self.batches))

    def drawn(self) -> bytes:
        """A byte for each batch, 1 if it is drawn."""
        return self.path.read_bytes()[len(self._head) :]

    def mark(self, batch: int) -> None:
        """A batch is drawn and written; each process marks its own."""
        with errors_name(self.path), open(self.path, "r+b") as file:
            file.seek(len(self._head) + batch)
            file.write(b"\1")

    def end(self) -> None:
        """All is drawn."""
        self.path.unlink(missing_ok=True)
