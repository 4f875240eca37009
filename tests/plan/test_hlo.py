"""Collectives, loops and memory traffic read from recorded lines of compiled programs."""

import pytest

from ssljax.plan import collectives, hlo, traffic

LOOPED = """\
HloModule jit_train_step, is_scheduled=true

%cond.1 (p.1: (s32[], f32[8,128])) -> pred[] {
  %p.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %constant.1 = s32[]{:T(128)} constant(12), metadata={op_name="jit(f)/while/cond/lt"}
  %get-tuple-element.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%get-tuple-element.1, %constant.1), direction=LT
}

%body.1 (p.2: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %p.2 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %get-tuple-element.2 = f32[8,128]{1,0:T(8,128)} get-tuple-element(%p.2), index=1
  %all-reduce.1 = f32[8,128]{1,0:T(8,128)} all-reduce(%get-tuple-element.2), channel_id=3, \
replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, use_global_device_ids=true, to_apply=%add.1
  ROOT %tuple.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%get-tuple-element.2, %all-reduce.1)
}

%fused.1 (param_0.1: bf16[4,32]) -> bf16[32,32] {
  %param_0.1 = bf16[4,32]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.1 = bf16[32,32]{1,0:T(8,128)(2,1)S(1)} all-gather(%param_0.1), channel_id=1, \
replica_groups=[1,8]<=[8], dimensions={0}, use_global_device_ids=true
}

%fused.2 (param_0.2: bf16[4,32]) -> bf16[32,32] {
  %param_0.2 = bf16[4,32]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.2 = bf16[32,32]{1,0:T(8,128)(2,1)S(1)} all-gather(%param_0.2), channel_id=1, \
replica_groups=[1,8]<=[8], dimensions={0}, use_global_device_ids=true
}

%never.1 (param_0.3: f32[4]) -> f32[4] {
  %param_0.3 = f32[4]{0} parameter(0)
  ROOT %all-reduce.9 = f32[4]{0} all-reduce(%param_0.3), channel_id=77, to_apply=%add.1
}

ENTRY %main.1_spmd (x: bf16[4,32], y: f32[8,128]) -> f32[8,128] {
  %x = bf16[4,32]{1,0:T(8,128)(2,1)} parameter(0)
  %y = f32[8,128]{1,0:T(8,128)} parameter(1)
  %fusion.1 = bf16[32,32]{1,0:T(8,128)(2,1)S(1)} fusion(%x), kind=kCustom, calls=%fused.1
  %fusion.2 = bf16[32,32]{1,0:T(8,128)(2,1)S(1)} fusion(%x), kind=kCustom, calls=%fused.2
  %constant.2 = s32[]{:T(128)} constant(0)
  %tuple.2 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%constant.2, %y)
  %while.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%tuple.2), condition=%cond.1, body=%body.1
  %reduce-scatter.1 = f32[1,128]{1,0} reduce-scatter(%y), channel_id=9, replica_groups={{0,1,2,3,4,5,6,7}}, \
dimensions={0}, to_apply=%add.1
  %all-gather-start.1 = (f32[1,128]{1,0}, f32[8,128]{1,0}) all-gather-start(%reduce-scatter.1), channel_id=10, \
replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %all-gather-done.1 = f32[8,128]{1,0} all-gather-done(%all-gather-start.1)
  ROOT %get-tuple-element.3 = f32[8,128]{1,0:T(8,128)} get-tuple-element(%while.1), index=1
}
"""


def test_a_loop_counts_as_often_as_it_goes_round_and_a_channel_once():
    found = collectives.read(hlo.parse(LOOPED), 8)
    matrix = 8 * 128 * 4
    assert found["all-reduce"] == (12, 12 * matrix, 12 * 2 * 7 / 8 * matrix)
    assert found["reduce-scatter"] == (1, matrix, 7 / 8 * matrix)
    # 7/8 of bf16[32,32], once, and in groups of four 3/4 of what operand and result are in a ring of four
    gathered = (128 * 4 + matrix) * 4 / 5
    assert found["all-gather"] == (2, 32 * 32 * 2 + gathered, 7 / 8 * 32 * 32 * 2 + 3 / 4 * gathered)


def test_parts_that_never_run_and_other_operations_are_left_out():
    assert set(collectives.read(hlo.parse(LOOPED), 8)) == {"all-reduce", "reduce-scatter", "all-gather"}


