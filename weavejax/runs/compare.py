"""Several runs in one table: `python -m weavejax.evaluate --compare DIR…`."""

import json
from collections.abc import Sequence
from pathlib import Path

from weavejax.metrics.interval import Interval
from weavejax.runs import places
from weavejax.runs.grouping import (
    HEADLINE,
    LEVEL,
    REVERSE,
    Column,
    Group,
    choose_metrics,
    group_runs,
    make_column,
)
from weavejax.runtime.plots import new_figure
from weavejax.storage import write_text

FEW = 2  # keys that differ; of more, a sweep's own names say what the runs are
BESIDE = 3  # panels in a row of the picture
FLAGS = {
    "compare": "DIR…: runs, or folders of runs, to put into one table; writes compare.md/json/png",
    "metrics": "of --compare, names in results.json, with * and commas; headline and reverse are each "
    "run's own, headline+match its second stage, headline-50% where clips lack a stream; stages is "
    f"all of these; default {HEADLINE},{REVERSE}",
    "across": "of --compare, data keys (data.options.train, …) that are meant to differ",
    "out": "of --compare, where to write; default the folder that holds the runs",
}


def wanted(argv: Sequence[str]) -> bool:
    """Whether the command line asks for a comparison."""
    return places.wanted(argv, "compare")


def run(argv: Sequence[str]) -> None:
    """Reads the runs, prints the table, writes compare.md, compare.json and compare.png.

    Raises:
      UserError: no runs there, different data, unknown metrics, or two runs of one config and seed.
    """
    given = places.parse(argv, "compare", metrics=f"{HEADLINE},{REVERSE}", across="", out="")
    runs, warnings = given.runs, given.warnings
    across = [key for key in given.flags["across"].split(",") if key]
    groups = group_runs(runs, across)
    columns = [make_column(name, groups) for name in choose_metrics(given.flags["metrics"], runs)]
    out = given.out
    out.mkdir(parents=True, exist_ok=True)
    text = markdown(groups, columns, warnings)
    write_text(out / "compare.md", f"# Comparison\n\n{text}")
    write_text(out / "compare.json", _json(groups, columns, warnings))
    _draw(groups, columns, out / "compare.png")
    print(text)
    print(f"written to {out}/compare.md, compare.json and compare.png")


def markdown(groups: Sequence[Group], columns: Sequence[Column], warnings: Sequence[str]) -> str:
    """The table and how to read it."""
    keys = list(groups[0].changes)
    named = len(keys) > FEW and all(group.label for group in groups)
    heads = [*(["run"] if named else keys or ["group"]), "seeds"]
    heads += [column.name for column in columns]
    lines = ["| " + " | ".join(heads) + " |"]
    lines.append("|" + "---|" * (len(heads) - len(columns) - 1) + "--:|" * (len(columns) + 1))
    for row, group in enumerate(groups):
        changes = [str(group.changes[key]) for key in keys] or [group.name]
        cells = [group.label] if named else changes
        cells += [str(len(group.runs)), *(_cell(column, row) for column in columns)]
        lines.append("| " + " | ".join(cells) + " |")
    legend = f"Mean over seeds ± {LEVEL:.0%} interval by Student's t."
    if len(groups) > 1:
        legend += " Bold: the best, where its interval does not overlap that of the next"
        some = any(column.best is not None for column in columns)
        legend += "." if some else "; here no best stands out."
    lines += ["", legend, *(f"Warning: {line}." for line in warnings)]
    return "\n".join(lines) + "\n"


def _cell(column: Column, row: int) -> str:
    found = column.intervals[row]
    if found is None:
        return "–"
    digits = 1 if abs(found.mean) >= 1 else 3
    text = f"{found.mean:.{digits}f}" + (f" ± {found.half:.{digits}f}" if found.count > 1 else "")
    return f"**{text}**" if column.best == row else text


def _half(found: Interval | None) -> float | None:
    return found.half if found is not None and found.count > 1 else None


def _json(groups: Sequence[Group], columns: Sequence[Column], warnings: Sequence[str]) -> str:
    content = {
        "level": LEVEL,
        "warnings": list(warnings),
        "groups": [
            {
                "changes": dict(group.changes),
                "runs": [str(run.path) for run in group.runs],
                "metrics": {
                    column.name: {
                        "by seed": dict(column.values[row]),
                        "mean": None if found is None else found.mean,
                        "half width": _half(found),
                        "stands out": column.best == row,
                    }
                    for column in columns
                    for found in [column.intervals[row]]
                },
            }
            for row, group in enumerate(groups)
        ],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _draw(groups: Sequence[Group], columns: Sequence[Column], path: Path) -> None:
    """Dots are seeds, bars are means with their intervals; one panel a metric."""
    wide = min(len(columns), BESIDE)
    high = -(-len(columns) // wide)
    figure = new_figure(2.5 + 3.6 * wide, high * (1.2 + 0.3 * len(groups)))
    panels = figure.subplots(high, wide, sharey=True, squeeze=False)
    rows = range(len(groups))
    for axes in panels.flat[len(columns) :]:
        axes.set_axis_off()
    for axes, column in zip(panels.flat, columns, strict=False):
        for row in rows:
            values = list(column.values[row].values())
            axes.plot(values, [row] * len(values), "o", color="tab:blue", alpha=0.5, ms=5)
            found = column.intervals[row]
            if found is not None:
                bar = _half(found)
                axes.errorbar(found.mean, row, xerr=bar, fmt="|", color="black", ms=14, capsize=4)
        axes.set_title(column.name.replace(" (", "\n("), fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.25)
    many = len(groups[0].changes) > FEW
    names = [(many and group.label) or group.name.replace(", ", "\n") for group in groups]
    for axes in panels[:, 0]:
        axes.set_yticks(rows, names, fontsize=8)
        axes.set_ylim(len(groups) - 0.5, -0.5)
    figure.savefig(path, dpi=120)
