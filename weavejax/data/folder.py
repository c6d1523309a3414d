"""Clips of a plain folder of media files, with a caption file or without."""

import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from weavejax.data.captions import (
    Entry,
    check_inside,
    find_table,
    is_plain_file,
    read_table,
)
from weavejax.data.clip import Clip, DecodeError
from weavejax.data.decode import Media, probe
from weavejax.data.opening import read_file
from weavejax.errors import UserError

log = logging.getLogger(__name__)

# Never media, whatever FFmpeg would make of them (it "plays" text files).
NOT_MEDIA = frozenset(
    {".ass", ".csv", ".html", ".jpeg", ".jpg", ".json", ".jsonl", ".log", ".m3u", ".m3u8", ".md"}
    | {".npy", ".npz", ".pdf", ".png", ".py", ".safetensors", ".srt", ".toml", ".tsv", ".txt"}
    | {".vtt", ".webp", ".xml", ".yaml", ".yml", ".zip"}
)
# Surely meant to be media: kept even if they do not open, to be reported as broken.
MEDIA = frozenset(
    {".3gp", ".aac", ".aif", ".aiff", ".avi", ".flac", ".flv", ".m4a", ".m4v", ".mkv", ".mov"}
    | {".mp3", ".mp4", ".mpeg", ".mpg", ".ogg", ".ogv", ".opus", ".ts", ".wav", ".webm", ".wma"}
    | {".wmv"}
)
PROBING_THREADS = 8


class FolderSource:
    """The clips of a folder; see `open_folder`."""

    def __init__(self, root: Path, entries: Sequence[Entry]) -> None:
        self._root, self._entries = root, list(entries)
        self.fingerprint = self._make_fingerprint()

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Clip:
        entry = self._entries[index]
        return Clip(
            id=entry.id,
            video=read_file(self._root / entry.video) if entry.video else b"",
            audio=read_file(self._root / entry.audio) if entry.audio else b"",
            captions=entry.captions,
            subtitle=entry.subtitle,
        )

    def id(self, index: int) -> str:
        return self._entries[index].id

    def paths(self, index: int) -> tuple[Path | None, Path | None]:
        """The files that hold the picture and, where it is another one, the sound."""
        entry = self._entries[index]
        video, audio = (self._root / p if p else None for p in (entry.video, entry.audio))
        return video, audio

    def text(self, index: int) -> tuple[tuple[str, ...], str]:
        entry = self._entries[index]
        return entry.captions, entry.subtitle

    def captions(self) -> Sequence[str]:
        return [caption for entry in self._entries for caption in entry.captions]

    def _make_fingerprint(self) -> str:
        """Of every text, path, size and time of change: a file edited in place counts as new."""
        digest = hashlib.sha256()
        for entry in self._entries:
            stats = [(self._root / path).stat() for path in (entry.video, entry.audio) if path]
            files = [(stat.st_size, stat.st_mtime_ns) for stat in stats]
            texts = [entry.id, entry.video, entry.audio, *entry.captions, entry.subtitle]
            digest.update(json.dumps([texts, files]).encode())
        return digest.hexdigest()[:32]

    def streams(self) -> Iterator[dict[str, Any]]:
        """Per clip, which file and stream each modality comes from: rows for `streams.jsonl`."""
        for entry in self._entries:
            row: dict[str, Any] = {"id": entry.id}
            for role, path in (("video", entry.video), ("audio", entry.audio)):
                if path:
                    row[role] = {"file": path, "streams": self._streams_of(path)}
            yield row

    def _streams_of(self, path: str) -> str:
        try:
            return str(probe(self._root / path))
        except DecodeError as error:
            return f"unreadable ({error})"

    def describe(self) -> list[str]:
        """One line per clip that says which streams are used."""
        return [
            "; ".join(
                f"{row[role]['file']}: {row[role]['streams']}"
                for role in ("video", "audio")
                if role in row
            )
            for row in self.streams()
        ]


def open_folder(
    root: str | Path,
    captions: str = "",
    split: str = "train",
    holdout: float = 0.0,
    *,
    told: bool = True,
) -> FolderSource:
    """Opens a folder of media files as clips.

    With a caption file (`captions`, or `captions.csv`, `.tsv` or `.jsonl` in the folder) its rows
    are the clips; see `captions.read_table`. Without one each media file below the folder is a
    clip, recognised by its content, and its caption is its name in words (a log line says so).

    Args:
      root: the folder.
      captions: path of the caption file.
      split: "all", or the clips of one split: by the `split` column if there is one (empty cells
        count as "train"), else "train" or "test" by a hash of the id.
      told: whether to say that names stand for captions.
      holdout: share of the clips in "test" when there is no `split` column; with 0 both splits are
        all the clips.

    Nothing outside the folder is read, not through symbolic links either (the folder itself may be
    one).

    Raises:
      UserError: no such folder, nothing in it, a faulty caption file, a file that leads out of the
        folder, or an empty split.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"the data folder {root} does not exist")
    if not 0 <= holdout < 1:
        raise UserError(f"holdout is {holdout}: it is a share, from 0 to below 1")
    table = find_table(root, captions)
    entries = read_table(table, root) if table else _scan(root, told)
    chosen = _choose(entries, split, holdout)
    if not chosen:
        have = ", ".join(sorted({e.split or "train" for e in entries}))
        raise UserError(
            f"split {split!r} of {root} has no clips: it has {len(entries)} in all, in {have}; "
            "name splits in the split column of the caption file, or set holdout"
        )
    return FolderSource(root, chosen)


def _choose(entries: Sequence[Entry], split: str, holdout: float) -> list[Entry]:
    if split == "all":
        return list(entries)
    if any(entry.split for entry in entries):
        return [entry for entry in entries if (entry.split or "train") == split]
    if split not in ("train", "test"):
        return []
    if holdout == 0:
        return list(entries)
    return [entry for entry in entries if in_holdout(entry.id, holdout) == (split == "test")]


def in_holdout(name: str, share: float) -> bool:
    """Whether a clip is held out: depends on nothing but its id and the share."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest()) < share * 2**48


def _scan(root: Path, told: bool) -> list[Entry]:
    """The media files below the folder, in the order of their names."""
    paths = sorted(
        path.relative_to(root)
        for path in root.rglob("*")
        if is_plain_file(path)
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    candidates = [path for path in paths if path.suffix.lower() not in NOT_MEDIA]
    check_inside(root, map(str, candidates), root.name)
    with ThreadPoolExecutor(PROBING_THREADS) as pool:
        roles = list(pool.map(lambda path: _role(root / path), candidates))
    entries = [
        Entry(id=path.as_posix(), captions=(_words(path),), **{role: str(path)})
        for path, role in zip(candidates, roles, strict=True)
        if role
    ]
    if not entries:
        raise UserError(f"{root} holds no media files ({len(paths)} files looked at)")
    first = entries[0]
    if told:
        _say_once(
            f"{root} has no caption file: {len(entries)} media files, each captioned by its name "
            f"({first.id!r} -> {first.captions[0]!r})"
        )
    return entries


@functools.cache
def _say_once(message: str) -> None:
    """Both splits of a folder are opened; one line is enough."""
    log.warning(message)


def _role(path: Path) -> str:
    """ "video" or "audio" by what the file holds; "" when it is not media."""
    try:
        with Media(path) as media:
            if media.still:
                return ""
            return "video" if media.has_video else "audio" if media.has_audio else ""
    except DecodeError:
        return "video" if path.suffix.lower() in MEDIA else ""


def _words(path: Path) -> str:
    return " ".join(path.stem.replace("_", " ").replace("-", " ").split())
