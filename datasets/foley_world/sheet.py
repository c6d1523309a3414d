"""A contact sheet of prepared clips: frames, waveform, envelope, onsets and caption.

python datasets/foley_world/sheet.py --data_dir data/foley_world/<config>/1.0.1 --out sheet.png
"""

import argparse
import io
import json
import textwrap
from typing import Any

import av
import matplotlib
import numpy as np
import soundfile
import tensorflow_datasets as tfds

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

_FRAMES = 7
_LEFT, _RIGHT, _LEVEL, _ONSET = "#4c78a8", "#72b7b2", "#e45756", "#222222"


def _decode(record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, int]:
    """Frames [T, H, W, 3] uint8, sound [N, 2] and its rate."""
    with av.open(io.BytesIO(record["video"]), "r") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    audio, rate = soundfile.read(io.BytesIO(record["audio"]), dtype="float32", always_2d=True)
    return np.stack(frames), audio, rate


def _film(axes: Axes, frames: np.ndarray, controls: dict[str, Any]) -> None:
    """A strip of frames, the first box track of each drawn on it."""
    picks = np.linspace(0, len(frames) - 1, _FRAMES + 1).astype(int)[:-1] + len(frames) // 14
    size = frames.shape[1]
    gap = np.full((size, size // 28, 3), 255, np.uint8)
    strip = [part for k in picks for part in (frames[k], gap)][:-1]
    axes.imshow(np.concatenate(strip, axis=1), interpolation="lanczos")
    track = controls["where"]["boxes"][0]["boxes"]
    for place, k in enumerate(picks):
        if track[k] is not None:
            x0, y0, x1, y1 = (c * size for c in track[k])
            axes.add_patch(
                plt.Rectangle(
                    (x0 + place * (size + size // 28) - 0.5, y0 - 0.5),
                    x1 - x0,
                    y1 - y0,
                    fill=False,
                    edgecolor="white",
                    linewidth=0.9,
                    alpha=0.85,
                )
            )
    axes.set_aspect("auto")
    axes.set_axis_off()


def _wave(axes: Axes, audio: np.ndarray, rate: int, controls: dict[str, Any]) -> None:
    """Left channel upwards, right one downwards; the envelope over them, onsets as ticks."""
    duration = controls["duration"]
    bins = 900
    count = len(audio) // bins * bins
    peaks = np.abs(audio[:count]).reshape(bins, -1, 2).max(axis=1)
    peaks /= max(float(peaks.max()), 1e-6)
    seconds = (np.arange(bins) + 0.5) * duration / bins
    axes.fill_between(seconds, 0, peaks[:, 0], color=_LEFT, linewidth=0)
    axes.fill_between(seconds, 0, -peaks[:, 1], color=_RIGHT, linewidth=0)
    for section in controls["when"].get("sections", [])[1:]:
        axes.axvline(section["start"], color="#999999", linewidth=1.0, linestyle="--")
    for onset in controls["when"]["onsets"]:
        height = 1.0 + 0.45 * onset["strength"]
        marker = "v" if onset["action"] != "scrape" else "D"
        axes.plot([onset["time"]] * 2, [1.0, height], color=_ONSET, linewidth=1.0)
        axes.plot(onset["time"], height, marker=marker, markersize=3.2, color=_ONSET)
    axes.set(xlim=(0, duration), ylim=(-1.1, 1.6), yticks=[])
    axes.tick_params(axis="x", labelsize=6, length=2)
    level = axes.twinx()
    envelope = controls["when"]["envelope"]
    level.plot(
        np.arange(len(envelope["db"])) / envelope["rate"],
        envelope["db"],
        color=_LEVEL,
        linewidth=1.0,
    )
    level.set(ylim=(-80, 20), yticks=[-60, -30, 0])
    level.tick_params(axis="y", labelsize=6, colors=_LEVEL, length=2)
    for each in (axes, level):
        each.spines[["top", "right", "left"]].set_visible(False)


def _clip(figure: SubFigure, record: dict[str, Any]) -> None:
    frames, audio, rate = _decode(record)
    controls = json.loads(record["controls"])
    film, wave = figure.subplots(
        2,
        1,
        gridspec_kw={
            "height_ratios": [1.0, 0.8],
            "hspace": 0.04,
            "left": 0.02,
            "right": 0.95,
            "top": 0.90,
            "bottom": 0.10,
        },
    )
    caption = record["captions"][0].decode()
    figure.text(
        0.02, 0.925, textwrap.shorten(caption, 150), fontsize=7.5, family="serif", style="italic"
    )
    _film(film, frames, controls)
    _wave(wave, audio, rate, controls)


def sheet(data_dir: str, out: str, clips: int = 8, split: str = "test") -> None:
    """Draws the first `clips` of a split of a prepared data set into the picture file `out`."""
    source = tfds.builder_from_directory(data_dir).as_data_source(split)
    rows = -(-min(clips, len(source)) // 2)
    figure = plt.figure(figsize=(14.0, 2.2 * rows), dpi=110)
    cells = figure.subfigures(rows, 2, wspace=0.02, hspace=0.0, squeeze=False)
    for place in range(min(clips, len(source))):
        _clip(cells[place // 2][place % 2], source[place])
    figure.savefig(out)
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="folder of the prepared data set")
    parser.add_argument("--out", required=True, help="picture file to write")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    sheet(arguments.data_dir, arguments.out, arguments.clips, arguments.split)
