"""Finished runs, grouped by what differs between their configs except the seed."""

import fnmatch
import glob
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from weavejax import systems
from weavejax.errors import UserError
from weavejax.metrics.interval import Interval, student_interval
from weavejax.metrics.measured import direction
from weavejax.runtime.workdir import CONFIG, FREE, read_config, read_json

HEADLINE, REVERSE = "headline", "reverse"
# What may follow them: the second stage, and the recall where a share of the clips lack a stream.
VARIANTS = re.compile(rf"^({HEADLINE}|{REVERSE})(\+match)?(?:-(\d+%))?$")
# Short for the forms of the headline that tell scores apart, as far as some run has them.
STAGES = "stages"
FORMS = [f"{way}{form}" for form in ("", "+match", "-50%") for way in (HEADLINE, REVERSE)]
LEVEL = 0.95


class Run(NamedTuple):
    """A finished run: its config by dotted keys, its scalars, and the line that names its data."""

    path: Path
    config: Mapping[str, Any]
    scalars: Mapping[str, float]
    data: str
    headline: str


class Group(NamedTuple):
    """Runs that differ in their seed only; `changes` is what sets them apart from other groups."""

    changes: Mapping[str, Any]
    runs: list[Run]

    @property
    def name(self) -> str:
        """ "loss.score=volume, loss.warmup_steps=60"."""
        return ", ".join(f"{key}={value}" for key, value in self.changes.items()) or "all runs"

    @property
    def label(self) -> str:
        """What a sweep called its runs: their directory's name before the seed; "" without one."""
        names = {run.path.name.removesuffix(f"-{run.config['seed']}") for run in self.runs}
        own = names & {run.path.name for run in self.runs}
        return "" if len(names) > 1 or own else names.pop()


class Column(NamedTuple):
    """One metric: a seed → value mapping and an interval for each group, and which is best, if any.

    An interval is None where a group has no such metric. `best` is None where the direction is unknown
    or the intervals of the best two overlap.
    """

    name: str
    values: Sequence[Mapping[int, float]]
    intervals: Sequence[Interval | None]
    best: int | None


def find_runs(places: Sequence[str]) -> list[Path]:
    """Working directories at or below places, which may be globs, each once.

    Raises:
      UserError: a place without any.
    """
    found: dict[Path, None] = {}
    for place in places:
        roots = (
            [Path(p) for p in sorted(glob.glob(place))] if glob.has_magic(place) else [Path(place)]
        )
        below = [path for root in roots for path in _below(root)]
        if not below:
            raise UserError(f"no run at or below {place}: no folder there holds a {CONFIG}")
        found |= dict.fromkeys(below)
    return list(found)


def _below(root: Path) -> list[Path]:
    runs = []
    for folder, inside, files in os.walk(root):
        inside.sort()
        if CONFIG in files:
            runs.append(Path(folder))
            inside.clear()  # a run holds no runs
    return runs