EXCHANGED = """\
%half (param_0: f32[2,64]) -> f32[4,64] {
  %param_0 = f32[2,64]{1,0} parameter(0)
  ROOT %all-gather.1 = f32[4,64]{1,0} all-gather(%param_0), channel_id=1, replica_groups={{0,2},{1,3}}, \
dimensions={0}, metadata={op_name="jit(f)/all_gather" stack_frame_id=7}
}

%other_half (param_0.1: f32[2,64]) -> f32[4,64] {
  %param_0.1 = f32[2,64]{1,0} parameter(0)
  ROOT %all-gather.2 = f32[4,64]{1,0} all-gather(%param_0.1), channel_id=1, replica_groups={{0,2},{1,3}}, \
dimensions={0}, metadata={op_name="jit(f)/all_gather" stack_frame_id=7}
}

%another (param_0.2: f32[2,64]) -> f32[4,64] {
  %param_0.2 = f32[2,64]{1,0} parameter(0)
  ROOT %all-gather.3 = f32[4,64]{1,0} all-gather(%param_0.2), channel_id=1, replica_groups={{0,2},{1,3}}, \
dimensions={0}, metadata={op_name="jit(f)/all_gather" stack_frame_id=8}
}

ENTRY %main (p: bf16[2,3,8], q: f32[2,64]) -> f32[4,64] {
  %p = bf16[2,3,8]{2,1,0:T(4,128)(2,1)} parameter(0)
  %q = f32[2,64]{1,0} parameter(1)
  %all_to_all.1 = bf16[2,3,8]{2,1,0:T(4,128)(2,1)S(1)} all-to-all(%p), channel_id=1, replica_groups={{0,2},{1,3}}, \
dimensions={0}, metadata={op_name="jit(f)/shard_map/all_to_all" stack_frame_id=4}
  %all_to_all.2 = (f32[1,64]{1,0}, f32[1,64]{1,0}) all-to-all(%q, %q), channel_id=1, \
replica_groups={{0,2},{1,3}}, metadata={op_name="jit(f)/shard_map/all_to_all" stack_frame_id=4}
  %fusion.1 = f32[4,64]{1,0} fusion(%q), kind=kCustom, calls=%half
  %fusion.2 = f32[4,64]{1,0} fusion(%q), kind=kCustom, calls=%other_half
  ROOT %fusion.3 = f32[4,64]{1,0} fusion(%q), kind=kCustom, calls=%another
}
"""


def test_what_a_shard_map_asks_for_is_told_apart_though_it_shares_a_channel():
    found = collectives.read(hlo.parse(EXCHANGED), 4)
    exchanged = 2 * 3 * 8 * 2 + 2 * 64 * 4
    assert found["all-to-all"] == (2, exchanged, exchanged / 2)  # in groups of two a half goes out
    gathered = 2 * 4 * 64 * 4  # of the first line in two fusions
    assert found["all-gather"] == (2, gathered, gathered / 2)


def test_a_tpus_scatter_made_of_a_reduce_is_a_scatter():
    program = """\
%all-reduce-scatter.1 (p: f32[64]) -> f32[8] {
  %p = f32[64]{0} parameter(0)
  %all-reduce.1 = f32[64]{0} all-reduce(%p), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %dynamic-slice.1 = f32[8]{0} dynamic-slice(%all-reduce.1, %i), dynamic_slice_sizes={8}
}

ENTRY %main (p: f32[64]) -> f32[8] {
  %p = f32[64]{0} parameter(0)
  ROOT %fusion.1 = f32[8]{0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1
}
"""
    assert collectives.read(hlo.parse(program), 8) == {"reduce-scatter": (1, 256.0, 7 / 8 * 256)}


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("f32[8,128]{1,0:T(8,128)}", [(4096, True)]),
        ("bf16[3]{0:T(1024)(128)(2,1)S(1)}", [(6, False)]),
        ("(s32[]{:T(128)}, /*index=1*/pred[7]{0}, s4[6])", [(4, True), (7, True), (3, True)]),
        ("f8e4m3fn[10]", [(10, True)]),
        ("u32[2]{0:S(2)}", [(8, False)]),
    ],
)
def test_types(kind, sizes):
    assert [tuple(buffer) for buffer in hlo.buffers(kind)] == sizes


