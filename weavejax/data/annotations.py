"""What the annotations of a data set come to: one row a clip, whatever the set's own layout.

The adapters in `datasets/` turn their files into rows with pure functions; everything after that
(finding media, reporting what is missing, writing records) is the same for all of them.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from weavejax.data.captions import MAX_CAPTIONS, MAX_ID
from weavejax.data.folder import in_holdout
from weavejax.data.tables import check_table, shown
from weavejax.errors import UserError

_CLOCK = re.compile(r"(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2}(?:\.\d{1,9})?)")


@dataclass(frozen=True)
class Row:
    """One annotated clip.

    Attributes:
      id: of the clip, unique within its split.
      captions: the first is the one evaluation uses.
      names: of its media files without extension, best first; a file belongs to the clip only if
        one of them is its whole name.
      subtitle: spoken text; empty when there is none.
      span: start and end in seconds when the files hold more than the clip; None when they are it.
    """

    id: str
    captions: tuple[str, ...]
    names: tuple[str, ...]
    subtitle: str = ""
    span: tuple[float, float] | None = None


Splits = Mapping[str, Sequence[Row]]


def merged(rows: Iterable[Row]) -> list[Row]:
    """One row per id, in the order of first appearance, with the captions of all its rows.

    Raises:
      UserError: two rows of an id contradict each other, or more captions than any clip has.
    """
    found: dict[str, Row] = {}
    captions: dict[str, dict[str, None]] = {}
    for row in rows:
        known = found.setdefault(row.id, row)
        for name in ("names", "subtitle", "span"):
            if getattr(known, name) != getattr(row, name):
                raise UserError(
                    f"clip {row.id!r} is annotated twice, with {name} "
                    f"{shown(getattr(known, name))} and {shown(getattr(row, name))}"
                )
        captions.setdefault(row.id, {}).update(dict.fromkeys(row.captions))
        if len(captions[row.id]) > MAX_CAPTIONS:
            raise UserError(f"clip {row.id!r} has more than {MAX_CAPTIONS} captions")
    return [replace(row, captions=tuple(captions[row.id])) for row in found.values()]


def only(rows: Sequence[Row], ids: Iterable[str], file: str) -> list[Row]:
    """The rows of the ids that a list names, in the order of the list.

    Raises:
      UserError: the list names a clip that is not annotated.
    """
    known = {row.id: row for row in rows}
    wanted = list(dict.fromkeys(ids))
    strange = [name for name in wanted if name not in known]
    if strange:
        raise UserError(
            f"{file} names {len(strange)} clips that are not annotated: "
            f"{', '.join(strange[:5])}{', …' if len(strange) > 5 else ''}"
        )
    return [known[name] for name in wanted]


def held_out(rows: Sequence[Row], share: float) -> dict[str, list[Row]]:
    """Rows of a set without a split as "train" and "test", by a fixed hash of the id.

    Raises:
      UserError: not a share, or one that leaves a side empty.
    """
    if not 0 < share < 1:
        raise UserError(f"holdout is {share}: it is a share, between 0 and 1")
    parts: dict[str, list[Row]] = {"train": [], "test": []}
    for row in rows:
        parts["test" if in_holdout(row.id, share) else "train"].append(row)
    if not all(parts.values()):
        raise UserError(f"holdout {share} of {len(rows)} clips leaves one side empty")
    return parts


def read_ids(file: Path) -> list[str]:
    """The ids in a text file, one a line."""
    check_table(file)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def text_of(row: Mapping[str, Any], key: str, place: str) -> str:
    """A text that must be there and say something, stripped.

    Raises:
      UserError: absent, not a text, empty, or with half a character in it.
    """
    if key not in row:
        raise UserError(f"{place} has no {key}")
    text = _text(row[key], key, place)
    if not text:
        raise UserError(f"{place}: {key} is empty")
    return text


def texts_of(row: Mapping[str, Any], key: str, place: str) -> tuple[str, ...]:
    """A list of texts that must be there, stripped; empty ones do not count."""
    if key not in row:
        raise UserError(f"{place} has no {key}")
    value = row[key]
    if not isinstance(value, list):
        raise UserError(f"{place}: {key} must be a list of texts, not {shown(value)}")
    if len(value) > MAX_CAPTIONS:
        raise UserError(f"{place}: {len(value)} texts in {key}, at most {MAX_CAPTIONS}")
    return tuple(text for text in (_text(each, key, place) for each in value) if text)


def subtitle_of(row: Mapping[str, Any], place: str) -> str:
    """The subtitle, which may be absent, null or empty."""
    return _text(row.get("subtitle") or "", "subtitle", place)


def id_of(row: Mapping[str, Any], key: str, place: str) -> str:
    """An id: a text or a whole number that can be the name of a file.

    Raises:
      UserError: absent, empty, too long, or with characters that no file name has.
    """
    value = row.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    name = text_of({key: value} if key in row else {}, key, place)
    if len(name) > MAX_ID or any(ord(c) < 32 or ord(c) == 127 or c in "/\\" for c in name):
        raise UserError(f"{place}: {key} {shown(name)} cannot be the name of a file")
    return name


def seconds_of(value: Any, key: str, place: str) -> float:
    """Seconds: a number, its text, or a clock time such as "00:02:11.097".

    Raises:
      UserError: anything else, negative or not finite.
    """
    clock = _CLOCK.fullmatch(value.strip()) if isinstance(value, str) else None
    if clock:
        hours, minutes, seconds = (float(part or 0) for part in clock.groups())
        return 3600 * hours + 60 * minutes + seconds
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise UserError(f"{place}: {key} {shown(value)} is not a time in seconds")
    return number


def span_of(value: Any, key: str, place: str) -> tuple[float, float]:
    """Start and end in seconds.

    Raises:
      UserError: not two times, the second after the first.
    """
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise UserError(f"{place}: {key} must be [start, end], not {shown(value)}")
    start, end = (seconds_of(each, key, place) for each in value)
    if end <= start:
        raise UserError(f"{place}: {key} ends at {end:g} s, before it starts at {start:g} s")
    return start, end


def _text(value: Any, key: str, place: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{place}: {key} must be a text, not {shown(value)}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"{place}: {shown(value)} holds half a character (a lone surrogate)")
    return value.strip()
