"""Reading tables of strangers: CSV, TSV, JSONL and JSON, bounded, with errors that name the row.

Every reader yields ("line 3", row) or ("entry 3", row): the place is for the errors of whoever reads
the row.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from weavejax.errors import UserError

# Bounds that no honest file meets: a hostile or broken one must fail fast, in little memory.
MAX_FILE = 2**30  # bytes
MAX_LINE = 2**20  # characters of a line of JSON; a CSV cell has at most 2^17 (the csv module's)
SHOWN = 100  # characters of a faulty value that an error repeats

Rows = Iterator[tuple[str, dict[str, Any]]]


def check_table(file: Path) -> None:
    """Raises UserError unless there is a plain file of a sane size."""
    if not file.is_file():
        raise UserError(f"{file} does not exist")
    if file.stat().st_size > MAX_FILE:
        raise UserError(f"{file} has more than {MAX_FILE} bytes: split it")


def json_lines(file: Path) -> Rows:
    """The objects of a JSONL file; empty lines do not count.

    Raises:
      UserError: absent, too large, not UTF-8; a line that is too long, too deep, not JSON or not an
        object with distinct keys.
    """
    check_table(file)
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(MAX_LINE + 1), ""), 1):
                place = f"{file.name}, line {number}"
                if len(line) > MAX_LINE:
                    raise UserError(f"{place} has more than {MAX_LINE} characters")
                if line.strip():
                    yield f"line {number}", _object(_parsed(line, place), place)
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: {error}") from error


def json_value(file: Path) -> Any:
    """The value of a JSON file.

    Raises:
      UserError: absent, too large, not UTF-8, not JSON, too deep, or a key that stands twice.
    """
    check_table(file)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: {error}") from error
    return _parsed(text, file.name)


def json_entries(file: Path) -> Rows:
    """The objects of a JSON file that is a list; raises as `json_value`, or when it is not one."""
    yield from entries(json_value(file), file.name)


def entries(value: Any, name: str) -> Rows:
    """The objects of a list that was read from `name`."""
    if not isinstance(value, list):
        raise UserError(f"{name} is not a list of objects")
    for number, entry in enumerate(value, 1):
        yield f"entry {number}", _object(entry, f"{name}, entry {number}")


def csv_rows(file: Path, header: Sequence[str] | None = None, delimiter: str = ",") -> Rows:
    """The rows of a CSV file by column; empty ones do not count.

    Args:
      file: the file.
      header: names of the columns where the file does not begin with them.
      delimiter: between cells.

    Raises:
      UserError: absent, too large, not UTF-8, unclosed quotes, a row with another number of cells,
        a column twice.
    """
    check_table(file)
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            try:
                yield from _csv_rows(reader, file, header)
            except csv.Error as error:
                raise UserError(f"{file.name}, line {reader.line_num}: {error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: {error}") from error


def csv_header(file: Path, delimiter: str = ",") -> list[str]:
    """The names of the columns, as the first line gives them."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            first = next(csv.reader(lines, delimiter=delimiter, strict=True), [])
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: {error}") from error
    except csv.Error as error:
        raise UserError(f"{file.name}, line 1: {error}") from error
    return [name.strip() for name in first]


def _csv_rows(reader: Any, file: Path, header: Sequence[str] | None) -> Rows:
    names = [name.strip() for name in next(reader, [])] if header is None else list(header)
    if len(set(names)) < len(names):
        raise UserError(f"{file} names a column twice")
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(names):
            raise UserError(
                f"{file.name}, line {reader.line_num} has {len(cells)} cells for "
                f"{len(names)} columns: quote texts that hold the separator"
            )
        yield f"line {reader.line_num}", dict(zip(names, cells, strict=True))


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        where = "" if ", line " in place else f" (line {error.lineno})"
        raise UserError(f"{place} is not JSON: {error.msg}{where}") from error
    except (RecursionError, ValueError) as error:  # nesting, huge numbers, keys that repeat
        reason = "too deep" if isinstance(error, RecursionError) else str(error).split(":")[0]
        raise UserError(f"{place} is not a plain row: {reason}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a key stands twice in it")
    return row


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{place} is not a JSON object")
    return value


def shown(value: Any) -> str:
    """A faulty value as an error repeats it."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
