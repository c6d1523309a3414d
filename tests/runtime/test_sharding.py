"""The rule table is strict: nothing is replicated, split or ignored by accident."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from weavejax.errors import UserError
from weavejax.runtime.mesh import batch_sharding, check_batch, make_mesh, put_batch
from weavejax.runtime.sharding import device_bytes, partition_specs, shardings, table

PARAMS = {
    "block": {"fc": {"kernel": jnp.zeros((3, 8, 16)), "bias": jnp.zeros((3, 16))}},
    "norm": {"scale": jnp.zeros((8,))},
}
RULES = ((r"fc/kernel$", ("data", "model")), (r"fc/bias$", ("model",)), (r"norm/", ()))


def mesh(data=4, model=2):
    return make_mesh({"replica": 1, "data": data, "model": model})


def test_specs_count_from_the_right_and_the_first_match_wins():
    specs = partition_specs(PARAMS, mesh(), (*RULES[:1], (r"fc/", ("model",)), RULES[2]))
    assert specs["block"]["fc"]["kernel"] == P(None, "data", "model")
    assert specs["block"]["fc"]["bias"] == P(None, "model")
    assert specs["norm"]["scale"] == P(None)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (RULES[:2], ["norm/scale", "no sharding rule"]),
        ((*RULES, (r"head/", ())), ["head/", "matches no parameter"]),
        (((r"fc/kernel$", ("data", "data")), *RULES[1:]), ["block/fc/kernel", "twice"]),
        (((r"fc/kernel$", ("expert",)), *RULES[1:]), ["block/fc/kernel", "expert", "lacks"]),
        ((*RULES[:2], (r"norm/", (None, "data"))), ["norm/scale", "more dimensions"]),
    ],
)
def test_a_bad_table_is_refused_by_name(rules, words):
    with pytest.raises(UserError) as error:
        partition_specs(PARAMS, mesh(), rules)
    for word in words:
        assert word in str(error.value)


def test_an_indivisible_dimension_names_the_leaf_and_a_size_that_works():
    three = make_mesh({"data": 3}, jax.devices()[:3])
    rules = ((r"fc/kernel$", ("data", None)), (r"fc/bias$", ()), (r"norm/", ()))
    with pytest.raises(UserError, match=r"block/fc/kernel \(3, 8, 16\): 8 does not divide.*would"):
        partition_specs(PARAMS, three, rules)


def test_all_faults_are_reported_at_once():
    with pytest.raises(UserError) as error:
        partition_specs(PARAMS, mesh(), ((r"fc/kernel$", ("data", "data")), (r"nothing", ())))
    for word in ("block/fc/kernel", "block/fc/bias", "norm/scale", "nothing"):
        assert word in str(error.value)


@pytest.mark.parametrize(("data", "model"), [(8, 1), (4, 2), (2, 4)])
def test_bytes_per_device_shrink_with_the_mesh(data, model):
    kernel = {"fc": {"kernel": jax.ShapeDtypeStruct((64, 32), jnp.float32)}}
    placed = shardings(kernel, mesh(data, model), ((r"kernel$", ("data", "model")),))
    assert device_bytes(kernel, placed) == 64 * 32 * 4 // 8
    assert "2,048 parameters, 1,024 bytes per device" in table(kernel, placed)


def test_the_table_flags_a_large_replicated_leaf():
    large = {"big": jax.ShapeDtypeStruct((2048, 1024), jnp.float32)}
    assert "largest replicated leaf: big" in table(large, shardings(large, mesh(), ((r"big", ()),)))


def test_mesh_sizes_are_checked():
    assert dict(make_mesh({"data": -1, "model": 2}).shape) == {"replica": 1, "data": 4, "model": 2}
    for shape, word in (
        ({"data": 3}, "does not fit 8"),
        ({"data": -1, "model": -1}, "may be -1"),
        ({"tensor": 8}, "unknown mesh axes"),
        ({"data": 16, "model": -1}, "does not fit"),
    ):
        with pytest.raises(UserError, match=word):
            make_mesh(shape)


def test_a_batch_that_does_not_divide_is_refused_with_one_that_does():
    check_batch(12, mesh(4, 2))
    with pytest.raises(UserError, match=r"batch of 10 does not divide over 4 .* 8 would"):
        check_batch(10, mesh(4, 2))


def test_put_batch_splits_the_leading_dimension():
    placed = put_batch({"x": np.arange(16).reshape(8, 2)}, batch_sharding(mesh(4, 2)))["x"]
    assert {s.data.shape for s in placed.addressable_shards} == {(2, 2)}
    np.testing.assert_array_equal(placed, np.arange(16).reshape(8, 2))
