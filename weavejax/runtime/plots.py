"""The plots of a working directory."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from weavejax.storage import Storage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]


def plot_scalars(
    rows: Rows, kind: str, names: Mapping[str, str], path: Storage, *, title: str, label: str
) -> None:
    """Curves over steps.

    Args:
      rows: of `metrics.jsonl`.
      kind: which rows to take.
      names: scalar → legend.
      path: of the PNG.
      title: above the axes.
      label: of the vertical axis.
    """
    figure, axes = _axes(title, "step", label)
    for name, legend in names.items():
        points = [(row["step"], row[name]) for row in rows if row["kind"] == kind and name in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=legend, marker="o" * (len(points) < 20))
    axes.legend(frameon=False)
    _save(figure, path)


def plot_histogram(
    groups: Mapping[str, np.ndarray], path: Storage, *, title: str, label: str
) -> None:
    """Densities of several groups over one another, on common bins."""
    figure, axes = _axes(title, label, "density")
    values = np.concatenate([np.ravel(v) for v in groups.values()])
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    bins = np.linspace(low, high + 1e-6, 61)
    for name, samples in groups.items():
        text = f"{name} ({len(samples):,}, median {np.median(samples):.3f})"
        axes.hist(samples, bins=bins, density=True, alpha=0.6, label=text)
    axes.legend(frameon=False)
    _save(figure, path)


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, inches; without pyplot: no global state, no display, safe in any process."""
    from matplotlib.figure import Figure  # costs every start half a second, and few need it

    return Figure(figsize=(width, height), layout="constrained")


def _axes(title: str, x: str, y: str) -> tuple["Figure", Any]:
    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _save(figure: "Figure", path: Storage) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:  # which an object store can do as well
        figure.savefig(file, dpi=120, format="png")
