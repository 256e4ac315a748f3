"""What is printed reaches its reader at once, in whatever encoding that is."""

import codecs
import difflib
import os
import sys
from collections.abc import Iterable

PLAIN = {"±": "+-", "×": "x", "−": "-", "–": "-", "…": "...", "→": "->"}
"""What stands for a character that an encoding lacks; ``?`` for all others."""


def prepare() -> None:
    """Let stdout flush every line, in a file and a pipe too, and never fail for want of a character."""
    codecs.register_error("fastgen", _plain)
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # what stands in for stdout may have none
    if reconfigure is not None:
        reconfigure(line_buffering=True, errors="fastgen")


def is_unread(error: BaseException) -> bool:
    """Whether an error says that nobody reads what is printed any more, as in ``fastgen --help | head -1``."""
    return isinstance(error, BrokenPipeError) and error.filename is None  # errors of files name them


def drop_unread() -> None:
    """Let what is still to be printed where nobody reads go nowhere: the end of the process would complain of it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for the end of an error: the known word that a mistyped one is like, if any."""
    like = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {like[0]}?" if like else ""


def duration(seconds: float) -> str:
    """A time for people, in two units at most: 12.3 s, 5 min 20 s, 3 h 10 min, 2 days 4 h."""
    if seconds < 99.95:
        return f"{seconds:.1f} s" if seconds >= 0.95 else f"{seconds:.2g} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min {seconds} s"
    days, hours = divmod(hours + (minutes >= 30 and hours >= 48), 24)
    if not days:
        return f"{hours} h {minutes} min"
    return f"{days} day{'s' * (days > 1)} {hours} h"


def several(n: int, one: str, more: str = "") -> str:
    """A number of things: 1 image, 2,000 images; ``more`` is what several are called, by default with an s."""
    return f"{n:,} {one if n == 1 else more or one + 's'}"


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    if all("\udc80" <= character <= "\udcff" for character in text):  # bytes of a file's name, as they were
        return text.encode("utf-8", "surrogateescape"), error.end
    return "".join(PLAIN.get(character, "?") for character in text), error.end
