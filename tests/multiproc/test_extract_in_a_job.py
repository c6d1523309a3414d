"""Features are the same whether one process computes them or two."""

import jax
import numpy as np
from jobs import SMOKE, Job

from weavejax import systems
from weavejax.data.features import open_features
from weavejax.runtime import cli, tree
from weavejax.weights.safe import save_safetensors


def some_weights(path):
    """Random parameters of the smoke variant."""
    config = cli.parse(SMOKE[:2], "", {}, takes_config=True).config
    shapes = jax.eval_shape(systems.build(config).init, jax.random.key(0))
    draw = np.random.default_rng(0)
    leaves = {
        name: 0.2 * draw.standard_normal(leaf.shape).astype(np.float32)
        for name, leaf in tree.flatten(shapes).items()
    }
    save_safetensors(path, leaves)


def test_one_and_two_processes_write_the_same_shards(flags, whole, tmp_path):
    weights = tmp_path / "params.safetensors"
    some_weights(weights)
    data = [flag for flag in flags if flag.startswith("--config.data.")]
    command = [*SMOKE[:2], *data, "--weights", weights, "--shard", "1"]
    command += [f"--config.inputs.tokenizer={whole / 'tokenizer.json'}"]
    command += ["--config.runtime.evaluate_batch=8"]
    made = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        door = ("-m", "weavejax.extract")
        with Job(processes, tmp_path / "logs", *command, "--out", out, door=door) as job:
            job.done()
        assert "24 clips of train" in job.log(0)
        made.append(open_features(out))
    assert {path.name for path in out.glob("*array_record*")} == {
        f"features-clips.array_record-{number:05}-of-00003" for number in range(3)
    }
    one, two = made
    assert one.fingerprint == two.fingerprint
    assert len(one) == len(two) == 24
    for index in range(24):
        assert one.id(index) == two.id(index)
        assert one.text(index) == two.text(index)
        for name, value in one[index].items():
            # Fewer devices in a process share its threads otherwise: to the order of sums.
            np.testing.assert_allclose(two[index][name], value, rtol=1e-4, atol=1e-5, err_msg=name)