def read_runs(directories: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The runs that have come to their end, and a warning for each that is left out or older.

    Raises:
      UserError: none has.
    """
    runs, warnings = [], []
    for path in directories:
        config = read_config(path)
        if not (path / "results.json").is_file():
            warnings.append(f"{path} is not finished (no results.json): left out")
            continue
        results = read_json(path / "results.json")
        if results["step"] < config.steps:
            warnings.append(
                f"{path} is left out: its results are of step {results['step']} of {config.steps}; "
                "train it to its end, or evaluate its latest checkpoint"
            )
            continue
        headline = results.get(HEADLINE) or systems.build(config).headline
        flat = dict(_flat(json.loads(config.to_json_best_effort())))
        runs.append(Run(path, flat, results["results"], results.get("data", ""), headline))
    if not runs:
        raise UserError(f"none of the {len(directories)} run(s) is finished; {'; '.join(warnings)}")
    return runs, warnings


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [item for key, inner in value.items() for item in _flat(inner, f"{prefix}{key}.")]
    return [(prefix[:-1], value)]


def group_runs(runs: Sequence[Run], across: Sequence[str] = ()) -> list[Group]:
    """Groups in the order of their first run; `runtime` and where data lie do not count.

    Args:
      runs: at least one.
      across: keys of `data` that may differ.

    Raises:
      UserError: other data or another evaluation set in some runs, or a repeated seed.
    """
    keys = dict.fromkeys(key for run in runs for key in run.config)
    skipped = {"seed", "data.broken"}
    differing = [
        key
        for key in keys
        if key not in skipped
        and not FREE.match(key)
        and len({repr(run.config.get(key, "absent")) for run in runs}) > 1
    ]
    other = [key for key in differing if key.split(".")[0] == "data" and key not in across]
    for key in other:
        values = sorted({str(run.config.get(key, "absent")) for run in runs})
        raise UserError(
            f"the runs are of different data ({key}: {', '.join(values)}), so their figures do not "
            f"compare; leave some out, or give --across {key} if that is the point"
        )
    if not across and len({run.data for run in runs}) > 1:
        one, two = sorted({run.data for run in runs})[:2]
        raise UserError(f"the runs are of different data: {one!r} and {two!r}; leave some out")
    groups: dict[str, Group] = {}
    for run in runs:
        changes = {key: run.config.get(key, "absent") for key in differing}
        group = groups.setdefault(repr(changes), Group(changes, []))
        twin = next((r for r in group.runs if r.config["seed"] == run.config["seed"]), None)
        if twin is not None:
            raise UserError(
                f"{twin.path} and {run.path} are of the same config and seed: leave one out"
            )
        group.runs.append(run)
    return list(groups.values())


def choose_metrics(patterns: str, runs: Sequence[Run]) -> list[str]:
    """Metric names, in the order given; patterns stand for what every run has."""
    present = [n for n in runs[0].scalars if all(n in run.scalars for run in runs)]
    out: dict[str, None] = {}
    for pattern in filter(None, patterns.split(",")):
        if pattern == STAGES:
            out |= dict.fromkeys(form for form in FORMS if any(_name(run, form) for run in runs))
            continue
        if pattern == REVERSE and not any("→" in run.headline for run in runs):
            continue  # the default asks for it; not every system looks both ways
        own = VARIANTS.match(pattern) and any(_name(run, pattern) for run in runs)
        matching = [pattern] if own else fnmatch.filter(present, pattern)
        if not matching:
            some = ", ".join(present[:4])
            raise UserError(f"no metric {pattern!r} in all runs; there are {some}, …")
        out |= dict.fromkeys(matching)
    return list(out)


def make_column(name: str, groups: Sequence[Group]) -> Column:
    """One metric over all groups."""
    values = [
        {run.config["seed"]: run.scalars[key] for run in group.runs if (key := _name(run, name))}
        for group in groups
    ]
    intervals = [student_interval(list(each.values()), LEVEL) if each else None for each in values]
    title = _title(name, [_name(run, name) for group in groups for run in group.runs])
    return Column(title, values, intervals, _best(intervals, _direction(title)))


def _name(run: Run, wanted: str) -> str:
    """The run's own name of a metric; "" where it has none."""
    found = VARIANTS.match(wanted)
    if not found:
        return wanted
    way, match, share = found.groups()
    if "→" not in run.headline:  # of one direction and one stage
        return run.headline if way == HEADLINE and not match and not share else ""
    *front, score, direction, metric = (
        run.headline if way == HEADLINE else _reverse(run.headline)
    ).split("/")
    score += ", then match" if match else ""
    direction += f" ({share} of clips lack a stream)" if share else ""
    name = "/".join([*front, score, direction, metric])
    return name if name in run.scalars else ""


def _reverse(headline: str) -> str:
    *front, way, metric = headline.split("/")
    return "/".join([*front, "→".join(reversed(way.split("→"))), metric])


def _title(name: str, own: Sequence[str]) -> str:
    """A headline by its name; by its end where runs are judged by different scores."""
    found = VARIANTS.match(name)
    if not found:
        return name
    names = {each for each in own if each}
    if len(names) == 1:
        return names.pop()
    ends = {"/".join(n.split("/")[-2:]) for n in names}
    second = ", second stage" if found[2] else ""
    return f"{' or '.join(sorted(ends))} (each by its own score{second})"


def _direction(title: str) -> int:
    """+1: higher is better, −1: lower is better, 0: neither is known."""
    words = title.split(" (each")[0].split("/")[-1]
    return 1 if words.startswith("R@") else -1 if words == "MdR" else direction(words)


def _best(intervals: Sequence[Interval | None], direction: int) -> int | None:
    known = {row: found for row, found in enumerate(intervals) if found is not None}
    if not direction or len(known) < 2:
        return None
    first, second = sorted(known, key=lambda row: -direction * known[row].mean)[:2]
    return None if known[first].overlaps(known[second]) else first
