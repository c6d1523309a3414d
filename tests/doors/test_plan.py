"""`weavejax.plan` as a user runs it, on CPU devices; the plan of a published size, by shapes alone."""

import importlib.util
import json
import math
import re
from dataclasses import asdict

import jax
import pytest
from door import run

from weavejax import plan as door
from weavejax import systems
from weavejax.errors import UserError
from weavejax.models.bert import BERT_BASE
from weavejax.models.spectrogram import BEATS_ITER3
from weavejax.models.vit import EVA_CLIP_G
from weavejax.planning import page as plan_page
from weavejax.planning import plans as planning
from weavejax.planning.roofline import Work, estimate
from weavejax.planning.topology import CHIPS, open_topology
from weavejax.runtime import cli
from weavejax.runtime.optim import make_optimiser
from weavejax.systems.encoders import make_tower

TINY = """
from ml_collections import ConfigDict
from weavejax.testing import tiny_gram

def get_config():
    config = tiny_gram(batch=16)
    config.runtime = ConfigDict({"mesh": {"replica": 1, "data": -1, "model": 1}})
    config.model.vision.update({"layers": 5, "scan": True, "remat": "full"})
    return config
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A config file of a model that compiles in seconds."""
    path = tmp_path_factory.mktemp("configs") / "tiny.py"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def published():
    return cli.load("configs/gram.py:published")


def test_plan_compiles_the_step_and_writes_what_it_found(tiny, tmp_path):
    printed = run(
        "plan",
        "--config",
        tiny,
        "--topology",
        "cpu:8",
        "--config.runtime.mesh.data=4",
        "--config.runtime.mesh.model=2",
        "--fast",
        "--out",
        tmp_path,
    ).stdout
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["fits"]
    assert plan["mesh"] == {"replica": 1, "data": 4, "model": 2}
    assert plan["devices"] == 8
    assert plan["optimisation"] == "O1"
    assert plan["remat"] == {"vision": "full"}
    held = plan["bytes per device"]
    # Adam keeps two numbers a parameter; none is held by fewer devices than its parameter.
    assert 2 * held["parameters"] <= held["optimiser"] <= 2 * held["parameters"] + 64
    assert held["parameters"] >= plan["parameters"]["total"] * 4 / 8
    assert held["peak"] > held["parameters"] + held["optimiser"]
    flops = plan["flops"]
    assert flops["step"] == 3 * flops["forward"]
    assert flops["recomputation"] == flops["forward by part"]["vision"]
    # The tower is scanned: its collectives count five times, forward and backward.
    assert plan["collectives"]["all-gather"]["count"] >= 10
    assert plan["loops of unknown length"] == []
    page = (tmp_path / "plan.md").read_text()
    assert page in printed
    assert "optimisation level O1" in page
    assert f"{plan['parameters']['total']:,}" in page


def test_search_lists_what_fits(tiny, tmp_path):
    plain = tmp_path / "plain.py"
    plain.write_text(TINY.replace(', "scan": True, "remat": "full"', ""))
    flags = ("--topology", "cpu:1", "--search", "--fast", "--out", tmp_path / "out")
    printed = run("plan", "--config", plain, *flags).stdout
    rows = [line for line in printed.splitlines() if line.startswith("| replica 1 ×")]
    assert [row.split("|")[1].strip() for row in rows] == ["replica 1 × data 1 × model 1"]
    assert re.search(r"at most \d+ (s|min .*) left", printed)
    assert (tmp_path / "out" / "search.md").read_text() in printed
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["fits"]


def test_the_table_of_a_search_is_sorted_and_names_the_rest():
    def plan(data, fits, middle):
        return {
            "mesh": {"replica": 1, "data": data, "model": 1},
            "remat": {"vision": "full"},
            "batch": 16,
            "fits": fits,
            "verdict": "fits" if fits else "does not fit: needs 20.00 of 15.75 GiB per device",
            "bytes per device": {"peak": 3 << 30},
            "collectives": {},
            "roofline": {"optimistic": middle, "pessimistic": middle, "bound_by": "links"},
            "seconds": {"compile": 3.0},
        }

    plans = [plan(4, True, 0.25), plan(2, True, 0.125), plan(1, False, 0.0)]
    text = plan_page.search_page(plans, {"replica 1 × data 3 × model 1": "3 divides nothing"})
    places = [text.index(words) for words in ("125 ms", "250 ms", "needs 20.00", "3 divides")]
    assert places == sorted(places)
    assert "| 3.00 GiB |" in text
    assert plan_page.best(plans) is plans[1]
    assert plan_page.best(plans[2:]) is plans[2]


