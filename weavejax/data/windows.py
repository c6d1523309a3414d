"""Clips cut into windows of one length, without touching their media."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from weavejax.data.clip import Clip, Source


@dataclass(frozen=True)
class WindowedSource:
    """A source whose record k is window k mod `count` of clip k div `count`.

    Windows follow each other without overlap. Those that begin after the end of a clip are records
    too, with everything missing.

    Attributes:
      source: of the clips.
      count: windows of every clip.
      seconds: length of a window.
    """

    source: Source
    count: int
    seconds: float

    def __len__(self) -> int:
        return len(self.source) * self.count

    def __getitem__(self, index: int) -> Clip:
        """Reads a window's clip, its start set."""
        clip = self.source[index // self.count]
        return replace(clip, id=self._name(clip.id, index), start=self._start(index))

    def id(self, index: int) -> str:
        """The clip's id, and where the window begins: "clip@2s"."""
        return self._name(self.source.id(index // self.count), index)

    def text(self, index: int) -> tuple[tuple[str, ...], str]:
        """The clip's texts."""
        return self.source.text(index // self.count)

    def captions(self) -> Sequence[str]:
        """Every caption, once."""
        return self.source.captions()

    @property
    def fingerprint(self) -> str:
        """Of the clips and the cut."""
        return f"{self.source.fingerprint}-{self.count}x{self.seconds:g}s"

    def _start(self, index: int) -> float:
        return index % self.count * self.seconds

    def _name(self, name: str, index: int) -> str:
        return f"{name}@{self._start(index):g}s" if self.count > 1 else name
