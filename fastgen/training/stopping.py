"""Signals that end a run: the step under way is finished and saved, and whoever sent one is told how to go on."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from . import distributed

SIGNALS = (signal.SIGINT, signal.SIGTERM)

TIME_IS_UP = 128
"""Stands where a signal's number does, and is none: what a run was given in minutes is used up."""


class Stopped(KeyboardInterrupt):
    """A run was stopped by a signal, or by the clock, after a whole step that was saved."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def on_signals(ask: Callable[[int], None]) -> Iterator[None]:
    """Call ``ask`` with the number of the first signal that would end the process; the second one does end it.

    Of several processes each gets the signal, some twice, and none may end before the others have saved with it. A
    signal that is ignored stays ignored, and where this is not the main thread, nothing is changed.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    if threading.current_thread() is not threading.main_thread():
        taken = []
    asked: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        if asked and distributed.size() == 1:
            raise KeyboardInterrupt
        if not asked and distributed.rank() == 0:
            name = signal.Signals(number).name
            said = f"\nfastgen: {name}: saving after this step; once more ends it at once, without\n"
            os.write(2, said.encode())  # print may be what was interrupted
        asked.append(number)
        ask(number)

    for number in taken:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])
