"""Published tables with our own rows beside them: `python -m weavejax.evaluate --tables DIR…`.

The published figures are those of SyncFusion (arXiv 2310.15247), Stable-V2A / Fol·AI (arXiv 2412.15023)
and StereoSync (arXiv 2510.05828) on Greatest Hits and Walking The Maps, as their authors show them
together. Ours are of whatever the runs were evaluated on, which the heading names: the layout is
shared, the data are not, and so the figures do not compare.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from weavejax.errors import UserError
from weavejax.metrics.interval import student_interval
from weavejax.metrics.report import Table
from weavejax.runs import places
from weavejax.runs.grouping import LEVEL, Run
from weavejax.storage import write_text

FLAGS = {
    "tables": "DIR…: runs of the systems of when, put into the layout of the published tables, beside "
    "the published rows; writes tables.md"
}
Figures = Mapping[str, float | str]  # by column


class Own(NamedTuple):
    """A row of ours.

    Attributes:
      name: of the row.
      system: of the runs that it comes from.
      figures: column → (name among a run's results, factor).
      needs: a result that the runs have besides: what tells a stage from another.
    """

    name: str
    system: str
    figures: Mapping[str, tuple[str, float]]
    needs: str = ""


class Published(NamedTuple):
    """A published table, and the rows of ours that belong to it."""

    title: str
    columns: Sequence[str]
    rows: Mapping[str, Figures]
    own: Sequence[Own] = ()


def _row(columns: Sequence[str], *values: float | str) -> Figures:
    return dict(zip(columns, values, strict=False))


_DETECTION = ("BCE", "#Onset Acc", "AP", "AP within 50 ms, sound")
_ONSETS = ("#Onset Acc", "AP", "FAD", "F1 within 50 ms, sound")
_SOUND = ("FAD-P", "FAD-C", "FAD-LC", "E-L1", "CLAP", "FAVD", "E-L1 of silence", "envelope r")


def _onsets(part: str) -> dict[str, tuple[str, float]]:
    return {
        "#Onset Acc": (f"{part}/onset_count_acc_syncfusion_annotated", 100.0),
        "AP": (f"{part}/onset_ap_syncfusion_100ms_annotated", 100.0),
        "F1 within 50 ms, sound": (f"{part}/onset_f1_sound_50ms_annotated", 100.0),
    }


def _levels(part: str) -> dict[str, tuple[str, float]]:
    return {
        "E-L1": (f"{part}/e_l1_44k_rms512_128", 1.0),
        "E-L1 of silence": (f"{part}/e_l1_44k_rms512_128/silence", 1.0),
        "envelope r": (f"{part}/envelope_correlation_44k_rms512_128", 1.0),
    }


PUBLISHED = (
    Published(
        "1. Onset network, Greatest Hits",
        _DETECTION,
        {
            "SyncFusion, no augmentation": _row(_DETECTION, 3.79, 43.07, 87.71),
            "SyncFusion, augmentation": _row(_DETECTION, 2.64, 49.39, 88.83),
        },
        (
            Own(
                "onset network",
                "onset",
                {
                    "BCE": ("onsets/detector_bce_balanced_frames", 1.0),
                    "#Onset Acc": ("onsets/detector_count_acc_candidates", 100.0),
                    "AP": ("onsets/detector_ap_balanced_frames", 100.0),
                    "AP within 50 ms, sound": ("onsets/detector_ap_clips_50ms", 100.0),
                },
            ),
        ),
    ),
    Published(
        "2. Diffusion on given onsets, Greatest Hits",
        _ONSETS,
        {
            "SyncFusion, text": _row(_ONSETS, 84.38, 98.12, 1.68),
            "SyncFusion, audio + text": _row(_ONSETS, 89.38, 98.75, 1.48),
        },
        (
            Own("annotated onsets, text", "syncfusion", _onsets("controlled")),
            Own("no onsets, text", "syncfusion", _onsets("uncontrolled")),
        ),
    ),
    Published(
        "3. From video to sound, Greatest Hits",
        _ONSETS,
        {
            "CondFoleyGen": _row(_ONSETS, 23.94, 62.44, 6.10),
            "SyncFusion, augmentation": _row(_ONSETS, 49.38, 79.11, 5.38),
            "SyncFusion, no augmentation": _row(_ONSETS, 56.87, 84.37, 5.50),
        },
        (Own("onsets of the onset network, text", "syncfusion", _onsets("predicted")),),
    ),
    Published(
        "4. Sound under an envelope, Greatest Hits",
        _SOUND,
        {
            "SpecVQGAN": _row(_SOUND, 99.07, 1001, 0.710, 0.043, 0.142, 6.513),
            "Diff-Foley": _row(_SOUND, 85.70, 654, 0.469, 0.045, 0.373, 4.618),
            "CondFoleyGen, audio": _row(_SOUND, 74.93, 650, 0.488, 0.035, 0.488, 6.481),
            "SyncFusion, text": _row(_SOUND, 35.64, 591, 0.436, 0.023, 0.515, 4.302),
            "SyncFusion, audio": _row(_SOUND, 27.85, 542, 0.279, 0.017, 0.662, 3.282),
            "Video-Foley, text": _row(_SOUND, 67.04, 644, 0.499, 0.024, 0.368, 4.910),
            "Video-Foley, audio": _row(_SOUND, 28.45, 435, 0.167, 0.018, 0.678, 2.207),
            "Fol·AI, text": _row(_SOUND, 32.80, 381, 0.251, 0.013, 0.480, 3.941),
            "Fol·AI, audio (of the target itself)": _row(
                _SOUND, 16.57, 217, 0.105, 0.013, 0.683, 2.026
            ),
        },
        (
            Own("envelope of the truth, text", "folai", _levels("controlled")),
            Own("envelope of the envelope network, text", "folai", _levels("predicted")),
            Own(
                "the same model without an envelope, text",
                "folai",
                _levels("uncontrolled"),
                needs="controlled/e_l1_44k_rms512_128",
            ),
        ),
    ),
    Published(
        "5. Sound under an envelope, Walking The Maps",
        _SOUND,
        {
            "Fol·AI": _row(_SOUND, "", 167, 0.255, 0.046, 0.480, 3.068),
            "StereoSync": _row(_SOUND, "", "", 0.230, 0.047),
            "StereoSync without space": _row(_SOUND, "", "", 0.256, 0.062),
        },
    ),
)


def wanted(argv: Sequence[str]) -> bool:
    """Whether the command line asks for the tables."""
    return places.wanted(argv, "tables")


def run(argv: Sequence[str]) -> None:
    """Reads the runs, prints the tables, writes tables.md.

    Raises:
      UserError: no finished runs there, or none of a system that these tables are of.
    """
    given = places.parse(argv, "tables", out="")
    text, out = markdown(given.runs), given.out
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "tables.md", f"# Tables\n\n{text}")
    print(text)
    print(f"written to {out}/tables.md")


def markdown(runs: Sequence[Run]) -> str:
    """All tables, published rows first; raises UserError where no run has a row in any."""
    used = [own for table in PUBLISHED for own in table.own if _seeds(own, runs)]
    if not used:
        systems = sorted({own.system for table in PUBLISHED for own in table.own})
        raise UserError(f"none of the runs is of {', '.join(systems)}: the tables are of these")
    names = {own.system for own in used}
    data = sorted({run.data for run in runs if run.config["system"] in names and run.data})
    head = (
        "Rows in italics are ours, mean over seeds "
        f"± {LEVEL:.0%} interval, of {'; '.join(data) or 'their own data'}: another data set than the "
        "published rows are of, with which they do not compare."
    )
    return "\n".join([head, "", *(_table(table, runs).markdown() for table in PUBLISHED)])


def _table(table: Published, runs: Sequence[Run]) -> Table:
    rows = [
        [name, *(_plain(figures.get(column, "")) for column in table.columns)]
        for name, figures in table.rows.items()
    ]
    for own in table.own:
        seeds = _seeds(own, runs)
        if seeds:
            cells = [_cell(own.figures.get(column), seeds) for column in table.columns]
            rows.append([f"*{own.name}* ({len(seeds)} seed{'s' * (len(seeds) > 1)})", *cells])
    return Table(table.title, ["", *table.columns], rows)


def _seeds(own: Own, runs: Sequence[Run]) -> list[Run]:
    """The runs that a row is of: those that have all its figures."""
    names = [name for name, _ in own.figures.values()] + [own.needs] * bool(own.needs)
    return [
        run
        for run in runs
        if run.config["system"] == own.system and all(name in run.scalars for name in names)
    ]


def _plain(value: float | str) -> str:
    return f"{value:g}" if value != "" else "–"


def _cell(figure: tuple[str, float] | None, seeds: Sequence[Run]) -> str:
    if figure is None:
        return "–"
    name, factor = figure
    found = student_interval([factor * run.scalars[name] for run in seeds], LEVEL)
    digits = 2 if factor > 1 else 4  # percent, or a level
    half = f" ± {found.half:.{digits}f}" if found.count > 1 else ""
    return f"{found.mean:.{digits}f}{half}"
