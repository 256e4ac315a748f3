"""What is printed reaches its reader at once, in whatever encoding that is."""

import codecs
import sys

PLAIN = {"±": "+-", "×": "x", "−": "-", "–": "-", "…": "...", "→": "->"}
"""What stands for a character that an encoding lacks; ``?`` for all others."""


def prepare() -> None:
    """Let stdout flush every line, in a file and a pipe too, and never fail for want of a character."""
    codecs.register_error("fastgen", _plain)
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # what stands in for stdout may have none
    if reconfigure is not None:
        reconfigure(line_buffering=True, errors="fastgen")


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    if all("\udc80" <= character <= "\udcff" for character in text):  # bytes of a file's name, as they were
        return text.encode("utf-8", "surrogateescape"), error.end
    return "".join(PLAIN.get(character, "?") for character in text), error.end
