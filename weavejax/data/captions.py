"""Caption tables of a media folder: CSV, TSV or JSONL rows merged into one entry per clip."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weavejax.data.tables import MAX_FILE, SHOWN, Rows, csv_header, csv_rows, json_lines, shown
from weavejax.errors import UserError

COLUMNS = ("id", "video", "audio", "caption", "subtitle", "split")
NAMES = ("captions.csv", "captions.tsv", "captions.jsonl")
LISTED = 10  # how many missing files an error names

# Bounds that no honest file meets: a hostile or broken one must fail fast, in little memory.
MAX_CAPTIONS = 1000  # of one clip
MAX_PATH = 1024  # characters
MAX_ID = 1024


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
    check_inside(root, [file.name for file in found], str(root))
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
        the root (by symbolic links, too), or a file beyond all measure.
    """
    if file.stat().st_size > MAX_FILE:
        raise UserError(f"the caption file {file} has more than {MAX_FILE} bytes: split it")
    entries: dict[str, Entry] = {}
    for place, row in _rows(file):
        entry = _entry(row, f"{file.name}, {place}")
        known = entries.setdefault(entry.id, entry)
        if known is not entry:
            entries[entry.id] = _merge(known, entry, f"{file.name}, {place}")
    if not entries:
        raise UserError(f"the caption file {file} has no rows")
    media = {path for e in entries.values() for path in (e.video, e.audio) if path}
    missing = sorted(path for path in media if not is_plain_file(root / path))
    if missing:
        listed = ", ".join(path[:SHOWN] for path in missing[:LISTED])
        listed += ", …" if len(missing) > LISTED else ""
        raise UserError(f"{len(missing)} files named in {file} are not under {root}: {listed}")
    check_inside(root, sorted(media), file.name)
    return list(entries.values())


def _rows(file: Path) -> Rows:
    if file.suffix == ".jsonl":
        for place, row in json_lines(file):
            _check_columns(list(row), file)
            yield place, row
        return
    delimiter = "\t" if file.suffix == ".tsv" else ","
    _check_columns(csv_header(file, delimiter), file)
    yield from csv_rows(file, delimiter=delimiter)


def _check_columns(names: list[str], file: Path) -> None:
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        listed = ", ".join(map(shown, unknown[:LISTED])) + (", …" if len(unknown) > LISTED else "")
        raise UserError(f"{file} has unknown columns {listed}: allowed are {', '.join(COLUMNS)}")
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
    if len(captions) > MAX_CAPTIONS:
        raise UserError(f"{place}: {len(captions)} captions of one clip, at most {MAX_CAPTIONS}")
    for name, value in fields.items():
        if not isinstance(value, str):
            raise UserError(f"{place}: {name} must be a text, not {shown(value)}")
        fields[name] = value.strip()
    for text in (*captions, *fields.values()):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(f"{place}: {shown(text)} holds half a character (a lone surrogate)")
    if len(fields["id"]) > MAX_ID:
        raise UserError(f"{place}: the id {shown(fields['id'])} is longer than {MAX_ID} characters")
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
    """The path made plain; an error if it leaves the root or cannot be a path."""
    if len(path) > MAX_PATH:
        raise UserError(f"{place}: the path {shown(path)} is longer than {MAX_PATH} characters")
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise UserError(f"{place}: the path {shown(path)} holds a control character")
    plain = os.path.normpath(path)
    if os.path.isabs(plain) or plain.split(os.sep)[0] == os.pardir:
        raise UserError(f"{place}: {path[:SHOWN]} leaves the data folder; paths are relative to it")
    return plain


def is_plain_file(path: Path) -> bool:
    """Whether there is a file of data: not a folder, pipe, socket or device."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name beyond what the file system takes, for one
        return False


def check_inside(root: Path, paths: Iterable[str], place: str) -> None:
    """Refuses files below the root that are in truth, by symbolic links, outside of it."""
    real_root = os.path.realpath(root)
    folders: dict[str, str] = {}  # resolved once each: there may be millions of files
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(os.path.join(real_root, folder))
        real = os.path.join(folders[folder], name)
        if os.path.islink(real):
            real = os.path.realpath(real)
        if os.path.commonpath([real_root, real]) != real_root:
            raise UserError(
                f"{place}: {path[:SHOWN]} is a symbolic link that leaves the data folder; copy "
                "the file into it, or give the folder that holds both"
            )


def _merge(known: Entry, row: Entry, place: str) -> Entry:
    for name in ("video", "audio", "subtitle", "split"):
        if getattr(known, name) != getattr(row, name):
            raise UserError(
                f"{place}: clip {row.id!r} has {name} {getattr(row, name)!r} here and "
                f"{getattr(known, name)!r} before"
            )
    if len(known.captions) + len(row.captions) > MAX_CAPTIONS:
        raise UserError(f"{place}: clip {row.id!r} has more than {MAX_CAPTIONS} captions")
    fresh = tuple(c for c in row.captions if c not in known.captions)
    return Entry(
        known.id, known.video, known.audio, known.captions + fresh, known.subtitle, known.split
    )
