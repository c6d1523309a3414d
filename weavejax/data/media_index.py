"""Finding the media file of a clip by its exact name, after one look at the folder.

Never by prefix: the published GRAM loader takes the first file whose name begins with the id, and 948
of the 9,000 training ids of MSR-VTT are the beginning of another one.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from weavejax.data.captions import check_inside, is_plain_file
from weavejax.data.folder import MEDIA
from weavejax.errors import UserError

# Of several files of one name, the first of these is taken: containers as published before others.
PREFERRED = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".flac", ".wav", ".mp3")


class MediaIndex:
    """The media files below a folder by name, with and without extension.

    Args:
      root: the folder; it may be a link, those in it may not lead out of it.

    Attributes:
      files: how many there are.

    Raises:
      UserError: no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UserError(f"the media folder {root} does not exist")
        self.root = root
        self._by_name: dict[str, list[str]] = {}
        self.files = 0
        self._scan("")

    def _scan(self, below: str) -> None:
        with os.scandir(self.root / below) as found:
            ordered = sorted(found, key=lambda entry: entry.name)
        for entry in ordered:
            path = os.path.join(below, entry.name)
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                self._scan(path)
                continue
            stem, extension = os.path.splitext(entry.name)
            if extension.lower() in MEDIA:
                self.files += 1
                for name in (entry.name, stem):
                    self._by_name.setdefault(name, []).append(path)

    def find(self, names: Sequence[str]) -> str:
        """The file of the first of the names that has one, relative to the root; "" when none.

        Raises:
          UserError: two folders hold a file of that name, or it is a link that leads out.
        """
        for name in names:
            paths = self._by_name.get(name)
            if paths:
                best = min(paths, key=_preference)
                same = [path for path in paths if _preference(path) == _preference(best)]
                if len(same) > 1:
                    raise UserError(
                        f"{self.root} holds both {same[0]} and {same[1]}: keep the one that is {name}"
                    )
                check_inside(self.root, [best], self.root.name)
                if is_plain_file(self.root / best):
                    return best
        return ""


def _preference(path: str) -> tuple[int, str]:
    extension = os.path.splitext(path)[1].lower()
    rank = PREFERRED.index(extension) if extension in PREFERRED else len(PREFERRED)
    return rank, extension
