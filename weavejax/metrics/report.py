"""What an evaluator hands back: scalars to log, tables to read, samples to draw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weavejax.metrics.measured import Measured


@dataclass(frozen=True)
class Table:
    """A titled table; cells are text or numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def markdown(self) -> str:
        """GitHub-flavoured Markdown, numbers right-aligned."""
        lines = [f"### {self.title}", "", "| " + " | ".join(self.columns) + " |"]
        first = self.rows[0] if self.rows else [""] * len(self.columns)
        lines.append("|" + "|".join("---" if isinstance(c, str) else "--:" for c in first) + "|")
        lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Histogram:
    """Samples of one quantity by group, drawn over one another."""

    title: str
    label: str
    groups: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Report:
    """Results of one evaluator. Scalars are unrounded; tables are for people.

    `measured` are results with their provenance; `measured_report` makes scalars and a table of them.
    """

    scalars: Mapping[str, float] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    measured: Sequence[Measured] = ()


def measured_report(title: str, results: Sequence[Measured]) -> Report:
    """Scalars by variant id (what stands beside one as `variant/name`), and one table.

    Raises:
      ValueError: two results have the same variant.
    """
    scalars: dict[str, float] = {}
    rows = []
    for result in results:
        if result.variant in scalars:
            raise ValueError(f"{result.variant} was measured twice")
        scalars[result.variant] = result.value
        scalars |= {f"{result.variant}/{name}": v for name, v in result.beside.items()}
        rows.append(_measured_row(result))
    columns = ["variant", "value", "95 %", "n", "beside", "skipped", "Hz", "resampler", "clips"]
    table = Table(title, columns, rows)
    return Report(scalars, [table] if rows else [], measured=tuple(results))


def _measured_row(result: Measured) -> list[Any]:
    taken = result.taken
    return [
        result.variant,
        f"{result.value:.4g}",
        "–" if result.interval is None else "{:.4g}–{:.4g}".format(*result.interval),
        result.count,
        ", ".join(f"{name} {value:.4g}" for name, value in result.beside.items()) or "–",
        ", ".join(f"{count} {why}" for why, count in result.skipped.items()) or "–",
        "–" if taken.rate is None else str(taken.rate),
        taken.resampler or "–",
        taken.manifest,
    ]


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, np.integer)):
        return str(value)
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.3f}"
