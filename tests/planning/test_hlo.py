"""What a compiled program moves, read from its text: a text with known answers, and real ones."""

# ruff: noqa: E501 - lines of HLO are as long as they are

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from weavejax.planning import hlo
from weavejax.runtime.mesh import make_mesh

# A scanned loop of 40 with an all-reduce inside; a collective product that steps by twos; one
# all-gather cut up over two fusions; a reduce-scatter as a TPU writes it; a transfer to a slice.
TEXT = """\
HloModule jit_step, num_partitions=8

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.9 = f32[] add(%a, %b)
}

%body.1 (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) parameter(0)
  %one = s32[]{:T(128)} constant(1)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = f32[8,4]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %next = s32[]{:T(128)} add(%i, %one)
  %all-reduce.1 = f32[8,4]{1,0:T(8,128)} all-reduce(%x), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%sum, metadata={op_name="tower/norm"}
  ROOT %out = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) tuple(%next, %all-reduce.1)
}

%condition.1 (p: (s32[], f32[8,4])) -> pred[] {
  %forty = s32[]{:T(128)} constant(40)
  %p.1 = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %forty), direction=LT
}

%body.2 (q: (bf16[2,8], u32[])) -> (bf16[2,8], u32[]) {
  %q = (bf16[2,8]{1,0}, u32[]{:T(128)}) parameter(0)
  %y = bf16[2,8]{1,0} get-tuple-element(%q), index=0
  %j = u32[]{:T(128)} get-tuple-element(%q), index=1
  %one.2 = u32[]{:T(128)} constant(1)
  %j1 = u32[]{:T(128)} add(%j, %one.2)
  %j2 = u32[]{:T(128)} add(%j1, %one.2)
  %permute = (bf16[2,8]{1,0}, bf16[2,8]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%y), channel_id=7, source_target_pairs={{0,1},{1,0}}
  %done = bf16[2,8]{1,0} collective-permute-done(%permute)
  ROOT %out.2 = (bf16[2,8]{1,0}, u32[]{:T(128)}) tuple(%done, %j2)
}

%condition.2 (q: (bf16[2,8], u32[])) -> pred[] {
  %eight = u32[]{:T(128)} constant(8)
  %q.1 = (bf16[2,8]{1,0}, u32[]{:T(128)}) parameter(0)
  %j.1 = u32[]{:T(128)} get-tuple-element(%q.1), index=1
  ROOT %lt.2 = pred[]{:T(512)} compare(%j.1, %eight), direction=LT
}

%condition.3 (r: (bf16[2,8], u32[])) -> pred[] {
  %r = (bf16[2,8]{1,0}, u32[]{:T(128)}) parameter(0)
  ROOT %ready = pred[]{:T(512)} custom-call(%r), custom_call_target="Ready"
}

%started (g: f32[1,16]) -> f32[4,16] {
  %g = f32[1,16]{1,0} parameter(0)
  ROOT %all-gather.1 = f32[4,16]{1,0} all-gather(%g), channel_id=9, replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([2,4]T(1,0)) {'axis_1'}, dimensions={0}
}

%continued (g.1: f32[1,16]) -> f32[4,16] {
  %g.1 = f32[1,16]{1,0} parameter(0)
  ROOT %all-gather.2 = f32[4,16]{1,0} all-gather(%g.1), channel_id=9, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}
}

%all-reduce-scatter.3 (h: f32[16,4]) -> f32[2,4] {
  %h = f32[16,4]{1,0} parameter(0)
  %all-reduce.3 = f32[16,4]{1,0} all-reduce(%h), channel_id=11, replica_groups=[1,8]<=[8], to_apply=%sum
  %zero = s32[] constant(0)
  ROOT %cut = f32[2,4]{1,0} dynamic-slice(%all-reduce.3, %zero, %zero), dynamic_slice_sizes={2,4}
}

%update (stack: f32[40,8], row: f32[1,8], at: s32[]) -> f32[40,8] {
  %stack = f32[40,8]{1,0} parameter(0)
  %row = f32[1,8]{1,0} parameter(1)
  %at = s32[] parameter(2)
  %zero.4 = s32[] constant(0)
  ROOT %put = f32[40,8]{1,0} dynamic-update-slice(%stack, %row, %at, %zero.4)
}

ENTRY %main (k: f32[8,4]) -> f32[8,4] {
  %k = f32[8,4]{1,0} parameter(0)
  %start = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) tuple(%c, %k)
  %while.1 = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) while(%start), condition=%condition.1, body=%body.1
  %while.2 = (bf16[2,8]{1,0}, u32[]{:T(128)}) while(%s2), condition=%condition.2, body=%body.2
  %fusion.1 = f32[4,16]{1,0} fusion(%w), kind=kCustom, calls=%started
  %fusion.2 = f32[4,16]{1,0:T(8,128)S(1)} fusion(%w), kind=kCustom, calls=%continued
  %fusion.3 = f32[2,4]{1,0} fusion(%v), kind=kCustom, calls=%all-reduce-scatter.3
  %fusion.4 = f32[40,8]{1,0} fusion(%s, %t, %u), kind=kLoop, calls=%update
  %send.1 = (bf16[1,2,128]{2,1,0:T(2,128)(2,1)}, u32[], token[]) send(%m, %n), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  ROOT %copy = f32[8,4]{1,0} copy(%k)
}
"""


