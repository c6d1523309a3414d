"""The list of broken records of a run, and the budget that ends it."""

import json
from collections.abc import Iterable
from pathlib import Path

from weavejax.data.clip import Source, record_name
from weavejax.data.example import ExampleSpec, decode_clip
from weavejax.errors import UserError

LISTED = 20  # how many ids the error names


class BrokenLog:
    """Remembers which records could not be read, across restarts, and stops the run past a budget.

    Each broken record is one line of JSON in the file: `record`, `id`, `reason`.

    Args:
      path: the file; lines already in it count.
      budget: how many distinct records may be broken: an int is a count (0 tolerates none), a float
        from 0 to 1 a share of the source.
    """

    def __init__(self, path: str | Path, budget: int | float) -> None:
        if budget < 0 or (isinstance(budget, float) and budget > 1):
            raise UserError(
                f"the budget of broken clips is {budget}: give a count such as 10 or a share such "
                "as 0.01"
            )
        self._path, self._budget = Path(path), budget
        self.records: dict[int, str] = {}
        if self._path.is_file():
            for line in self._path.read_text().splitlines():
                self._remember(line)

    def _remember(self, line: str) -> None:
        try:
            row = json.loads(line)
            self.records[int(row["record"])] = str(row["id"])
        except (json.JSONDecodeError, KeyError, TypeError):
            return  # the last line of a run that was killed while writing it

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
        self._path.parent.mkdir(parents=True, exist_ok=True)
        row = {"record": record, "id": name, "reason": why_broken(source, record)}
        with self._path.open("a+b") as file:
            # After a kill in mid-line, start on a line of our own.
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(json.dumps(row).encode() + b"\n")

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
