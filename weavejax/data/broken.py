"""The list of broken records of a run, and the budget that ends it."""

import json
import logging
import os
from collections.abc import Iterable
from typing import Any

from weavejax.data.clip import Source, record_name
from weavejax.data.example import ExampleSpec, decode_clip
from weavejax.errors import UserError
from weavejax.storage import storage, write_text

log = logging.getLogger(__name__)
LISTED = 20  # how many ids the error names


class BrokenLog:
    """Remembers which records could not be read, across restarts, and stops the run past a budget.

    Each broken record is one line of JSON in the file: `record`, `id`, `reason`.

    Args:
      path: the file; lines already in it count.
      budget: how many distinct records may be broken: an int is a count (0 tolerates none), a float
        from 0 to 1 a share of the source.
    """

    def __init__(self, path: str | os.PathLike[str], budget: int | float) -> None:
        if budget < 0 or (isinstance(budget, float) and budget > 1):
            raise UserError(
                f"the budget of broken clips is {budget}: give a count such as 10 or a share such "
                "as 0.01"
            )
        self._path, self._budget = storage(path), budget
        self.records: dict[int, str] = {}
        self._rows: list[dict[str, Any]] = []
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                self._remember(line)

    def _remember(self, line: str) -> None:
        try:
            row = json.loads(line)
            self.records[int(row["record"])] = str(row["id"])
        except (json.JSONDecodeError, KeyError, TypeError):
            return  # damaged: it will be found broken again
        self._rows.append(row)

    def update(self, wanted: Iterable[int], index: Iterable[int], source: Source) -> list[str]:
        """Takes note of a batch.

        Args:
          wanted: [B] records the order asked for.
          index: [B] records that were used; where they differ, the wanted one is broken.
          source: names them.

        Returns:
          The ids that were not known to be broken before.

        Raises:
          UserError: more records are broken than the budget allows; lists the first 20.
        """
        pairs = zip(wanted, index, strict=True)
        fresh = sorted({int(w) for w, used in pairs if int(w) != int(used)} - set(self.records))
        for record in fresh:
            self._append(record, source)
        self._check(len(source))
        return [self.records[record] for record in fresh]

    def _append(self, record: int, source: Source) -> None:
        name = record_name(source, record)
        self.records[record] = name
        self._rows.append({"record": record, "id": name, "reason": why_broken(source, record)})
        lines = "".join(json.dumps(row) + "\n" for row in self._rows)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(
                self._path, lines
            )  # few and short: a store that cannot append takes them all
        except OSError as error:  # storage that fails for a while must not end the run
            log.warning("%s cannot be written for now: %s", self._path, error)

    def _check(self, total: int) -> None:
        share = isinstance(self._budget, float)
        allowed = int(self._budget * total) if share else int(self._budget)
        if len(self.records) <= allowed:
            return
        names = list(self.records.values())
        listed = ", ".join(names[:LISTED]) + (", …" if len(names) > LISTED else "")
        raise UserError(
            f"{len(names)} of {total} clips are broken and the budget is {allowed}: {listed} "
            f"(reasons in {self._path})"
        )


def why_broken(source: Source, record: int) -> str:
    """One line saying why a record cannot be read."""
    try:
        decode_clip(source[record], ExampleSpec())
    except Exception as error:  # what a source raises on a broken record is its own affair
        return f"{type(error).__name__}: {error}".split("\n")[0]
    return "could be read when tried again"
