"""A bar for a sampling loop that runs on the device."""

from types import TracebackType
from typing import Any

from tqdm import tqdm


class Progress:
    """The `progress` of `sample`, with a bar: steps done, time taken, time left.

    Used as ``with Progress(rows) as progress: sample(..., progress=progress)``. The device reports a
    step's number when it gets there; reports may come late, twice or out of order.

    Attributes:
      done: evaluations known to be done.
    """

    def __init__(self, total: int, **options: Any) -> None:
        """A bar of `total` rows of a table; options are those of tqdm."""
        self.done = 0
        self._bar = tqdm(total=total, **{"desc": "sampling", "unit": "step", **options})

    def __call__(self, number: Any) -> None:
        """`number` evaluations are done."""
        done = max(int(number), self.done)
        self._bar.update(done - self.done)
        self.done = done

    def __enter__(self) -> "Progress":
        """The bar itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the bar; a result still on its way reports to a closed one without harm."""
        self._bar.close()
