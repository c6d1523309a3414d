"""Ends a process that makes no progress, after printing the stack of every thread.

A collective whose peer is stuck never returns and heartbeats go on, so nothing else would notice.
The standard library's timer is a C thread that needs no interpreter lock; peers of the ended process
notice its missing heartbeat.
"""

import faulthandler
from typing import Any

SLOWER = 10.0  # times the median step may a step take


class Watchdog:
    """Deadlines for what comes next; each call replaces the one before.

    Args:
      config: `config.runtime.deadlines`: step, phase, data: seconds; 0 = no deadline. A step may
        take ten times the median step if that is longer; data is its preparation; a phase is
        anything else: start, compilation, evaluation, saving.
    """

    def __init__(self, config: Any) -> None:
        self._step, self._phase = float(config.step), float(config.phase)
        self._data = float(config.data)
        faulthandler.enable()  # an abort in native code (a lost peer) prints the stacks as well

    def step(self, median: float) -> None:
        """A step begins."""
        _arm(max(self._step, SLOWER * median) if self._step else 0.0)

    def phase(self) -> None:
        """Something longer than a step begins."""
        _arm(self._phase)

    def data(self) -> None:
        """Data are about to be prepared."""
        _arm(self._data)

    def close(self) -> None:
        """No deadline any more."""
        faulthandler.cancel_dump_traceback_later()


def _arm(seconds: float) -> None:
    if seconds:
        faulthandler.dump_traceback_later(seconds, exit=True)
    else:
        faulthandler.cancel_dump_traceback_later()
