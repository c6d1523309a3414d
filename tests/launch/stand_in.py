"""Launch files, started with a small script in the place of weavejax."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LAUNCH = Path(__file__).parents[2] / "launch"
# A shell cannot trap what was ignored when it began, as SIGINT is in background jobs.
INTERRUPTIBLE = (
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL);"
    "os.execvp(sys.argv[1], sys.argv[1:])",
)


@contextlib.contextmanager
def starter(room: Path) -> Iterator[Any]:
    """start(script, file, *flags, **environment) → process; in the end none of them is left.

    The file's VENV is `room`, whose python runs the script for -m and, as ever, what -c gives.
    """
    processes = []

    def start(script: str, file: str, *flags: str, **environment: str) -> Any:
        (room / "bin").mkdir(exist_ok=True)
        (room / "child.py").write_text(script)
        python = room / "bin/python"
        python.write_text(
            f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\n'
            f'exec {sys.executable} {room}/child.py "$@"\n'
        )
        python.chmod(0o755)
        process = subprocess.Popen(
            [*INTERRUPTIBLE, "bash", str(LAUNCH / file), *flags],
            env={**os.environ, "VENV": str(room), "ROOM": str(room), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