def test_search_stops_at_the_first_policy_that_does_not_fit(published, monkeypatch):
    """Policies go from least memory to most; the first that does not ends its mesh."""
    monkeypatch.setattr(
        planning,
        "make_plan",
        lambda config, topology, fast: {
            "mesh": dict(config.runtime.mesh),
            "remat": planning.remat_of(config),
            "fits": config.runtime.mesh.model == 2 or config.model.vision.remat == "full",
        },
    )
    found = list(planning.search(published, open_topology("cpu:2")))
    tried = [(p["mesh"]["model"], p["remat"]["vision"], p["fits"], left) for left, p in found]
    assert tried == [
        (1, "full", True, 5),
        (1, "dots", False, 3),
        (2, "full", True, 2),
        (2, "dots", True, 1),
        (2, "none", True, 0),
    ]
    assert all(len(set(plan["remat"].values())) == 1 for _, plan in found)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--topology is missing"),
        (["--topology", "v5litepod-8"], "'v5litepod-8' is not understood"),
        (["--topology", "cpu:2x2"], "CPU devices are only counted"),
        (["--topology", "3*v4:2x2x2"], "the network between slices of TPU v4 is not published"),
        (["--topology", "cpu:2", "--config.runtime.mesh.model=5"], "does not fit 2 cpu device(s)"),
        (["--topology", "cpu:2", "--config.batch=3"], "batch of 3 does not divide"),
        (["--topology", "cpu:2", "--config.runtime.mess.data=1"], "unknown config key"),
        (["--topology", "cpu:9"], "this process already has 8 CPU devices"),
    ],
)
def test_plan_refuses_what_cannot_be_planned(flags, words, tiny):
    kept = jax.config.jax_enable_compilation_cache
    with pytest.raises(UserError, match=re.escape(words)):
        door.main(["--config", str(tiny), *flags])
    jax.config.update("jax_enable_compilation_cache", kept)  # a plan does without


def test_a_refusal_is_one_line(tiny):
    result = run("plan", "--config", tiny, "--topology", "v5litepod-8", check=False)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: topology 'v5litepod-8' is not understood")


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_the_tpu_compiler_it_says_what_to_install(tiny):
    result = run("plan", "--config", tiny, "--topology", "v5e:2x4", check=False)
    assert result.returncode == 2
    assert "pip install 'weavejax[aot]'" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("message", "verdict"),
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 31.18G of 15.75G hbm. Exceeded hbm capacity by 15.43G.",
            "does not fit: needs 31.18 of 15.75 GiB per device",
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (31.18G) exceeds available HBM (15.75G)",
            "does not fit: needs 31.18 of 15.75 GiB per device",
        ),
        ("RESOURCE_EXHAUSTED: no numbers", "does not fit: RESOURCE_EXHAUSTED: no numbers"),
    ],
)
def test_the_compilers_shortage_in_one_line(message, verdict):
    assert planning.shortage(message) == verdict


def test_the_roofline_is_the_slowest_part_and_their_sum():
    chip = CHIPS["v5e"]
    work = Work(flops=chip.flops, memory=2 * chip.memory_rate, links=chip.link_rate, network=0.0)
    found = estimate(chip, work)
    assert (found.compute, found.memory, found.links_fast, found.links_slow) == (1, 2, 1, 2)
    assert (found.optimistic, found.pessimistic, found.bound_by) == (2, 5, "memory")


def test_the_published_variant_has_the_published_sizes(published):
    """Counts as in the released checkpoints; EVA-CLIP-g's by its authors."""
    system = systems.build(published)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    count = {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(part))
        for name, part in shapes.items()
    }
    heads = 512 * (1408 + 768 + 768 + 768)  # video, audio, text, subtitle
    assert count == {
        "vision": 1_012_588_928,
        "audio": 90_311_792,
        "text": 137_258_496,
        "head": heads,
        "temperature": 1,
        # Three projections, norms, types; frames of video and audio.
        "fusion": (1408 + 768 + 768) * 768 + 3 * 4 * 768 + (2 + 1) * 768,
        "match": 768 * 768 + 768 + 2 * 768 + 2 * 768 + 2,
    }
    assert sum(count.values()) == 1_244_925_939
    inputs = published.inputs
    assert (inputs.frames, inputs.size, inputs.mels, inputs.audio_frames) == (2, 224, 64, 1024)
    assert (inputs.text_length, inputs.subtitle_length) == (40, 70)
    assert (published.batch, published.batch * published.steps // 1000) == (256, 150)


@pytest.mark.parametrize(
    ("tower", "source"), [("vision", EVA_CLIP_G), ("audio", BEATS_ITER3), ("text", BERT_BASE)]
)
def test_the_published_towers_are_those_of_the_models(published, tower, source):
    made = make_tower(tower, published).network.config
    how = dict.fromkeys(("dtype", "scan", "remat", "attention"))
    assert asdict(made) | how == asdict(source) | how


def test_what_is_decayed_is_what_was_published(published):
    system = systems.build(published)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    make_optimiser(published.optim, published.steps, shapes)  # its groups match something
    still = re.compile(published.optim.no_decay)
    assert not still.search("text/blocks/cross_attention/query/kernel")
    assert not still.search("match/norm/scale")
    assert still.search("text/blocks/norm_cross/scale")
    assert still.search("vision/head/kernel")  # which nothing trains
    assert still.search("text/blocks/norm1/scale")
    assert not still.search("vision/blocks/norm1/scale")  # as published
    assert not still.search("vision/blocks/mlp/fc1/kernel")
