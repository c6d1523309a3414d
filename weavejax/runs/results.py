"""What a run leaves for its reader: results.json, results.md and plots/."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import weavejax
from weavejax.metrics.report import Report
from weavejax.runtime.plots import plot_histogram, plot_scalars
from weavejax.runtime.records import read_rows
from weavejax.storage import write_text


def scalars(reports: Mapping[str, Report]) -> dict[str, float]:
    """All scalars, each under its evaluator's name."""
    return {
        f"{evaluator}/{name}": value
        for evaluator, report in reports.items()
        for name, value in report.scalars.items()
    }


def markdown(reports: Mapping[str, Report]) -> str:
    """All tables."""
    return "\n".join(table.markdown() for report in reports.values() for table in report.tables)


def provenance(reports: Mapping[str, Report]) -> dict[str, dict[str, Any]]:
    """How each result was taken, with its interval, by the names of `scalars`."""
    return {
        f"{evaluator}/{result.variant}": result.plain()
        for evaluator, report in reports.items()
        for result in report.measured
    }


def write_results(
    workdir: Path, reports: Mapping[str, Report], *, headline: str, facts: Mapping[str, Any]
) -> None:
    """Writes the tables and draws the plots.

    Args:
      workdir: of the run.
      reports: by evaluator.
      headline: the scalar to draw over steps, with its reverse direction.
      facts: about this evaluation (step, data, time, …); they head both files.
    """
    facts = {"weavejax": weavejax.__version__, **facts}
    content = {**facts, "headline": headline, "results": scalars(reports)}
    if measured := provenance(reports):
        content["measured"] = measured
    write_text(workdir / "results.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    head = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    write_text(workdir / "results.md", f"# Results\n\n{head}\n\n{markdown(reports)}")
    draw(workdir, reports, headline)


def draw(workdir: Path, reports: Mapping[str, Report], headline: str) -> None:
    """plots/loss.png, plots/evaluation.png and one per histogram."""
    rows = read_rows(workdir / "metrics.jsonl")
    losses = dict.fromkeys(name for row in rows for name in row if name.startswith("loss"))
    losses.pop("loss/blend", None)
    plots = workdir / "plots"
    plot_scalars(
        rows,
        "train",
        {n: n for n in losses},
        plots / "loss.png",
        title="Training loss",
        label="loss",
    )
    # A recall is drawn with that of the other direction.
    names = (headline, _reverse(headline)) if "→" in headline else (headline,)
    shown = {name: name.split("/", 1)[1] for name in names}
    title, label = ("Recall over steps", "%") if len(names) > 1 else ("Evaluation over steps", "")
    plot_scalars(rows, "eval", shown, plots / "evaluation.png", title=title, label=label)
    for report in reports.values():
        for name, histogram in report.histograms.items():
            plot_histogram(
                histogram.groups,
                plots / f"{name}.png",
                title=histogram.title,
                label=histogram.label,
            )


def _reverse(headline: str) -> str:
    """retrieval/volume/text→video/R@1 → retrieval/volume/video→text/R@1."""
    *front, way, metric = headline.split("/")
    query, gallery = way.split("→")
    return "/".join([*front, f"{gallery}→{query}", metric])