SLICED = """\
%inner (param_0: f32[12,64], param_1: s32[]) -> f32[64] {
  %param_0 = f32[12,64]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %dynamic-slice.1 = f32[1,64]{1,0} dynamic-slice(%param_0, %param_1, %param_1), dynamic_slice_sizes={1,64}
  ROOT %bitcast.1 = f32[64]{0} bitcast(%dynamic-slice.1)
}

%store (param_0.1: f32[12,64], param_1.1: f32[64], param_2.1: s32[]) -> f32[12,64] {
  %param_0.1 = f32[12,64]{1,0} parameter(0)
  %param_1.1 = f32[64]{0} parameter(1)
  %param_2.1 = s32[] parameter(2)
  %bitcast.2 = f32[1,64]{1,0} bitcast(%param_1.1)
  ROOT %dynamic-update-slice.1 = f32[12,64]{1,0} dynamic-update-slice(%param_0.1, %bitcast.2, %param_2.1, %param_2.1)
}

ENTRY %main (a: f32[12,64], i: s32[]) -> f32[12,64] {
  %a = f32[12,64]{1,0} parameter(0)
  %i = s32[]{:T(128)S(6)} parameter(1)
  %fusion.1 = f32[64]{0} fusion(%a, %i), kind=kLoop, calls=%inner
  %copy-start.1 = (f32[64]{0:S(1)}, f32[64]{0}, u32[]{:S(2)}) copy-start(%fusion.1)
  %copy-done.1 = f32[64]{0:S(1)} copy-done(%copy-start.1)
  %add.1 = f32[64]{0} add(%copy-done.1, %fusion.1)
  ROOT %fusion.2 = f32[12,64]{1,0} fusion(%a, %add.1, %i), kind=kLoop, calls=%store
}
"""


def test_of_an_array_that_is_sliced_the_slice_moves():
    row = 64 * 4
    read_and_write_a_row = 2 * row
    copy = row  # from memory to the scratchpad
    add = 2 * row  # one operand and the result; the other lies in the scratchpad
    store = row + row  # the new row is read and written, the others stay
    assert traffic.hbm_bytes(hlo.parse(SLICED)) == read_and_write_a_row + copy + add + store


OVERLAPPED = """\
%start (param_0: f32[8,64]) -> (f32[8,64], f32[64,64]) {
  %param_0 = f32[8,64]{1,0} parameter(0)
  %all-gather.1 = f32[64,64]{1,0} all-gather(%param_0), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}
  ROOT %custom-call.1 = (f32[8,64]{1,0:S(1)}, f32[64,64]{1,0}) custom-call(%all-gather.1)
}

%beside (param_0.1: f32[8,64], param_1.1: f32[64,64], param_2.1: f32[16]) -> (f32[16], f32[8,64], f32[64,64]) {
  %param_0.1 = f32[8,64]{1,0:S(1)} parameter(0)
  %param_1.1 = f32[64,64]{1,0} parameter(1)
  %param_2.1 = f32[16]{0} parameter(2)
  %negate.1 = f32[16]{0} negate(%param_2.1)
  %all-gather.2 = f32[64,64]{1,0} all-gather(%param_0.1), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}
  ROOT %tuple.1 = (f32[16]{0}, f32[8,64]{1,0:S(1)}, f32[64,64]{1,0}) tuple(%negate.1, %param_0.1, %param_1.1)
}

ENTRY %main (a: f32[8,64], b: f32[16]) -> f32[16] {
  %a = f32[8,64]{1,0} parameter(0)
  %b = f32[16]{0} parameter(1)
  %start.1 = (f32[8,64]{1,0:S(1)}, f32[64,64]{1,0}) fusion(%a), kind=kCustom, calls=%start
  %get-tuple-element.1 = f32[8,64]{1,0:S(1)} get-tuple-element(%start.1), index=0
  %get-tuple-element.2 = f32[64,64]{1,0} get-tuple-element(%start.1), index=1
  ROOT %fusion.1 = (f32[16]{0}, f32[8,64]{1,0:S(1)}, f32[64,64]{1,0}) fusion(%get-tuple-element.1, \
%get-tuple-element.2, %b), kind=kOutput, output_to_operand_aliasing={{1}: (0, {}), {2}: (1, {})}, calls=%beside
}
"""


def test_a_collective_beside_other_work_moves_its_arrays_once():
    start = 8 * 64 * 4 + 64 * 64 * 4  # what is gathered is read, the result written
    negation = 2 * 16 * 4
    assert traffic.hbm_bytes(hlo.parse(OVERLAPPED)) == start + negation
