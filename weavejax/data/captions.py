"""Caption tables of a media folder: CSV, TSV or JSONL rows merged into one entry per clip."""

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weavejax.errors import UserError

COLUMNS = ("id", "video", "audio", "caption", "subtitle", "split")
NAMES = ("captions.csv", "captions.tsv", "captions.jsonl")
LISTED = 10  # how many missing files an error names


@dataclass(frozen=True)
class Entry:
    """One clip of a folder: media paths relative to its root ("" for none), and its texts."""

    id: str
    video: str = ""
    audio: str = ""
    captions: tuple[str, ...] = ()
    subtitle: str = ""
    split: str = ""


def find_table(root: Path, captions: str) -> Path | None:
    """The caption file named, or the one in the folder; None when there is none."""
    if captions:
        file = Path(captions)
        if not file.is_file():
            raise UserError(f"the caption file {captions} does not exist")
        if file.suffix not in (".csv", ".tsv", ".jsonl"):
            raise UserError(f"the caption file {captions} must be a .csv, .tsv or .jsonl")
        return file
    found = [root / name for name in NAMES if (root / name).is_file()]
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UserError(f"{root} has several caption files ({names}): say which with captions=")
    return found[0] if found else None


def read_table(file: Path, root: Path) -> list[Entry]:
    """Reads a caption file and checks that its media files exist.

    Columns: `video` and `audio` (paths relative to the root, at least one), `caption` (rows of one
    clip add up; a list in JSONL), and optionally `id`, `subtitle`, `split`.

    Raises:
      UserError: unknown columns, malformed or contradictory rows, missing files, paths that leave
        the root.
    """
    entries: dict[str, Entry] = {}
    for place, row in _rows(file):
        entry = _entry(row, f"{file.name}, {place}")
        known = entries.setdefault(entry.id, entry)
        if known is not entry:
            entries[entry.id] = _merge(known, entry, f"{file.name}, {place}")
    if not entries:
        raise UserError(f"the caption file {file} has no rows")
    media = {path for e in entries.values() for path in (e.video, e.audio) if path}
    missing = sorted(path for path in media if not (root / path).is_file())
    if missing:
        listed = ", ".join(missing[:LISTED]) + (", …" if len(missing) > LISTED else "")
        raise UserError(f"{len(missing)} files named in {file} are not under {root}: {listed}")
    return list(entries.values())


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            if file.suffix == ".jsonl":
                yield from _json_rows(lines, file)
            else:
                yield from _csv_rows(lines, file)
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: {error}") from error


def _json_rows(lines: Any, file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{file.name}, line {number} is not JSON: {error.msg}") from error
        if not isinstance(row, dict):
            raise UserError(f"{file.name}, line {number} is not a JSON object")
        _check_columns(list(row), file)
        yield f"line {number}", row


def _csv_rows(lines: Any, file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.reader(lines, delimiter="\t" if file.suffix == ".tsv" else ",", strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_columns(header, file)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{file.name}, line {reader.line_num} has {len(cells)} cells for "
                    f"{len(header)} columns: quote texts that hold the separator"
                )
            yield f"line {reader.line_num}", dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"{file.name}, line {reader.line_num}: {error}") from error


def _check_columns(names: list[str], file: Path) -> None:
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        raise UserError(
            f"{file} has unknown columns {', '.join(map(repr, unknown))}: allowed are "
            f"{', '.join(COLUMNS)}"
        )
    if len(set(names)) < len(names):
        raise UserError(f"{file} names a column twice; give several captions as several rows")
    if not {"video", "audio"} & set(names):
        raise UserError(f"{file} has neither a video nor an audio column")


def _entry(row: dict[str, Any], place: str) -> Entry:
    captions = row.get("caption") or ()
    captions = [captions] if isinstance(captions, str) else captions
    fields = {name: row.get(name) or "" for name in COLUMNS if name != "caption"}
    if not isinstance(captions, list | tuple) or not all(isinstance(c, str) for c in captions):
        raise UserError(f"{place}: caption must be a text or a list of texts")
    for name, value in fields.items():
        if not isinstance(value, str):
            raise UserError(f"{place}: {name} must be a text, not {value!r}")
        fields[name] = value.strip()
    for name in ("video", "audio"):
        if fields[name]:
            fields[name] = _inside(fields[name], place)
    if not fields["video"] and not fields["audio"]:
        raise UserError(f"{place} names neither a video nor an audio file")
    if fields["video"] == fields["audio"]:
        fields["audio"] = ""  # the sound inside the video file
    fields["id"] = fields["id"] or fields["video"] or fields["audio"]
    return Entry(captions=tuple(c.strip() for c in captions if c.strip()), **fields)


def _inside(path: str, place: str) -> str:
    """The path made plain; an error if it leaves the root. Symbolic links are the user's choice."""
    plain = os.path.normpath(path)
    if os.path.isabs(plain) or plain.split(os.sep)[0] == os.pardir:
        raise UserError(f"{place}: {path} leaves the data folder; paths are relative to it")
    return plain


def _merge(known: Entry, row: Entry, place: str) -> Entry:
    for name in ("video", "audio", "subtitle", "split"):
        if getattr(known, name) != getattr(row, name):
            raise UserError(
                f"{place}: clip {row.id!r} has {name} {getattr(row, name)!r} here and "
                f"{getattr(known, name)!r} before"
            )
    fresh = tuple(c for c in row.captions if c not in known.captions)
    return Entry(
        known.id, known.video, known.audio, known.captions + fresh, known.subtitle, known.split
    )
