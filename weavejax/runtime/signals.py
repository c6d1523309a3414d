"""Being asked to stop: SIGTERM (preemption) to any process of a job, or Ctrl-C.

The first signal asks: the job saves one step and leaves. The second leaves at once. Python's own
handlers run only between two lines of Python, and a compilation or a collective can be minutes of
native code, so a thread listens on the wake-up descriptor that the C handler writes to.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from typing import Any

import jax

from weavejax.runtime import cluster

PREEMPTED = 75  # EX_TEMPFAIL: start the same command again and it goes on
INTERRUPTED = 130
GRACE_SECONDS = 1.0  # before the first step, for one that is just ending
POLL_SECONDS = 0.5
LAST_SECONDS = 10.0  # process 0, which carries the messages, waits this long for the others
_KEY = "weavejax/stop"


class Stopped(Exception):
    """Broken off, because the job is to stop."""


class StopRequest:
    """Whether somebody wants the job to stop. Make it in the main thread, then `listen`.

    Until `running` is called there is nothing to save: a request then ends the whole job from the
    listening thread, whatever the main thread waits for. Afterwards the training loop decides.

    Attributes:
      asked: whether a signal came, here or to another process of the job.
      status: with which exit status to leave.
    """

    def __init__(self) -> None:
        self.asked = False
        self.status = PREEMPTED
        self._running = threading.Event()
        self._closed = False
        self._published = False
        self._since = 0.0

    def listen(self) -> None:
        """Takes over SIGTERM and SIGINT until `close`."""
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._old_descriptor = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._old = {s: signal.signal(s, _noted) for s in (signal.SIGTERM, signal.SIGINT)}
        self._thread = threading.Thread(target=self._run, name="stop request", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Gives the signals back."""
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_descriptor)
        self._closed = True
        self._thread.join()
        os.close(self._reader)
        os.close(self._writer)

    def running(self) -> None:
        """The first step is made: from now on the training loop saves before it leaves."""
        self._running.set()

    def _run(self) -> None:
        while not self._closed:
            service = cluster.client()
            ready, _, _ = select.select([self._reader], [], [], POLL_SECONDS)
            for number in os.read(self._reader, 64) if ready else b"":
                self._hear(number)
            if service is not None:
                self._exchange(service)
            waiting = self.asked and not self._running.is_set()
            if waiting and time.monotonic() - self._since > GRACE_SECONDS:
                self._leave(service)

    def _hear(self, number: int) -> None:
        if number not in (signal.SIGTERM, signal.SIGINT):
            return
        if self.asked and self._since:
            os._exit(128 + number)
        if number == signal.SIGINT:
            self.status = INTERRUPTED
        self._note(f"{signal.Signals(number).name}: saving and leaving; once more leaves at once")

    def _note(self, words: str) -> None:
        self.asked = True
        self._since = time.monotonic()
        print(words, file=sys.stderr, flush=True)

    def _exchange(self, service: Any) -> None:
        """Tells the others, or hears from them."""
        try:
            if self.asked and not self._published:
                service.key_value_set(_KEY, str(os.getpid()), allow_overwrite=True)
                self._published = True
            elif not self.asked and service.key_value_try_get(_KEY):
                self._published = True
                self._note("another process of the job was asked to stop: saving and leaving")
        except Exception as error:  # not there yet, or the job is ending: both are no news
            del error

    def _leave(self, service: Any) -> None:
        print("nothing to save yet; start the same command again", file=sys.stderr, flush=True)
        if service is not None:
            with contextlib.suppress(Exception):  # the job is ending anyway
                _leave_in_order(service)
        os._exit(self.status)


def _leave_in_order(service: Any) -> None:
    """Process 0, which carries the messages, leaves last."""
    if not cluster.primary():
        service.key_value_set(f"{_KEY}/left/{jax.process_index()}", "")
        return
    deadline = time.monotonic() + LAST_SECONDS
    while time.monotonic() < deadline:
        if len(service.key_value_dir_get(f"{_KEY}/left/")) >= cluster.count() - 1:
            return
        time.sleep(0.1)


def _noted(number: int, frame: Any) -> None:
    """A Python handler must exist for the C one to write to the descriptor."""
    del number, frame
