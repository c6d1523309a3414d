"""Batches: purity under hosts, workers and resumption; broken records; evaluation."""

import itertools
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from making_media import FailingSource, ListSource, small_clips

from weavejax.data import pipeline
from weavejax.data.clip import Clip
from weavejax.data.example import ExampleSpec
from weavejax.data.order import record_order, replacement
from weavejax.data.pipeline import Batch, eval_batches, train_batches
from weavejax.data.text import train_tokenizer
from weavejax.errors import UserError

SPEC = ExampleSpec(
    frames=2, size=16, crop="crop_flip", audio_frames=30, text_length=10, candidates=4
)
CLIPS = small_clips(10)
SOURCE = ListSource(CLIPS)
BROKEN = ListSource(CLIPS, frozenset({3, 4, 7}))
TOKENIZER = train_tokenizer(SOURCE.captions(), 60)


def take(count: int, source: ListSource = SOURCE, **options: object) -> list[Batch]:
    fields = {"batch": 4, "seed": 5} | options
    with train_batches(source, SPEC, TOKENIZER, **fields) as batches:  # type: ignore[arg-type]
        return list(itertools.islice(batches, count))


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for key in left:
            assert left[key].dtype == right[key].dtype
            np.testing.assert_array_equal(left[key], right[key], err_msg=key)


@pytest.fixture(scope="module")
def reference() -> list[Batch]:
    return take(6)


def test_the_same_clips_lack_the_same_stream_in_every_epoch_and_run() -> None:
    worn = replace(SPEC, lacking=0.6)
    lost: dict[int, set[tuple[bool, bool]]] = {}
    for seed in (1, 2):
        with train_batches(SOURCE, worn, TOKENIZER, batch=4, seed=seed) as batches:
            for batch in itertools.islice(batches, 10):
                masks = zip(batch["video_mask"], batch["audio_mask"], strict=True)
                for row, (record, mask) in enumerate(zip(batch["index"], masks, strict=True)):
                    lost.setdefault(int(record), set()).add(tuple(map(bool, mask)))
                    assert mask[0] == batch["video"][row].any()
    assert len(lost) == len(CLIPS)
    assert all(len(found) == 1 for found in lost.values())
    found = [mask for masks in lost.values() for mask in masks]
    assert {(True, True), (True, False), (False, True)} == set(found)
    with eval_batches(SOURCE, worn, TOKENIZER, batch=10) as batches:
        assert next(batches)["video_mask"].all()  # what is lost in evaluation is its own matter


def test_batches_have_the_stated_form(reference: list[Batch]) -> None:
    shapes = {key: (value.shape, str(value.dtype)) for key, value in reference[0].items()}
    assert shapes == {
        "video": ((4, 2, 16, 16, 3), "uint8"),
        "video_mask": ((4,), "bool"),
        "audio": ((4, 1, 30, 64), "float32"),
        "audio_mask": ((4,), "bool"),
        "text": ((4, 10), "int32"),
        "text_mask": ((4,), "bool"),
        "index": ((4,), "int32"),
        "wanted": ((4,), "int32"),
    }
    order = record_order(10, 5)
    assert [int(i) for b in reference for i in b["wanted"]] == [order[g] for g in range(24)]
    arrays = [value for batch in reference for value in batch.values()]
    assert all(type(a) is np.ndarray and a.flags.c_contiguous for a in arrays)
    assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(arrays, 2))


def test_augmentation_differs_between_epochs(reference: list[Batch]) -> None:
    seen: dict[int, set[bytes]] = {}
    for batch in reference:
        for record, video in zip(batch["index"], batch["video"], strict=True):
            seen.setdefault(int(record), set()).add(video.tobytes())
    assert max(len(videos) for videos in seen.values()) > 1


@pytest.mark.parametrize("hosts", [2, 4])
def test_any_number_of_hosts_sees_the_same_global_batches(
    reference: list[Batch], hosts: int
) -> None:
    share = 4 // hosts
    shares = [take(6, rows=range(host * share, (host + 1) * share)) for host in range(hosts)]
    joined = [
        {key: np.concatenate([share[step][key] for share in shares]) for key in reference[0]}
        for step in range(6)
    ]
    assert_same(joined, reference)


def test_a_host_may_hold_any_rows_of_the_global_batch(reference: list[Batch]) -> None:
    got = take(3, rows=(0, 3))
    assert_same(got, [{k: v[[0, 3]] for k, v in batch.items()} for batch in reference[:3]])


@pytest.mark.parametrize("hosts", [1, 2])
def test_worker_processes_change_nothing(reference: list[Batch], hosts: int) -> None:
    share = 4 // hosts
    got = take(4, workers=2, rows=range(4 - share, 4), start_step=2)
    assert_same(got, [{k: v[4 - share :] for k, v in b.items()} for b in reference[2:]])
    assert all(type(value) is np.ndarray for batch in got for value in batch.values())
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("start", [1, 4])
def test_resuming_is_starting_at_a_step(reference: list[Batch], start: int) -> None:
    assert_same(take(6 - start, start_step=start), reference[start:])


