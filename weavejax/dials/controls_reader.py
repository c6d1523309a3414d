"""Checked access to parsed JSON: every complaint names its place in the document."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from weavejax.errors import UserError

T = TypeVar("T")

MAX_TEXT = 10_000  # characters of a label, caption, subtitle or path
MAX_PATH = 1_024


class ControlsError(UserError, ValueError):
    """A controls document that cannot be used, and where."""


@dataclass(frozen=True)
class Reader:
    """A JSON value and the path that leads to it ('' is the document itself)."""

    value: Any
    place: str

    @property
    def path(self) -> str:
        return f"controls.{self.place}" if self.place else "controls"

    @property
    def empty(self) -> bool:
        return self.value is None

    def keys(self, known: set[str]) -> None:
        """Checks that this is an object with no other keys than `known`."""
        if not isinstance(self.value, dict):
            raise ControlsError(f"{self.path}: must be an object, is {_kind(self.value)}")
        for key in self.value:
            if key not in known:
                names = ", ".join(sorted(known))
                raise ControlsError(f"{self.path}: unknown key {key[:40]!r} (known: {names})")

    def __getitem__(self, key: str) -> "Reader":
        place = f"{self.place}.{key}" if self.place else key
        if key not in self.value:
            raise ControlsError(f"controls.{place}: is missing")
        return Reader(self.value[key], place)

    def part(self, key: str, read: Callable[["Reader"], T]) -> T | None:
        """Reads `key` where it is present and not null."""
        return None if self.value.get(key) is None else read(self[key])

    def items(self, most: int) -> list["Reader"]:
        values = self._list(most)
        return [Reader(value, f"{self.place}[{k}]") for k, value in enumerate(values)]

    def text(self, most: int = MAX_TEXT) -> str:
        if not isinstance(self.value, str):
            raise ControlsError(f"{self.path}: must be text, is {_kind(self.value)}")
        if len(self.value) > most:
            raise ControlsError(f"{self.path}: has {len(self.value)} characters, at most {most}")
        if any("\ud800" <= character <= "\udfff" for character in self.value):
            raise ControlsError(f"{self.path}: holds half a character (a lone surrogate)")
        return self.value

    def file_path(self) -> str:
        """A file's path relative to the folder of the controls file, which it does not leave."""
        path = self.text(MAX_PATH)
        if not path.strip() or not path.isprintable():
            raise ControlsError(f"{self.path}: {path[:40]!r} is not the name of a file")
        # Both kinds of systems: what stays inside here must not lead out elsewhere.
        for flavour in (PurePosixPath(path), PureWindowsPath(path)):
            if flavour.is_absolute() or flavour.drive or flavour.root or ".." in flavour.parts:
                raise ControlsError(f"{self.path}: {path[:40]!r} leaves the folder")
        return path

    def integer(self, low: int, high: int) -> int:
        if type(self.value) is not int or not low <= self.value <= high:
            raise ControlsError(f"{self.path}: must be a whole number from {low} to {high}")
        return self.value

    def number(self, low: float, high: float) -> float:
        return _number(self.value, low, high, self.path)

    def numbers(self, low: float, high: float, most: int) -> tuple[float, ...]:
        values = self._list(most)
        try:  # one pass in C for the honest case; the slow pass names the culprit
            fits = all(type(v) is float and low <= v <= high for v in values)
        except TypeError:
            fits = False
        if fits:
            return tuple(values)
        return tuple(_number(v, low, high, f"{self.path}[{k}]") for k, v in enumerate(values))

    def ascending(self, values: Sequence[float], what: str) -> None:
        if any(b < a for a, b in itertools.pairwise(values)):
            raise ControlsError(f"{self.path}: {what} must be in ascending order")

    def same_length(self, values: Sequence[Any], times: Sequence[float]) -> None:
        if len(values) != len(times):
            raise ControlsError(f"{self.path}: {len(values)} values for {len(times)} times")

    def _list(self, most: int) -> list[Any]:
        if not isinstance(self.value, list):
            raise ControlsError(f"{self.path}: must be a list, is {_kind(self.value)}")
        if len(self.value) > most:
            raise ControlsError(f"{self.path}: has {len(self.value)} items, at most {most}")
        return self.value


def _number(value: Any, low: float, high: float, path: str) -> float:
    if type(value) not in (int, float):
        raise ControlsError(f"{path}: must be a number, is {_kind(value)}")
    if not low <= value <= high or not math.isfinite(value):
        raise ControlsError(f"{path}: {str(value)[:12]} lies outside [{low:g}, {high:g}]")
    return float(value)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true/false"}
    return "null" if value is None else names.get(type(value), "a number")
