"""The compiled program's text: loops, kernels, products, exchanges and bytes, from texts small enough to count by hand."""

import pytest

from fedjaxlite.rehearsal import hlo
from fedjaxlite.rehearsal.loops import collectives_of, loops_of, step_loop
from fedjaxlite.rehearsal.traffic import traffic_of_round, traffic_of_step, trips_of

# Two waves of a loop of local steps, as a GPU's compiler writes it: two fusions (one holds a product), one library call,
# and what starts nothing. The loop's length is not known; the other loop around it is `{waves}`.
TEXT = """HloModule jit_round, is_scheduled=true

%fused_step (param_0: f32[4,8], param_1: f32[8,2]) -> f32[4,2] {{
  %param_0 = f32[4,8]{{1,0}} parameter(0)
  %param_1 = f32[8,2]{{1,0}} parameter(1)
  ROOT %dot.1 = f32[4,2]{{1,0}} dot(%param_0, %param_1), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
}}

%fused_read (param_0: f32[100,8], param_1: s32[]) -> f32[4,8] {{
  %param_0.1 = f32[100,8]{{1,0}} parameter(0)
  %param_1.1 = s32[] parameter(1)
  %constant.9 = s32[] constant(0)
  ROOT %dynamic-slice.1 = f32[4,8]{{1,0}} dynamic-slice(%param_0.1, %param_1.1, %constant.9), dynamic_slice_sizes={{4,8}}
}}

%step_body (arg: (s32[], f32[8,2], f32[100,8])) -> (s32[], f32[8,2], f32[100,8]) {{
  %arg = (s32[], f32[8,2]{{1,0}}, f32[100,8]{{1,0}}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %w = f32[8,2]{{1,0}} get-tuple-element(%arg), index=1
  %x = f32[100,8]{{1,0}} get-tuple-element(%arg), index=2
  %read = f32[4,8]{{1,0}} fusion(%x, %i), kind=kLoop, calls=%fused_read, metadata={{op_name="jit(f)/while/body/while/body/local_step/gather"}}
  %product = f32[4,2]{{1,0}} fusion(%read, %w), kind=kCustom, calls=%fused_step, metadata={{op_name="jit(f)/while/body/while/body/local_step/dot_general"}}
  %call = (f32[8,2]{{1,0}}, s8[64]{{0}}) custom-call(%read, %product), custom_call_target="__cublas$gemm", metadata={{op_name="jit(f)/while/body/while/body/local_step/transpose"}}
  %new = f32[8,2]{{1,0}} get-tuple-element(%call), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %out = (s32[], f32[8,2]{{1,0}}, f32[100,8]{{1,0}}) tuple(%next, %new, %x)
}}

%step_condition (arg.2: (s32[], f32[8,2], f32[100,8])) -> pred[] {{
  %arg.2 = (s32[], f32[8,2]{{1,0}}, f32[100,8]{{1,0}}) parameter(0)
  %i.2 = s32[] get-tuple-element(%arg.2), index=0
  %most = s32[] constant(5)
  ROOT %less = pred[] compare(%i.2, %most), direction=LT
}}

%wave_body (arg.3: (s32[], f32[8,2], f32[100,8])) -> (s32[], f32[8,2], f32[100,8]) {{
  %arg.3 = (s32[], f32[8,2]{{1,0}}, f32[100,8]{{1,0}}) parameter(0)
  %copy.1 = f32[8,2]{{1,0}} copy(%arg.3)
  ROOT %inner = (s32[], f32[8,2]{{1,0}}, f32[100,8]{{1,0}}) while(%arg.3), condition=%step_condition, body=%step_body{steps}
}}

ENTRY %main (state: f32[8,2], data: f32[100,8]) -> f32[8,2] {{
  %state = f32[8,2]{{1,0}} parameter(0)
  %data = f32[100,8]{{1,0}} parameter(1)
  %zero = s32[] constant(0)
  %start = (s32[], f32[8,2]{{1,0}}, f32[100,8]{{1,0}}) tuple(%zero, %state, %data)
  %outer = (s32[], f32[8,2]{{1,0}}, f32[100,8]{{1,0}}) while(%start), condition=%step_condition, body=%wave_body{waves}
  %sum = f32[8,2]{{1,0}} get-tuple-element(%outer), index=1
  ROOT %reduced = f32[8,2]{{1,0}} all-reduce(%sum), replica_groups={{{{0,1}}}}, to_apply=%step_condition
}}
"""


