"""Links between devices: who hears whom, and rates that are what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from weavejax.runtime import links


def test_every_pair_is_reached_once():
    shifts = links.ring_shifts(links.end_points(), rounds=1, repeats=1)
    assert [shift.distance for shift in shifts] == list(range(1, 8))
    assert all(not shift.wrong for shift in shifts)
    assert all(0 < seconds < 1 for shift in shifts for seconds in shift.seconds)


def test_a_number_from_elsewhere_is_noticed(monkeypatch):
    devices = jax.devices()[:4]

    def crossed(x, pairs, hops):  # as if the cables of 0 and 1 were exchanged
        swap = {0: 1, 1: 0}
        return lax.ppermute(x, links.AXIS, tuple((swap.get(i, i), j) for i, j in pairs))

    monkeypatch.setattr(links, "_hop", crossed)
    (first, *_) = links.ring_shifts(devices, rounds=1, repeats=1)
    assert set(first.wrong) == {(0, 1), (1, 2)}


def test_a_single_end_point_has_no_links():
    assert links.ring_shifts(jax.devices()[:1]) == []


def test_rates_follow_from_size_and_time(monkeypatch):
    monkeypatch.setattr(links, "_timed", lambda function, array, repeats: [9.0, 0.5, 0.1])
    reduce, gather = links.collectives(jax.devices()[:4], (1000,))
    assert reduce.nbytes == gather.nbytes == 1008  # a multiple of 4 bytes × 4 devices
    assert reduce.algorithm == gather.algorithm == pytest.approx(2016)
    assert reduce.bus == pytest.approx(2016 * 2 * 3 / 4)
    assert gather.bus == pytest.approx(2016 * 3 / 4)


def test_collectives_move_what_they_claim(monkeypatch):
    moved = []

    def measure(function, array, repeats):
        out = function(array)
        moved.append((array.addressable_shards[0].data.nbytes, out.addressable_shards[0].data))
        return [1.0]

    monkeypatch.setattr(links, "_timed", measure)
    links.collectives(jax.devices()[:4], (4096,))
    (reduced_in, reduced), (gathered_in, gathered) = moved
    assert (reduced_in, reduced.nbytes) == (4096, 4096)
    np.testing.assert_array_equal(reduced, jnp.full(1024, 4.0))
    assert (gathered_in, gathered.nbytes) == (1024, 4096)
    np.testing.assert_array_equal(gathered, jnp.ones(1024))


def test_timing_begins_after_a_warm_up(monkeypatch):
    clock = iter([0.0, 1.0, 1.0, 11.0, 11.0, 13.0])
    monkeypatch.setattr(links.time, "perf_counter", lambda: next(clock))
    calls = []
    assert links._timed(lambda x: calls.append(x) or x, np.ones(1), 3) == [1.0, 10.0, 2.0]
    assert len(calls) == 5


def test_one_process_gathers_itself():
    assert links.gather(2.5) == (2.5,)
    assert links.gather_text("größer") == ["größer"]
