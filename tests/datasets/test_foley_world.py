"""The rendered world: its bytes are reproducible and its ground truth is true."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from weavejax.data.folder import open_folder
from weavejax.dials import controls
from weavejax.errors import UserError

DATASETS = Path(__file__).parents[2] / "datasets"
sys.path.insert(0, str(DATASETS))

import foley_world  # noqa: E402
from foley_world import captions, hits, render, sound, staging, walk  # noqa: E402
from foley_world.clips import write_clips  # noqa: E402
from foley_world.scene import Event, Options, Take, directions  # noqa: E402

KINDS = ("hits", "walk")
SMALL = Options(size=56)
MAKE = """
import sys
sys.path.insert(0, {datasets!r})
import foley_world
if __name__ == "__main__":
    foley_world.builder({where!r}, train=9, test=2, size=56, processes=1).download_and_prepare()
"""


def records(data_dir: Path) -> dict[str, list[dict[str, Any]]]:
    (info,) = data_dir.rglob("dataset_info.json")
    builder = tfds.builder_from_directory(str(info.parent))
    return {split: list(builder.as_data_source(split)) for split in ("train", "test")}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    where = tmp_path_factory.mktemp("world")
    builder = foley_world.builder(str(where), train=9, test=2, size=56, processes=2)
    builder.download_and_prepare()
    assert not list((where / ".foley_world-staging").iterdir())
    name = f"foley_world/{builder.builder_config.name}"
    by_name = tfds.data_source(name, split="test", data_dir=str(where))  # no builder code needed
    assert [each["id"] for each in by_name] == [b"test-000000", b"test-000001"]
    return records(where)


@pytest.fixture(scope="module")
def clips() -> list[render.Rendered]:
    return [render.render("train", k, KINDS, SMALL) for k in range(6)]


def plans(count: int) -> list[Take]:
    made = []
    for k in range(count):
        kind = KINDS[k % 2]
        chosen = captions.attributes(kind, False, 3, k)
        module = {"hits": hits, "walk": walk}[kind]
        made.append(module.plan(chosen, np.random.default_rng(k), Options()))
    return made


def test_records_are_clips_in_order(prepared: dict[str, list[dict[str, Any]]]) -> None:
    assert [r["id"].decode() for r in prepared["train"]] == [f"train-{k:06d}" for k in range(9)]
    assert [r["id"].decode() for r in prepared["test"]] == ["test-000000", "test-000001"]
    for record in prepared["train"]:
        assert set(record) == {"id", "video", "audio", "captions", "subtitle", "controls"}
        assert len(record["captions"]) == 3
        assert len(record["controls"]) < 25_000
        assert controls.parse(record["controls"].decode()).duration == 4.0
    assert "tensorflow" not in sys.modules


def test_clips_written_as_files_are_a_folder_of_clips(
    prepared: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    ids = write_clips(prepared["test"], tmp_path)
    source = open_folder(tmp_path)
    assert [source.id(n) for n in range(len(source))] == ids == ["test-000000", "test-000001"]
    clip, record = source[1], prepared["test"][1]
    assert clip.captions == (record["captions"][0].decode(),)
    assert controls.parse((tmp_path / f"{ids[1]}.controls.json").read_text()).duration == 4.0


def test_a_killed_run_goes_on_to_the_same_bytes(
    prepared: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    script = tmp_path / "make.py"
    where = tmp_path / "world"
    script.write_text(MAKE.format(datasets=str(DATASETS), where=str(where)))
    environment = {**os.environ, "PYTHONPATH": str(DATASETS.parent)}
    run = subprocess.Popen(
        [sys.executable, str(script)], env=environment, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 90
    while not (staged := sorted(where.rglob("*.clip"))):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    run.send_signal(signal.SIGKILL)
    run.wait()
    staged[0].write_bytes(staged[0].read_bytes()[:-7])
    assert staging.read(staged[0]) is None
    builder = foley_world.builder(str(where), train=9, test=2, size=56, processes=1)
    builder.download_and_prepare()
    assert records(where) == prepared
    assert children
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_a_damaged_staged_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "train-000000.clip"
    example = {"id": "a", "video": b"v" * 9, "audio": b"", "captions": ["x"], "controls": "{}"}
    assert staging.read(path) is None
    staging.write(path, example)
    assert staging.read(path) == example
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:5], b"", whole[:-1] + b"w", whole + b"w", b"F" + whole[1:]):
        path.write_bytes(damaged)
        assert staging.read(path) is None


def test_a_full_disk_surfaces_and_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as caught:
        staging.write(tmp_path / "a.clip", {"video": b"", "audio": b""})
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ("hits", "swim")}, "'swim'"),
        ({"colour": 3}, "unknown option colour"),
        ({"test": 10**6}, "test must be from 1 to"),
        ({"size": 100}, "multiple of 28"),
        ({"fps": 0}, "fps must be"),
    ],
)
def test_impossible_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        foley_world.builder(str(tmp_path), **options)


def test_the_name_tells_what_changes_the_content(tmp_path: Path) -> None:
    def name(**options: Any) -> str:
        return foley_world.builder(str(tmp_path), **options).builder_config.name

    assert name() == name(processes=3) == "hits_walk-2048x256-s0-112px"
    changed = [
        name(train=8),
        name(test=8),
        name(seed=1),
        name(kinds="walk"),
        name(size=56),
        name(fps=30),
        name(rate=16000),
        name(duration=3.0),
        name(),
    ]
    assert len(set(changed)) == len(changed)


def test_combinations_are_held_out_and_captions_distinct() -> None:
    seen: dict[bool, set[tuple[str, ...]]] = {True: set(), False: set()}
    first: list[str] = []
    words: set[str] = set()
    for kind in KINDS:
        for test, count in ((True, 1500), (False, 1024)):
            for k in range(count):
                chosen = captions.attributes(kind, test, 0, k)
                seen[test].add((kind, *chosen.values()))
                said = captions.captions(kind, chosen, np.random.default_rng(k))
                assert len(said) == len(set(said)) == 3
                for sentence in said:
                    assert 12 <= len(sentence.split()) <= 28, sentence
                    words |= set(sentence.lower().replace(",", "").rstrip(".").split())
                if test:
                    first.append(said[0])
            if not test:
                for name, values in captions.KINDS[kind].ATTRIBUTES.items():
                    used = {captions.attributes(kind, False, 0, k)[name] for k in range(count)}
                    assert used == set(values)
    assert len(seen[True]) == 3000
    assert len(seen[False]) == 2048
    assert not seen[True] & seen[False]
    assert len(set(first)) == 3000
    assert len(words) < 250


def test_every_caption_says_every_attribute() -> None:
    """Changing any one attribute changes every sentence, whatever the synonyms."""
    for kind in KINDS:
        chosen = captions.attributes(kind, False, 0, 5)
        for name, values in captions.KINDS[kind].ATTRIBUTES.items():
            for value in set(values) - {chosen[name]}:
                for k in range(4):
                    before = captions.captions(kind, chosen, np.random.default_rng(k))
                    after = captions.captions(
                        kind, {**chosen, name: value}, np.random.default_rng(k + 50)
                    )
                    assert not set(before) & set(after)


def test_sound_starts_at_the_onsets() -> None:
    checked = 0
    options = Options()
    for k, take in enumerate(plans(16)):
        azimuth, _, distance = directions(take.scene, take.source)
        audio = sound.render(
            take.events,
            options.times,
            azimuth,
            distance,
            take.room,
            4.0,
            44100,
            np.random.default_rng(k),
        )
        assert np.abs(audio).max() < 0.98
        power = (audio**2).mean(axis=1)
        level = np.sqrt(np.convolve(power, np.ones(132) / 132, "full")[: len(power)])  # 3 ms back
        for event in take.events:
            start = round(event.time * 44100)
            before = level[max(start - 1000, 0) : start].max(initial=1e-5)
            after = level[start : start + 4410]
            if after.max() < 10 * before:
                continue  # not isolated: the last event still rings
            rise = int(np.argmax(after > 3 * before)) / 44100
            assert 0.0 < rise < 0.020, (take.source_label, event, rise)
            checked += 1
    assert checked > 50


def test_harder_is_louder() -> None:
    still = np.zeros(1)
    for material, action in [(m, "hit") for m in sound.MODES] + [(g, "step") for g in sound.STEPS]:
        levels = []
        for strength in (0.2, 0.5, 0.9):
            event = Event(0.5, 0.5, strength, material, action)
            audio = sound.render(
                (event,), still, still, still + 2.0, "studio", 2.0, 44100, np.random.default_rng(0)
            )
            levels.append(sound.envelope(audio, 44100, 50.0).max())
        assert levels[0] + 4 < levels[1] < levels[2] - 3, (material, levels)


def test_materials_sound_different() -> None:
    """Nearest centroid on time-averaged log band energies tells the materials apart."""
    edges = np.geomspace(2, 500, 33).astype(int)

    def spectrum(material: str, seed: int) -> np.ndarray:
        event = Event(0.1, 0.1, 0.4 + 0.05 * seed, material, "hit")
        rng = np.random.default_rng(seed)
        audio = sound.render(
            (event,), np.zeros(1), np.zeros(1), np.full(1, 1.6), "studio", 1.0, 44100, rng
        )
        frames = audio.mean(axis=1)[: 43 * 1024].reshape(43, 1024) * np.hanning(1024)
        power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
        return np.asarray(np.log(np.add.reduceat(power, edges, axis=1) + 1e-6).mean(axis=0))

    centres = {m: np.mean([spectrum(m, s) for s in range(4)], axis=0) for m in sound.MODES}
    for material in sound.MODES:
        for seed in range(4, 10):
            found = spectrum(material, seed)
            nearest = min(centres, key=lambda m: float(((centres[m] - found) ** 2).sum()))
            assert nearest == material


def test_the_stick_touches_at_onsets_only() -> None:
    fine = np.arange(0.0, 4.0, 0.001)
    for number, shape in enumerate(hits.ATTRIBUTES["shape"]):
        chosen = {
            **captions.attributes("hits", False, 0, number),
            "shape": shape,
            "pattern": "both",
            "tempo": "steady",
        }
        take = hits.plan(chosen, np.random.default_rng(number), Options())
        strokes = hits.Strokes(list(take.events), shape, 0.36, 0.8, 1.0)
        onsets = np.array([e.time for e in take.events])
        centre = np.array([1.5, 0.2])
        tip, _ = strokes.stick(onsets, centre)
        left, height = tip[:, 1] - centre[1], tip[:, 2]
        if shape == "ball":
            gap = np.hypot(left, height - 0.36) - 0.36
        else:
            gap = height - {"box": 1.7, "cylinder": 1.9, "cone": 2.0}[shape] * 0.36
        np.testing.assert_allclose(gap, hits.STICK_RADIUS, atol=1e-9)
        lift = strokes.lift(fine)
        near = np.zeros(len(fine), bool)
        for event in take.events:
            touching = (fine >= event.time) & (fine <= event.end)
            assert np.abs(lift[touching]).max(initial=0.0) < 1e-9
            near |= (fine > event.time - 0.02) & (fine < event.end + 0.02)
        assert lift[~near].min() > 0.002


def test_feet_land_at_onsets_and_stay() -> None:
    for number, pace in enumerate(walk.GAITS):
        gait = walk.Gait(pace, np.random.default_rng(number), 4.0)
        for side in (0, 1):
            landings = gait.landing_times[side::2]
            landings = landings[(landings > 0.3) & (landings < 3.9)]
            assert len(landings) > 1
            place, sole = gait.foot(side, landings)
            np.testing.assert_allclose(sole, 0.0, atol=1e-6)
            later, still_down = gait.foot(side, landings + 0.9 * gait.stance())
            np.testing.assert_allclose(later, place, atol=1e-9)
            np.testing.assert_allclose(still_down, 0.0, atol=1e-6)
            _, before = gait.foot(side, landings - 0.05)
            assert (before > 1e-3).all()
            _, early = gait.foot(side, landings - 0.5 * gait.step)
            assert (early > 0.02).all()


def test_steps_sound_like_the_ground_under_them() -> None:
    for take in plans(12)[1::2]:
        (_, change, first), (start, _, second) = take.sections
        assert change == start
        assert first != second
        materials = [event.material for event in take.events]
        assert materials == sorted(materials, key=[first, second].index)
        assert set(materials) == {first, second}
        turn = next(e.time for e in take.events if e.material == second)
        assert abs(turn - change) < 0.8


def test_boxes_depth_and_pan_agree_with_the_picture(clips: list[render.Rendered]) -> None:
    panned = 0
    for clip in clips:
        truth = render.truth(clip, SMALL)
        assert truth.where is not None
        assert truth.where.boxes is not None
        assert truth.where.depth is not None
        main = truth.where.boxes[0]
        for picture, box in zip(clip.ids == 1, main.boxes, strict=True):
            assert box is not None
            x0, y0, x1, y1 = (round(c * SMALL.size) for c in box)
            assert picture.sum() == picture[y0:y1, x0:x1].sum() > 50
            inside = picture[y0:y1, x0:x1]
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
        near = np.clip(clip.depth[:, 1::2, 1::2], 0.3, 60.0)
        assert np.abs(truth.where.depth.decode() / near - 1).max() < 0.0106
        object_depth = np.median(clip.depth[clip.ids == 1])
        assert truth.where.sources is not None
        assert abs(object_depth - truth.where.sources[0].distance[0]) < 0.9
        left, right = (clip.audio.astype(np.float64) ** 2).sum(axis=0)
        centre = np.mean([(b[0] + b[2]) / 2 for b in main.boxes if b is not None])
        if abs(centre - 0.5) > 0.12:
            assert (left > 1.5 * right) if centre < 0.5 else (right > 1.5 * left)
            panned += 1
    assert panned >= 2


def test_the_two_cameras_agree(clips: list[render.Rendered]) -> None:
    """A pinhole picture of 90° and the same window of the sphere see the same depths."""
    scene = clips[0].take.scene._replace(fov=np.float32(np.pi / 2))
    still = np.zeros_like(scene.yaw)
    scene = scene._replace(yaw=still, pitch=still)
    _, flat, _ = render.raycast.cast(scene, "pinhole", (56, 56))
    _, sphere, ids = render.raycast.cast(scene, "equirectangular", (112, 224))
    assert np.isin(1, ids[0])
    for row, column in ((28, 28), (40, 20), (20, 44), (35, 30)):
        left, up = 1 - (2 * column + 1) / 56, 1 - (2 * row + 1) / 56
        azimuth, elevation = np.arctan2(left, 1.0), np.arctan2(up, np.hypot(1.0, left))
        y, x = 112 * (0.5 - elevation / np.pi), 224 * (0.5 - azimuth / (2 * np.pi))
        around = sphere[0, int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2]
        assert around.min() * 0.97 < flat[0, row, column] < around.max() * 1.03


def test_the_envelope_is_that_of_the_audio(prepared: dict[str, list[dict[str, Any]]]) -> None:
    for record in prepared["test"]:
        audio, rate = soundfile.read(io.BytesIO(record["audio"]), always_2d=True)
        assert audio.shape == (176400, 2)
        assert rate == 44100
        when = controls.parse(record["controls"].decode()).when
        assert when is not None
        assert when.envelope is not None
        assert len(when.envelope.db) == 200
        mono = np.pad(audio.mean(axis=1), 882)
        for k, level in enumerate(when.envelope.db):
            window = mono[k * 882 : k * 882 + 1764]
            expected = max(20 * np.log10(np.sqrt((window**2).mean()) + 1e-12), -80.0)
            assert abs(level - expected) <= 0.0501