def test_everything_counts_as_often_as_it_runs():
    found = hlo.read(TEXT, 8).by_kind()
    assert found == {
        "all-gather": (1, 4 * 16 * 4 * 3 / 4),
        "all-reduce": (40, 40 * 2 * 8 * 4 * 4 * 3 / 4),
        "all-reduce between slices": (1, 2 * 2 * 128 * 2 / 2),
        "collective-permute": (4, 4 * 2 * 8 * 2),
        "reduce-scatter": (1, 16 * 4 * 4 * 7 / 8),
    }


def test_memory_traffic_leaves_out_what_stays_on_chip_or_in_place():
    # Entry: two fusions (one is on chip), one row of the updated stack, a copy.
    entry = 4 * 16 * 4 + 2 * 4 * 4 + 8 * 4 + 8 * 4 * 4
    loops = 40 * (4 + 8 * 4 * 4) + 4 * (4 + 4 + 2 * 8 * 2)
    compared = 0  # conditions are not bodies
    assert hlo.read(TEXT, 8).made == entry + loops + compared


def test_a_loop_of_unknown_length_is_named_and_counted_once():
    traffic = hlo.read(TEXT.replace("condition=%condition.2", "condition=%condition.3"), 8)
    assert traffic.unknown == ["while.2"]
    assert traffic.by_kind()["collective-permute"][0] == 1
    assert hlo.read(TEXT, 8).unknown == []


def test_the_compiler_may_say_how_often_a_loop_runs():
    said = 'body=%body.2, backend_config={"known_trip_count":{"n":"6"}}'
    traffic = hlo.read(TEXT.replace("body=%body.2", said), 8)
    assert traffic.by_kind()["collective-permute"][0] == 6


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[8,4]{1,0}", 128),
        ("(bf16[3]{0}, s32[], token[])", 10),
        ("pred[5]", 5),
        ("f8e4m3fn[16]", 16),
        ("s4[6]", 3),
        ("c64[2]", 16),
    ],
)
def test_bytes_of_shapes(shape, size):
    assert hlo.array_bytes(shape) == size


def test_of_a_real_scan_the_body_counts_every_time():
    mesh = make_mesh({"replica": 1, "data": 4, "model": 2})
    split = NamedSharding(mesh, PartitionSpec(None, None, "data"))
    whole = NamedSharding(mesh, PartitionSpec())

    def tower(x, layers):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, layers)[0]

    layers = jax.ShapeDtypeStruct((6, 16, 16), jnp.float32, sharding=split)
    x = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=whole)
    compiled = jax.jit(tower, out_shardings=whole).lower(x, layers).compile()
    traffic = hlo.read(compiled.as_text(), mesh.size)
    inside = [one for one in traffic.collectives if one.times == 6]
    assert inside
    assert all(one.group == 4 for one in inside)
    assert traffic.unknown == []
    assert sum(count for count, _ in traffic.by_kind().values()) >= 6
