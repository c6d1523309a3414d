"""What an evaluator hands back: scalars to log, tables to read, samples to draw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


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
    """Results of one evaluator. Scalars are unrounded; tables are for people."""

    scalars: Mapping[str, float] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    histograms: Mapping[str, Histogram] = field(default_factory=dict)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, np.integer)):
        return str(value)
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.3f}"