def test_the_cache_changes_nothing_but_the_rounding_of_sound(
    reference: list[Batch], tmp_path: Path
) -> None:
    filling = take(6, cache_dir=tmp_path)
    assert_same(take(6, cache_dir=tmp_path), filling)
    assert_same(take(3, cache_dir=tmp_path, start_step=3), filling[3:])
    for cached, plain in zip(filling, reference, strict=True):
        for key in plain:
            tolerance = 2e-3 if key == "audio" else 0
            np.testing.assert_allclose(cached[key], plain[key], atol=tolerance)


def test_broken_records_are_replaced_by_others_fixed_by_seed_and_index() -> None:
    batches = take(8, BROKEN)
    wanted = [int(i) for b in batches for i in b["wanted"]]
    used = [int(i) for b in batches for i in b["index"]]
    assert wanted == [record_order(10, 5)[g] for g in range(32)]
    for g, (record, stand_in) in enumerate(zip(wanted, used, strict=True)):
        expected = record
        for attempt in itertools.count():
            if expected not in (3, 4, 7):
                break
            expected = replacement(5, g, attempt, 10)
        assert stand_in == expected
    assert {w for w, u in zip(wanted, used, strict=True) if w != u} == {3, 4, 7}
    assert_same(take(3, BROKEN, start_step=5), batches[5:])
    assert_same([{k: v[2:] for k, v in b.items()} for b in batches], take(8, BROKEN, rows=(2, 3)))


def test_nothing_but_broken_records_is_an_error() -> None:
    everything = ListSource(CLIPS, frozenset(range(10)))
    with pytest.raises(UserError, match=r"17 clips drawn in a row are broken, .*checksum"):
        take(1, everything)
    with pytest.raises(UserError, match="1 clips drawn in a row"):
        take(1, ListSource([Clip("x", b"rubbish")]), attempts=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_that_a_user_can_mend_come_through(tmp_path: Path, workers: int) -> None:
    with pytest.raises(UserError, match="the disk is gone"):
        take(1, FailingSource(CLIPS), cache_dir=tmp_path, workers=workers)


def test_closing_twice_and_stopping_early() -> None:
    batches = train_batches(SOURCE, SPEC, TOKENIZER, batch=2, seed=0)
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)


SCRIPT = """
from making_media import ListSource, small_clips
from weavejax.data.example import ExampleSpec
from weavejax.data.pipeline import train_batches
from weavejax.data.text import train_tokenizer

if __name__ == "__main__":
    source = ListSource(small_clips(3))
    tokenizer = train_tokenizer(source.captions(), 60)
    batches = train_batches(source, ExampleSpec(size=16), tokenizer, batch=2, seed=0, workers=2)
    next(batches)
    raise RuntimeError("the loop failed")
"""


def test_a_loop_that_fails_without_closing_shows_its_own_error_only(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    run = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1
    lines = run.stderr.strip().splitlines()
    assert lines[-1] == "RuntimeError: the loop failed"
    assert run.stderr.count("Traceback") == 1
    assert "leaked" not in run.stderr


def test_impossible_sizes() -> None:
    with pytest.raises(UserError, match=r"cannot hold the rows \(3, 4\) of a batch of 4"):
        take(1, rows=(3, 4))
    with pytest.raises(UserError, match=r"cannot hold the rows \(\)"):
        take(1, rows=())
    with pytest.raises(UserError, match="at least 1"):
        eval_batches(SOURCE, SPEC, TOKENIZER, batch=0)


class Usage:
    free = 0


def test_small_shared_memory_is_said_before_workers_die(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(UserError, match=r"need .* MB of /dev/shm and 0 MB are free"):
        take(1, workers=2)


def test_evaluation_goes_through_all_clips_once() -> None:
    with eval_batches(BROKEN, SPEC, TOKENIZER, batch=4) as batches:
        got = list(batches)
    assert [b["index"].tolist() for b in got] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, -1, -1]]
    valid = np.concatenate([b["valid"] for b in got])
    assert valid.tolist() == [i not in (3, 4, 7, 10, 11) for i in range(12)]
    masks = np.concatenate([b["video_mask"] & b["audio_mask"] & b["text_mask"] for b in got])
    assert masks.tolist() == valid.tolist()
    assert not got[0]["video"][3].any()
    again = list(eval_batches(BROKEN, SPEC, TOKENIZER, batch=4))
    assert_same(got, again)


def test_evaluation_is_the_same_for_any_batch_size() -> None:
    small = list(eval_batches(SOURCE, SPEC, TOKENIZER, batch=2))
    large = list(eval_batches(SOURCE, SPEC, TOKENIZER, batch=10))
    joined = {key: np.concatenate([b[key] for b in small]) for key in large[0]}
    assert_same([joined], large)
