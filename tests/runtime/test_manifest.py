"""One flipped bit anywhere in a checkpoint is found; the newest good one is used."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from weavejax.errors import UserError
from weavejax.runtime import manifest
from weavejax.runtime.checkpoint import Checkpoints
from weavejax.runtime.guard import fresh
from weavejax.runtime.step import State


def state(step):
    params = {"a": {"kernel": jax.random.normal(jax.random.key(step), (16, 8))}}
    return State(jnp.int32(step), params, {"mu": jnp.full((4,), float(step))}, {}, fresh(4))


@pytest.fixture
def two(tmp_path):
    """A directory with the checkpoints of steps 1 and 2."""
    checkpoints = Checkpoints(tmp_path / "c", keep=2, origin={"commit": "abc"})
    for step in (1, 2):
        checkpoints.save(state(step), window={"loss": [1.5, 2.0]})
    checkpoints.close()
    return tmp_path / "c"


def files(directory):
    return sorted(p for p in directory.rglob("*") if p.is_file())


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def opened(directory, **options):
    return Checkpoints(directory, keep=2, **options)


def test_it_holds_what_one_wants_to_know(two):
    facts = opened(two).facts(2)
    assert facts["step"] == 2
    assert facts["commit"] == "abc"
    assert facts["window"] == {"loss": [1.5, 2.0]}
    assert facts["tree"]["params/a/kernel"][:2] == [[16, 8], "float32"]
    on_disk = {str(p.relative_to(two / "2")) for p in files(two / "2")}
    assert set(facts["files"]) == on_disk - {"manifest.json"}


def test_a_flipped_bit_in_any_file_is_found_and_the_older_checkpoint_used(two, capsys):
    rng = np.random.default_rng(0)
    for path in files(two / "2"):
        original = path.read_bytes()
        assert original, f"{path} is empty: nothing to flip"
        flip(path, int(rng.integers(len(original) * 8)))
        reader = opened(two, read_only=True)
        wrong = reader.verify()
        assert wrong[1] == []
        assert wrong[2], f"a flipped bit in {path} was not found"
        assert reader.newest_good() == 1
        said = capsys.readouterr().err
        assert "DAMAGED checkpoint" in said
        assert "the newest good checkpoint is that of step 1" in said
        path.write_bytes(original)
    assert opened(two, read_only=True).newest_good() == 2


def test_lost_files_and_strange_ones_are_found(two):
    victim = next(p for p in files(two / "2") if p.name != "manifest.json")
    data = victim.read_bytes()
    victim.unlink()
    assert "is missing" in opened(two, read_only=True).verify()[2][0]
    victim.write_bytes(data + b"x")
    assert "bytes instead of" in opened(two, read_only=True).verify()[2][0]
    victim.write_bytes(data)
    (two / "2" / "extra").write_text("x")
    assert opened(two, read_only=True).verify()[2] == ["extra is not in the manifest"]


def test_a_damaged_checkpoint_is_put_aside_and_its_step_can_be_saved_again(two):
    flip(files(two / "2")[0], 3)
    checkpoints = opened(two)
    assert checkpoints.newest_good() == 1
    assert checkpoints.steps() == [1]
    assert any(path.name.startswith("2.damaged") for path in two.iterdir())
    checkpoints.save(state(2))
    checkpoints.finish(None)
    assert checkpoints.newest_good() == 2
    checkpoints.close()


def test_nothing_good_is_never_a_fresh_start(two):
    for step in (1, 2):
        flip(two / str(step) / "manifest.json", 100)
    with pytest.raises(UserError, match=r"no good checkpoint \(2: .*; 1: .*move it away"):
        opened(two).newest_good()
    (two / "1" / "manifest.json").unlink()
    (two / "2" / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"2: manifest.json is missing"):
        opened(two).newest_good()


def test_a_place_that_cannot_be_read_is_not_an_empty_one(tmp_path):
    (tmp_path / "c").write_text("a file where a directory should be")
    with pytest.raises(UserError, match="cannot be read"):
        Checkpoints(tmp_path / "c", keep=2, read_only=True).newest_good()
    assert Checkpoints(tmp_path / "absent", keep=2).newest_good() is None


def test_a_save_that_was_killed_is_no_checkpoint(two):
    (two / "2" / "manifest.json").unlink()
    (two / "2.saving").write_text("")
    assert opened(two, read_only=True).newest_good() == 1
    checkpoints = opened(two)  # a trainer tidies up
    assert checkpoints.newest_good() == 1
    assert not (two / "2").exists()
    assert not (two / "2.saving").exists()


def test_nothing_is_deleted_before_a_newer_one_is_verified(two, monkeypatch):
    def fails(directory, facts):
        raise OSError(5, "Input/output error")

    checkpoints = Checkpoints(two, keep=1, retry=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write", fails)
        checkpoints.save(state(3))
        while checkpoints.saving():
            pass
        assert checkpoints.failures == 1
        assert checkpoints.wanted()
        assert checkpoints.steps() == [1, 2]
        assert checkpoints.newest_good() == 2
    checkpoints.save(state(4))
    checkpoints.finish(None)
    assert checkpoints.steps() == [4]
    checkpoints.close()


def test_a_manifest_is_checked_by_its_own_hash(two):
    path = two / "2" / "manifest.json"
    content = json.loads(path.read_text())
    content["step"] = 3
    path.write_text(json.dumps(content))
    assert opened(two, read_only=True).verify()[2] == [
        "manifest.json is damaged: it does not match its own hash"
    ]
