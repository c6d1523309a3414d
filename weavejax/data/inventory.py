"""Which annotated clips have which media: known, said and written down before anything starts."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from weavejax.data.annotations import Row, Splits
from weavejax.data.media_index import MediaIndex
from weavejax.errors import UserError
from weavejax.storage import write_text

LISTED = 10  # how many names of each kind the report shows
REPORT, MISSING = "report.txt", "missing.jsonl"
# What may be amiss with a clip, in the order of the report. The first two leave it out; a clip with
# one of the others is kept and masked where something is missing.
NO_FILE, UNREADABLE = "no file", "unreadable"
NO_SOUND, NO_PICTURE, NO_SUBTITLE = "no sound", "no picture", "no subtitle"
NO_AUDIO_FILE = "no audio file"  # the sound of its video file, if it has any, takes its place
KINDS = (NO_FILE, UNREADABLE, NO_AUDIO_FILE, NO_SOUND, NO_PICTURE, NO_SUBTITLE)
LOST = (NO_FILE, UNREADABLE)


@dataclass(frozen=True)
class Item:
    """A clip with its files: paths of the video file and the audio file, "" for none."""

    row: Row
    video: str
    audio: str


@dataclass(frozen=True)
class Lack:
    """Something that a clip lacks: one of `KINDS`, and why (or what was looked for)."""

    split: str
    id: str
    kind: str
    reason: str = ""


@dataclass(frozen=True)
class Inventory:
    """The clips that have media, by split, and everything that is missing.

    Attributes:
      items: per split, in the order of the annotations.
      annotated: clips per split, found or not.
      lacks: in the order of the annotations.
    """

    items: Mapping[str, Sequence[Item]]
    annotated: Mapping[str, int]
    lacks: Sequence[Lack] = field(default=())

    def with_lacks(self, more: Iterable[Lack]) -> "Inventory":
        """The same with what turned out when the media was opened."""
        return Inventory(self.items, self.annotated, (*self.lacks, *more))

    def report(self) -> str:
        """A table of counts and the first names of each kind."""
        counts = Counter((lack.split, lack.kind) for lack in self.lacks)
        kinds = [k for k in KINDS if any(counts[split, k] for split in self.annotated)]
        heads = ["split", "annotated", "usable", *kinds]
        rows = []
        for split, total in self.annotated.items():
            lost = sum(counts[split, kind] for kind in LOST)
            numbers = [total, total - lost, *(counts[split, kind] for kind in kinds)]
            rows.append([split, *(f"{number:,}" for number in numbers)])
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in (heads, *rows)
        ]
        for kind in kinds:
            names = [lack.id for lack in self.lacks if lack.kind == kind]
            lines.append(f"{kind}: {', '.join(names[:LISTED])}{', …' * (len(names) > LISTED)}")
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        """Writes the report and, one line a lack, all of it."""
        folder.mkdir(parents=True, exist_ok=True)
        rows = (
            {"split": each.split, "id": each.id, "lacks": each.kind, "reason": each.reason}
            for each in self.lacks
        )
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(folder / MISSING, lines)
        write_text(folder / REPORT, self.report())

    def check(self, missing: str, limit: float, folder: Path) -> None:
        """Refuses to go on with clips that cannot be used, as far as the user does not allow it.

        Args:
          missing: "error": any such clip ends the run; "skip": up to the limit they are left out.
          limit: share of a split that may be left out.
          folder: where the report lies, for the error.

        Raises:
          UserError: naming the first, and the file with all of them.
        """
        for split, total in self.annotated.items():
            lost = [each for each in self.lacks if each.split == split and each.kind in LOST]
            allowed = 0.0 if missing == "error" else limit
            if not lost or (len(lost) <= allowed * total and len(lost) < total):
                continue
            names = ", ".join(each.id for each in lost[:LISTED]) + ", …" * (len(lost) > LISTED)
            allow = "missing=skip leaves them out" if missing == "error" else f"limit is {limit:g}"
            raise UserError(
                f"{len(lost):,} of {total:,} clips of {split} cannot be used ({allow}): {names}; "
                f"all of them in {folder / MISSING}"
            )


def take_inventory(
    splits: Splits, videos: MediaIndex | None, audios: MediaIndex | None
) -> Inventory:
    """Looks up the files of every row.

    Args:
      splits: the annotated clips.
      videos: folder of video files, whose sound counts where no audio file does; None without.
      audios: folder of audio files; None without.

    Raises:
      UserError: two files of one name, or a link that leads out of its folder.
    """
    items: dict[str, list[Item]] = {}
    lacks: list[Lack] = []
    for split, rows in splits.items():
        items[split] = []
        spoken = any(row.subtitle for row in rows)  # or else the set has no subtitles at all
        for row in rows:
            video, audio = (_path(index, row.names) for index in (videos, audios))
            if not video and not audio:
                lacks.append(Lack(split, row.id, NO_FILE, f"none named {' or '.join(row.names)}"))
                continue
            items[split].append(Item(row, video, audio))
            if audios is not None and not audio:
                lacks.append(Lack(split, row.id, NO_AUDIO_FILE))
            if videos is not None and not video:
                lacks.append(Lack(split, row.id, NO_PICTURE, "no video file"))
            if spoken and not row.subtitle:
                lacks.append(Lack(split, row.id, NO_SUBTITLE))
    return Inventory(items, {split: len(rows) for split, rows in splits.items()}, tuple(lacks))


def _path(index: MediaIndex | None, names: Sequence[str]) -> str:
    found = index.find(names) if index is not None else ""
    return str(index.root / found) if index is not None and found else ""
