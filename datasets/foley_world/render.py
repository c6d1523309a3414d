"""One clip from its index: a pure function of (seed, split, index, options)."""

import io
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import soundfile

from weavejax.dials import controls

from . import captions, hits, raycast, sound, walk
from .scene import Options, Take, directions

SPLITS = ("train", "test")
ENVELOPE_RATE = 50.0
DEPTH_SIDE = 28
DEPTH_NEAR, DEPTH_FAR = 0.3, 60.0
_PLANS = {"hits": hits.plan, "walk": walk.plan}


@dataclass(frozen=True)
class Rendered:
    """A clip before it is encoded, for pictures and tests.

    Attributes:
      rgb: [T, H, W, 3] uint8.
      depth: [T, H, W] metres along the ray.
      ids: [T, H, W] track ids.
      audio: [N, 2] float32, quantised to 16 bits.
      take: the plan.
      attributes: what the captions say.
      captions: the sentences.
    """

    rgb: np.ndarray
    depth: np.ndarray
    ids: np.ndarray
    audio: np.ndarray
    take: Take
    attributes: dict[str, str]
    captions: tuple[str, ...]


def render(split: str, index: int, kinds: tuple[str, ...], options: Options) -> Rendered:
    """Renders clip `index` of `split`; kinds take turns."""
    kind, number = kinds[index % len(kinds)], index // len(kinds)
    chosen = captions.attributes(kind, split == "test", options.seed, number)
    stream = np.random.SeedSequence([options.seed, SPLITS.index(split), index])
    for_plan, for_sound, for_words = (np.random.default_rng(s) for s in stream.spawn(3))
    take = _PLANS[kind](chosen, for_plan, options)
    rgb, depth, ids = raycast.cast(take.scene, take.projection, (options.size, options.size))
    azimuth, _, distance = directions(take.scene, take.source)
    audio = sound.render(
        take.events,
        options.times,
        azimuth,
        distance,
        take.room,
        options.duration,
        options.rate,
        for_sound,
    )
    audio = (np.rint(audio * 32768.0) / 32768.0).astype(np.float32)
    return Rendered(
        rgb, depth, ids, audio, take, chosen, captions.captions(kind, chosen, for_words)
    )


def example(split: str, index: int, kinds: tuple[str, ...], options: Options) -> dict[str, Any]:
    """Renders and encodes clip `index`: the fields of a `Clip` record."""
    clip = render(split, index, kinds, options)
    return {
        "id": f"{split}-{index:06d}",
        "video": encode_video(clip.rgb, options.fps),
        "audio": encode_audio(clip.audio, options.rate),
        "captions": list(clip.captions),
        "subtitle": "",
        "controls": controls.dump(truth(clip, options)),
    }


def encode_video(rgb: np.ndarray, fps: int) -> bytes:
    """H.264 in mp4, 4:2:0, constant frame rate, no B-frames, a key frame every 12."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = rgb.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.gop_size, stream.max_b_frames = 12, 0
        stream.codec_context.thread_count = 1  # more would make the bytes depend on the machine
        # x264's macroblock tree is left out: with it the same pictures give now and then other bytes.
        settings = "mbtree=0:rc-lookahead=0"
        stream.options = {"preset": "veryfast", "crf": "20", "x264-params": settings}
        for picture in rgb:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return target.getvalue()


def encode_audio(audio: np.ndarray, rate: int) -> bytes:
    """16-bit FLAC."""
    target = io.BytesIO()
    soundfile.write(target, audio, rate, format="FLAC", subtype="PCM_16")
    return target.getvalue()


def truth(clip: Rendered, options: Options) -> controls.Controls:
    """The controls file of a clip, from what was drawn and synthesised."""
    take, times = clip.take, options.times
    onsets = tuple(
        controls.Onset(e.time, e.strength, f"{e.action} {e.material}", e.material, e.action)
        for e in take.events
    )
    sections = tuple(controls.Section(*section) for section in take.sections)
    levels = sound.envelope(clip.audio, options.rate, ENVELOPE_RATE)
    step = max(options.size // DEPTH_SIDE, 1)
    coarse = clip.depth[:, step // 2 :: step, step // 2 :: step]
    return controls.Controls(
        options.duration,
        controls.When(
            onsets, sections or None, controls.Envelope(ENVELOPE_RATE, _rounded(levels, 1))
        ),
        controls.What(clip.captions[0]),
        controls.Where(
            tuple(
                _boxes(clip.ids == number, label, times) for number, label in take.tracks.items()
            ),
            controls.Depth.encode(coarse, options.fps, DEPTH_NEAR, DEPTH_FAR),
            _view(take, times),
            (_source(take, times),),
        ),
    )


def _rounded(values: np.ndarray, digits: int) -> tuple[float, ...]:
    return tuple(np.round(values.astype(np.float64), digits).tolist())


def _boxes(mask: np.ndarray, label: str, times: np.ndarray) -> controls.BoxTrack:
    """The tightest boxes around the pixels of `mask` [T, H, W]; None where there are none."""
    height, width = mask.shape[1:]
    boxes: list[tuple[float, float, float, float] | None] = []
    for picture in mask:
        y, x = np.flatnonzero(picture.any(axis=1)), np.flatnonzero(picture.any(axis=0))
        boxes.append(
            (
                round(float(x[0]) / width, 4),
                round(float(y[0]) / height, 4),
                round((float(x[-1]) + 1) / width, 4),
                round((float(y[-1]) + 1) / height, 4),
            )
            if len(x)
            else None
        )
    return controls.BoxTrack(label, _rounded(times, 4), tuple(boxes))


def _view(take: Take, times: np.ndarray) -> controls.View:
    yaw, pitch = np.degrees(take.scene.yaw), np.degrees(take.scene.pitch)
    still = np.ptp(yaw) == 0.0 and np.ptp(pitch) == 0.0
    kept = slice(0, 1) if still else slice(None)
    fov = round(float(np.degrees(take.scene.fov)), 2)
    return controls.View(
        take.projection,
        fov,
        _rounded(times[kept], 4),
        _rounded(yaw[kept], 2),
        _rounded(pitch[kept], 2),
    )


def _source(take: Take, times: np.ndarray) -> controls.SourceTrack:
    tracks = directions(take.scene, take.source)
    kept = slice(0, 1) if all(np.ptp(t) < 1e-6 for t in tracks) else slice(None)
    azimuth, elevation, distance = (_rounded(t[kept], 2) for t in tracks)
    return controls.SourceTrack(
        take.source_label, _rounded(times[kept], 4), azimuth, elevation, distance
    )
