"""Command lines of the doors: `--config FILE[:variant]`, `--config.key=value`, and one-line errors.

Exit status: 0 done, 2 something the user can mend (one line on stderr), 75 preempted, 130 interrupted,
else a failure.
"""

import contextlib
import difflib
import errno
import faulthandler
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from absl import flags
from absl import logging as absl_logging
from ml_collections import config_dict, config_flags

from weavejax.errors import UserError
from weavejax.runtime import cluster


class Arguments(NamedTuple):
    """A parsed command line.

    Attributes:
      config: the locked config with its overrides, or None for a door without `--config`.
      config_name: "gram" or "gram-files": file stem and variant.
      values: the door's own flags by name.
    """

    config: Any
    config_name: str
    values: Mapping[str, str]


def launch(main: Callable[[Sequence[str]], None]) -> None:
    """Runs a door's `main(argv)`; errors that users can mend become one line and exit status 2."""
    # Grain's worker processes refuse to start before absl's flags are parsed.
    flags.FLAGS.mark_as_parsed()
    # Our own lines are for users; Orbax and TFDS remark on what we chose, and print a page of
    # traceback for every failed save, which we report in a line. absl was there first.
    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
    absl_logging.set_verbosity(absl_logging.FATAL)
    try:
        main(sys.argv[1:])
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        cluster.leave(130)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            place = error.filename or error
            fail(f"the disk is full ({place}); free some space and run this again")
        if error.errno == errno.EPIPE:
            os._exit(0)  # whoever read our output has read enough
        _crash()
    except Exception:  # whatever it is: in a job it must not wait for its peers to leave
        _crash()


def fail(message: str) -> NoReturn:
    """Prints the one line and leaves."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    cluster.leave(2)


def _crash() -> NoReturn:
    traceback.print_exc()
    if cluster.client() is not None:
        faulthandler.dump_traceback()  # of all threads: what this process was waiting for
    cluster.leave(1)


def parse(
    argv: Sequence[str], doc: str, own: Mapping[str, str], *, takes_config: bool
) -> Arguments:
    """Reads a door's command line.

    Args:
      argv: without the program's name.
      doc: the door's docstring, printed by `--help`.
      own: the door's own flags: name → help text. They take a string; "" when not given.
      takes_config: whether the door has `--config`.

    Raises:
      UserError: anything that does not parse: unknown flag or config key (with the nearest names),
        wrong type, missing or failing config file.
    """
    values = flags.FlagValues()
    for name, text in own.items():
        flags.DEFINE_string(name, "", text, flag_values=values)
    if takes_config:
        config_flags.DEFINE_config_file(
            "config",
            None,
            "config file, with a variant after a colon",
            flag_values=values,
            sys_argv=list(argv),
        )
    if {"--help", "-h", "--helpfull"} & set(argv):
        print(_help(argv, doc, own, takes_config))
        sys.exit(0)
    if takes_config:
        _check_config_file(argv)
    try:
        # absl prints its own complaint about a bad config; ours is the line that is raised.
        with contextlib.redirect_stderr(io.StringIO()):
            rest = values(["weavejax", *argv])
    except Exception as error:  # a config file is the user's own code: anything may be raised
        raise UserError(_explain(error, argv, values, takes_config)) from error
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}; values go with a flag, see --help")
    config = values["config"].value if takes_config else None
    name = _flag_value(argv, "config").replace(".py", "").replace(":", "-")
    return Arguments(config, Path(name).name, {n: str(values[n].value or "") for n in own})


def _flag_value(argv: Sequence[str], name: str) -> str:
    for position, argument in enumerate(argv):
        bare = argument.lstrip("-")
        if argument.startswith("-") and bare.startswith(f"{name}="):
            return bare.split("=", 1)[1]
        if argument.startswith("-") and bare == name and position + 1 < len(argv):
            return argv[position + 1]
    return ""


def _check_config_file(argv: Sequence[str]) -> None:
    given = _flag_value(argv, "config")
    path = Path(given.split(":")[0])
    if not given:
        raise UserError("--config is missing, as in --config configs/gram.py; see --help")
    if not path.is_file():
        near = sorted(str(p) for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        hint = f"; there are {', '.join(near)}" if near else ""
        raise UserError(f"no config file {path}{hint}")


def _explain(
    error: Exception, argv: Sequence[str], values: flags.FlagValues, takes_config: bool
) -> str:
    """What was wrong with the command line, with near names for an unknown key."""
    if takes_config:
        path = _flag_value(argv, "config")
        try:
            config = load(path)
        except UserError as problem:
            return str(problem)
        known = _keys(config)
        for argument in argv:
            if argument.startswith("--config."):
                key = argument[len("--config.") :].split("=")[0]
                if key not in known:
                    return f"unknown config key {key!r}{_nearest(key, known)}"
    if isinstance(error, flags.UnrecognizedFlagError):
        return f"unknown flag --{error.flagname}{_nearest(error.flagname, list(values))}"
    return f"{error}"


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return (
        f"; did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(sorted(known))}"
    )


def _keys(config: Any, prefix: str = "") -> list[str]:
    out = []
    for key, value in config.items():
        out.append(prefix + key)
        if isinstance(value, config_dict.ConfigDict):
            out += _keys(value, f"{prefix}{key}.")
    return out


def load(path: str) -> Any:
    """The config of "file.py[:variant]", without overrides.

    Raises:
      UserError: the file does not run, or has no such variant.
    """
    values = flags.FlagValues()
    argv = [f"--config={path}"]
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=argv)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            values(["weavejax", *argv])
        return values["config"].value
    except Exception as error:  # as above
        last = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise UserError(f"{path}: {last}") from error


def _help(argv: Sequence[str], doc: str, own: Mapping[str, str], takes_config: bool) -> str:
    lines = [doc.strip(), "", "flags:"]
    if takes_config:
        lines.append("  --config FILE[:variant]   the run; then --config.KEY=VALUE for each change")
    lines += [f"  --{name}   {text}" for name, text in own.items()]
    path = _flag_value(argv, "config") if takes_config else ""
    if path:
        config = load(path)
        flat = [(key, config_value(config, key)) for key in _keys(config)]
        lines += ["", f"keys of {path}:"]
        lines += [
            f"  --config.{key}={value!r}"
            for key, value in flat
            if not isinstance(value, config_dict.ConfigDict)
        ]
    elif takes_config:
        lines += ["", "add --config FILE to list that config's keys and values"]
    return "\n".join(lines)


def config_value(config: Any, key: str) -> Any:
    """The value at a dotted key."""
    for part in key.split("."):
        config = config[part]
    return config
