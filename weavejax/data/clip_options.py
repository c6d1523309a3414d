"""The options that every adapter of a published set has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from weavejax.errors import UserError


@dataclass(frozen=True)
class MediaOptions:
    """Options that every adapter has.

    Attributes:
      root: folder of the annotations, and of the media folders.
      videos: folder of video files, relative to the root or absolute; "" for a set of sounds.
      audios: folder of audio files; "" takes the sound that is in the video files.
      media: "clips" when each file is the clip; "sources" when it is the whole film that the clip is
        to be cut out of.
      side: sources: the shorter side of the pictures is brought down to this; 0 leaves it.
      splits: those to prepare, with commas; "" for all that the set has.
      missing: "error" stops when a clip has no file, "skip" leaves it out.
      limit: skip: the share of a split that may be left out.
      shard: clips in a shard.
      threads: that read and cut; 0: one per usable core. Changes nothing in the bytes.
    """

    root: str = ""
    videos: str = "videos"
    audios: str = ""
    media: str = "clips"
    side: int = 0
    splits: str = ""
    missing: str = "error"
    limit: float = 0.5
    shard: int = 512
    threads: int = 0

    def check(self, name: str) -> None:
        """Raises UserError for what cannot be."""
        if not self.root:
            raise UserError(f"{name}: root is empty: give the folder of its annotations and media")
        if not self.videos and not self.audios:
            raise UserError(f"{name}: give videos, audios or both: the folders of its media")
        for key, known in (("media", ("clips", "sources")), ("missing", ("error", "skip"))):
            if getattr(self, key) not in known:
                raise UserError(f"{name}: {key} must be {' or '.join(known)}")
        for key, low, high in (("side", 0, 4096), ("limit", 0, 1), ("shard", 1, 2**20)):
            if not low <= getattr(self, key) <= high:
                raise UserError(f"{name}: {key} must be from {low} to {high}")

    @property
    def label(self) -> str:
        """What of these changes the records, for the name of the prepared set."""
        parts = ["sources"] * (self.media == "sources") + [f"{self.side}px"] * bool(self.side)
        parts += self.splits.split(",") * bool(self.splits)
        parts += ["audios"] * bool(self.audios) + ["novideo"] * (not self.videos)
        return "-".join(parts)


def options_of(given: Mapping[str, Any], name: str, own: Sequence[str] = ()) -> MediaOptions:
    """The media options among the keyword arguments of an adapter.

    Raises:
      UserError: one that nobody knows; `own` are those of the adapter itself, for the line.
    """
    known = {field.name: field.type for field in fields(MediaOptions)}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UserError(
            f"{name}: unknown option {', '.join(unknown)} (known: {', '.join([*own, *known])})"
        )
    try:
        casts = {k: type(getattr(MediaOptions, k))(v) for k, v in given.items()}
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {error}") from error
    return MediaOptions(**casts)
