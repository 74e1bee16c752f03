"""A scheduler's warning before the end, SIGTERM or SIGUSR1: work stops at its next step, and everything is kept."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Stopped(BaseException):
    """Ends the work in hand. No `Exception`, for nobody who handles those shall take it for a fault.

    Args:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _Listener:
    """Which signal has come, and whether somebody wants to finish a step first."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.waiting = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if not self.waiting:
            raise Stopped(number)


_listeners: list[_Listener] = []


def _hold() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS if _listeners else ())


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS if _listeners else ())


def _release_as_usual() -> None:
    """Let signals end a forked process, which has nothing to keep, as they do everywhere.

    Pools end theirs by SIGTERM. Python forgets what comes in the first moments of a process, so that until here it waits.
    """
    for number in SIGNALS if _listeners else ():
        signal.signal(number, signal.SIG_DFL)
    _release()
    _listeners.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_release_as_usual)


@contextmanager
def listening() -> Iterator[None]:
    """Turn the signals into `Stopped` meanwhile; outside of the main thread Python gives nobody signals.

    Yields:
        Nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    listener = _Listener()
    before = {number: signal.signal(number, listener) for number in SIGNALS}
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def at_a_step() -> Iterator[Callable[[], int | None]]:
    """Let no signal interrupt what is done meanwhile, which asks for it where it can stop.

    Yields:
        Tells the number of the signal that has come; None if none has.

    Raises:
        Stopped: At the end, if a signal has come that nobody asked for any more.
    """
    listener = _listeners[-1] if _listeners else _Listener()
    listener.waiting = True
    try:
        yield lambda: listener.received
    finally:
        listener.waiting = False
    if listener.received is not None:
        raise Stopped(listener.received)