def text(steps: int | None = None, waves: int | None = None) -> hlo.Text:
    known = lambda n: "" if n is None else f', backend_config={{"known_trip_count":{{"n":"{n}"}}}}'  # noqa: E731
    return hlo.read(TEXT.format(steps=known(steps), waves=known(waves)))


def test_the_loop_of_local_steps_is_found_with_its_kernels() -> None:
    loop = step_loop(text())
    assert loop is not None
    assert (loop.body, loop.kernels, loop.products, loop.trips) == ("step_body", 4, 2, None)
    outer = next(loop for loop in loops_of(text()) if loop.body == "wave_body")
    assert (outer.kernels, outer.inner, outer.products, outer.of_steps) == (1, ("step_body",), 0, False)


def test_a_known_length_is_read() -> None:
    loop = step_loop(text(steps=60))
    assert loop is not None
    assert loop.trips == 60


def test_the_loops_of_a_recurrent_model_are_inside_of_a_step() -> None:
    moved = TEXT.replace("while/body/while/body/local_step/", "while/body/local_step/while/body/")
    moved = moved.replace("copy(%arg.3)", 'copy(%arg.3), metadata={{op_name="jit(f)/while/body/local_step/add"}}')
    found = hlo.read(moved.format(steps=', backend_config={"known_trip_count":{"n":"7"}}', waves=""))
    loop = step_loop(found)
    assert loop is not None
    assert loop.body == "wave_body"
    assert traffic_of_step(found).kernels == 1 + 7 * 4


def test_without_names_the_innermost_loop_with_products_is_taken() -> None:
    loop = step_loop(hlo.read(TEXT.replace("local_step/", "").format(steps="", waves="")))
    assert loop is not None
    assert loop.body == "step_body"


def test_a_program_without_loops_has_none() -> None:
    assert step_loop(hlo.read("ENTRY %main (x: f32[]) -> f32[] {\n  ROOT %x = f32[] parameter(0)\n}\n")) is None
    with pytest.raises(ValueError, match="holds no ENTRY computation; expected that of a compiled program"):
        hlo.read("HloModule nothing")


def test_exchanges_are_counted_with_their_bytes() -> None:
    assert [tuple(each) for each in collectives_of(text())] == [("all-reduce", 1, 8 * 2 * 4)]


# Of one step: the read takes a slice of 4 x 8 out of 100 x 8, not all of it, and an index; the product two operands and a
# result; the call two operands, a result and its workspace; the counter.
STEP_BYTES = (128 + 4 + 128) + (128 + 64 + 32) + (128 + 32 + 64 + 64) + (4 + 4 + 4)


def test_bytes_are_those_that_kernels_touch() -> None:
    assert traffic_of_step(text()) == (4, STEP_BYTES)


@pytest.mark.parametrize(("steps", "waves"), [(None, None), (60, None), (None, 2), (60, 2)])
def test_loops_count_as_often_as_they_run(steps, waves) -> None:
    found = text(steps, waves)
    whole = traffic_of_round(found, steps=120, waves=2)
    assert whole.kernels == 120 * 4 + 2 * 1 + 1
    copy = 2 * 64 + 4 + 800 * 4  # its operand is the whole carry here
    assert whole.num_bytes == pytest.approx(120 * STEP_BYTES + 2 * copy + 2 * 64)


def test_a_chunk_of_known_length_in_a_loop_of_unknown_length_is_not_counted_twice() -> None:
    assert trips_of(text(steps=30), steps=120, waves=9) == {"wave_body": 4}


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ("f32[3,4]{1,0}", 48),
        ("pred[]", 1),
        ("(bf16[2,2]{1,0}, s64[3]{0}, u8[5])", 8 + 24 + 5),
        ("s4[3]{0}", 2),
        ("f8e4m3fn[7]", 7),
        ("c64[2]", 16),
        ("token[]", 0),
        ("f32[<=10]", 40),
        ("f32[8,128]{1,0:T(8,128)S(1)}", 0),
        ("f32[8,128]{1,0:T(8,128)}", 4096),
    ],
)
def test_bytes_of_a_type(shapes, expected) -> None:
    assert hlo.num_bytes(shapes) == expected


def test_what_lies_on_the_chip_counts_where_it_crosses_a_link() -> None:
    assert hlo.num_bytes("f32[8,128]{1,0:T(8,128)S(1)}", on_chip=True) == 4096
