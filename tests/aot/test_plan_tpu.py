"""Plans for TPU slices that are not there: what only the TPU compiler can tell."""

import importlib.util

import pytest
from ml_collections import ConfigDict

from weavejax.errors import UserError
from weavejax.planning import hlo
from weavejax.planning import page as plan_page
from weavejax.planning import plans as planning
from weavejax.planning.topology import GIB, open_topology
from weavejax.runtime import cli
from weavejax.testing import tiny_gram

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the aot extra"
)
LAYERS = 3


def config(replica=1, data=-1, model=1, **changes):
    """A tiny GRAM whose towers are scanned, in bfloat16, with full recomputation."""
    out = tiny_gram(batch=128, **changes)
    out.runtime = ConfigDict({"mesh": {"replica": replica, "data": data, "model": model}})
    for tower in ("vision", "audio", "text"):
        out.model[tower].update(
            {"layers": LAYERS, "scan": True, "remat": "full", "dtype": "bfloat16"}
        )
    return out


@pytest.mark.parametrize(("slice_name", "model"), [("v5e:2x4", 2), ("v5p:2x2x2", 1)])
def test_a_tiny_step_fits_and_sends_no_whole_batch(slice_name, model):
    made = config(model=model)
    plan = planning.make_plan(made, open_topology(slice_name), fast=True)
    held = plan["bytes per device"]
    assert plan["fits"]
    assert plan["verdict"].startswith("fits: ")
    assert plan["devices"] == 8
    least = held["parameters"] + held["optimiser"] + held["batch"]
    assert least < held["peak"] < 64 << 20 < plan["usable HBM"]
    # Parameters are gathered in every layer, forward and backward; gradients are summed.
    assert sum(one["count"] for one in plan["collectives"].values()) > 2 * LAYERS
    assert {"all-gather", "all-reduce"} & set(plan["collectives"])
    # No collective handles the images of the whole batch.
    frames = made.batch * made.inputs.frames
    whole = frames * 5 * made.model.vision.width * 4
    largest = max(one["largest array"]["bytes"] for one in plan["collectives"].values())
    assert largest < whole
    assert plan["loops of unknown length"] == []
    found = plan["roofline"]
    assert 0 < found["optimistic"] < found["pessimistic"]
    assert "Estimate, not a measurement" in plan_page.page(plan, "command")


def test_between_slices_goes_the_network():
    plan = planning.make_plan(config(replica=2), open_topology("2*v5e:2x2"), fast=True)
    between = [kind for kind in plan["collectives"] if hlo.BETWEEN_SLICES in kind]
    assert plan["mesh"] == {"replica": 2, "data": 4, "model": 1}
    assert between
    # At least the gradients cross: float32 or bfloat16, of which each device holds a quarter.
    sent = sum(plan["collectives"][kind]["bytes"] for kind in between)
    assert sent > plan["parameters"]["total"] * 2 / 4 / 2
    assert plan["roofline"]["network"] > 0


def test_what_does_not_fit_is_an_answer():
    made = config(model=4)
    made.model.text.vocab = 100_000_000
    plan = planning.make_plan(made, open_topology("v5e:2x2"), fast=True)
    assert not plan["fits"]
    assert plan["verdict"].startswith("does not fit: needs ")
    need, have = (float(word) for word in plan["verdict"].split() if word[0].isdigit())
    assert have == pytest.approx(plan["usable HBM"] / GIB, abs=0.01)
    assert need > 100_000_000 * 16 * 4 * 3 / GIB  # the embedding and Adam's two numbers
    assert plan["verdict"] in plan_page.page(plan, "command")


def test_the_published_width_goes_over_128_devices_and_the_rest_to_replica():
    published = cli.load("configs/gram.py:published")
    found, refused = planning.candidates(published, open_topology("v5e:16x16"))
    assert {"replica": 2, "data": 128, "model": 1} in found
    assert {"replica": 1, "data": 128, "model": 2} in found
    assert not refused


def test_a_slice_that_does_not_exist_is_refused_in_one_line():
    with pytest.raises(UserError, match="no such slice: v5e:3x5"):
        open_topology("v5e:3x5")
