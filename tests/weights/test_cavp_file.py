"""CAVP's published checkpoint in and out; its keys are written out without the table under test."""

import math

import numpy as np
import pytest

from weavejax import convert
from weavejax.errors import UserError
from weavejax.models.slow_only import SlowOnlyConfig
from weavejax.ops.batch_norm import follows
from weavejax.weights.cavp import CAVP
from weavejax.weights.published import convert_file, restore_file


def unit(key, *kernel):
    names = ("weight", "bias", "running_mean", "running_var")
    norm = {f"{key}.bn.{name}": kernel[:1] for name in names}
    return {f"{key}.conv.weight": kernel, f"{key}.bn.num_batches_tracked": (), **norm}


def cavp(width=64, blocks=(3, 4, 6, 3), embedding=512):
    found, fed = unit("conv1", width, 3, 1, 7, 7), width
    for stage, count in enumerate(blocks):
        narrow = width * 2**stage
        for number in range(count):
            key = f"layer{stage + 1}.{number}"
            found |= unit(f"{key}.conv1", narrow, fed, 3 if stage > 1 else 1, 1, 1)
            found |= unit(f"{key}.conv2", narrow, narrow, 1, 3, 3)
            found |= unit(f"{key}.conv3", 4 * narrow, narrow, 1, 1, 1)
            if number == 0:
                found |= unit(f"{key}.downsample", 4 * narrow, fed, 1, 1, 1)
            fed = 4 * narrow
    found = {f"video_encoder.{key}": shape for key, shape in found.items()}
    found |= {
        "video_project_head.weight": (embedding, fed),
        "video_project_head.bias": (embedding,),
    }
    return found | {"spec_encoder.fc1.weight": (3, 3), "logit_scale": ()}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_file_comes_back_exactly(prefix):
    rng = np.random.default_rng(0)
    shapes = cavp(4, (1, 2, 1, 1), 6)
    state = {prefix + k: rng.normal(size=x).astype(np.float32) for k, x in shapes.items()}
    assert convert.detect(state, None) == "cavp"
    converted = convert_file(state, CAVP)
    assert not converted.coverage.problems
    found = SlowOnlyConfig(**converted.sizes["vision"])
    assert found == SlowOnlyConfig(width=4, blocks=(1, 2, 1, 1), embedding=6)
    again = restore_file(converted.leaves, CAVP, converted.sizes, converted.spellings, {})
    assert again.keys() == state.keys()
    for key, array in state.items():
        np.testing.assert_array_equal(again[key], array, strict=True, err_msg=key)
    lost = f"{prefix}video_project_head.weight"
    with pytest.raises(UserError, match="which is missing"):
        convert_file({key: x for key, x in state.items() if key != lost}, CAVP)


def test_the_published_size_is_read_off_the_arrays():
    state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in cavp().items()}
    converted = convert_file(state, CAVP)
    assert not converted.coverage.problems
    assert SlowOnlyConfig(**converted.sizes["vision"]) == SlowOnlyConfig()
    used = {p: x.size for p, x in converted.leaves.items() if p.startswith("vision/")}
    assert sum(n for path, n in used.items() if not follows(path)) == 32_683_584
    assert math.prod(converted.leaves["vision/head/kernel"].shape) == 2048 * 512
