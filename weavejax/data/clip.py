"""The clip record: what every data source yields and every data-set builder writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class DecodeError(ValueError):
    """The media cannot be decoded: the record is broken."""


@dataclass(frozen=True)
class Clip:
    """One clip, its media still encoded.

    Attributes:
      id: unique and stable within the data set.
      video: bytes of a media file with a video stream (mp4 as a rule); empty when there is none.
      audio: bytes of an audio file (FLAC as a rule); empty when the sound is inside `video` or
        when there is none.
      captions: any number of them; training draws one, evaluation takes the first.
      subtitle: spoken text; empty when there is none.
      controls: JSON text of `weavejax.dials.controls`; empty when there is none.
      start: where in the media it begins, seconds; recipes that look at moments heed it.
    """

    id: str
    video: bytes = b""
    audio: bytes = b""
    captions: tuple[str, ...] = ()
    subtitle: str = ""
    controls: str = ""
    start: float = 0.0


class Source(Protocol):
    """Random access to the clips of one split. Picklable: worker processes get a copy."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Clip:
        """Reads clip `index`; any exception means that this record is broken."""
        ...

    def id(self, index: int) -> str:
        """The id of clip `index`, without reading its media where the format allows it."""
        ...

    def text(self, index: int) -> tuple[tuple[str, ...], str]:
        """The captions and the subtitle of clip `index`, without its media where possible."""
        ...

    def captions(self) -> Sequence[str]:
        """Every caption of the split, in order: what a tokenizer is trained on."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever the clips do: the key of anything derived from them."""
        ...


def record_name(source: Source, record: int) -> str:
    """The id of a record, or its number when it is too broken to tell its id."""
    try:
        return source.id(record)
    except Exception:  # each storage has its own way to report a broken record
        return f"record {record}"
