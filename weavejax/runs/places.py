"""Command lines that name several runs, `--FLAG DIR…`, and the finished runs that lie there."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from weavejax.errors import UserError
from weavejax.runs.grouping import Run, find_runs, read_runs


class Given(NamedTuple):
    """What a command line says.

    Attributes:
      runs: the finished ones.
      warnings: about the others; they have been printed.
      flags: the further flags by name.
      out: where to write; it need not be there yet.
    """

    runs: list[Run]
    warnings: list[str]
    flags: Mapping[str, str]
    out: Path


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def wanted(argv: Sequence[str], flag: str) -> bool:
    """Whether a command line names runs under this flag, and does not ask for help."""
    return any(a.split("=")[0] == f"--{flag}" for a in argv) and not {"--help", "-h"} & set(argv)


def parse(argv: Sequence[str], flag: str, **defaults: str) -> Given:
    """Reads the runs that `--flag` names; `defaults` are those of further flags, `out` among them.

    Raises:
      UserError: unknown flags, no runs there, or none that is finished.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{flag}", nargs="+", required=True)
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", default=default)
    flags = vars(parser.parse_args(list(argv)))
    directories = find_runs(flags.pop(flag))
    runs, warnings = read_runs(directories)
    for line in warnings:
        print(f"warning: {line}", file=sys.stderr, flush=True)
    common = os.path.commonpath([path.parent.absolute() for path in directories])
    return Given(runs, warnings, flags, Path(flags["out"] or common))
