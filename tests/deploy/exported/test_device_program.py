"""A client's program as a device reads it: what it computes, what it refuses, and that nothing else ever happens."""

import contextlib
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_programs as toys
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjaxlite.deploy.device import program as device
from fedjaxlite.deploy.device.program import ProgramRefused
from fedjaxlite.deploy.program.writing import artifact_of

KEY = np.uint32([1, 2])
X = {"x": np.float32([1, 2, 3])}
MODEL = [np.float32(1)]


def made(**changes) -> bytes:
    return artifact_of(toys.manifest(**changes), toys.entries())[0]


def test_a_program_is_run_on_a_clients_examples() -> None:
    loaded = device.load(toys.artifact())
    assert loaded.sha256 == hashlib.sha256(toys.artifact()).hexdigest()
    result = device.run(loaded, MODEL, None, X, 3, KEY)
    assert [leaf.tolist() for leaf in result.message + result.state] == [3.0, 8]
    assert (result.finite, result.info) == (True, {"loss": 6.0})
    again = device.run(loaded, MODEL, result.state, X, 2, KEY, client=3, noise=KEY)
    assert [leaf.tolist() for leaf in again.message + again.state] == [1.0, 9]
    assert device.evaluate(loaded, MODEL, None, X, 3) == {"loss": pytest.approx(5 / 3)}
    assert not device.run(loaded, [np.float32(np.nan)], None, X, 3, KEY).finite


def test_a_file_is_read_where_it_lies(tmp_path) -> None:
    path = tmp_path / "client.fjlp"
    path.write_bytes(toys.artifact())
    identity = hashlib.sha256(toys.artifact()).hexdigest()
    assert device.load(path, sha256=identity).sha256 == device.load(str(path)).sha256 == identity
    with pytest.raises(ProgramRefused, match="more than 100 bytes"):
        device.load(path, most_bytes=100)
    with pytest.raises(FileNotFoundError):
        device.load(tmp_path / "another.fjlp")


def test_another_program_than_the_expected_is_refused() -> None:
    with pytest.raises(ProgramRefused, match="0000 was expected: it is another program"):
        device.load(toys.artifact(), sha256="0" * 64)


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_changes_nothing(place, flip) -> None:
    data = bytearray(toys.artifact())
    data[place % len(data)] ^= flip
    identity = hashlib.sha256(toys.artifact()).hexdigest()
    with pytest.raises(ProgramRefused):
        device.load(bytes(data), sha256=identity)
    try:  # without the identity: dates and the like in the zip itself may differ
        loaded = device.load(bytes(data))
    except ProgramRefused:
        return
    assert loaded.manifest == device.load(toys.artifact()).manifest


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.binary(max_size=40))
def test_a_part_of_a_file_and_what_is_no_file_are_refused(place, noise) -> None:
    data = toys.artifact()
    for wrong in (data[: place % len(data)], noise, noise + data[len(noise) :][: place % 100]):
        with pytest.raises(ProgramRefused):
            device.load(wrong)


@settings(max_examples=40)
@given(st.permutations(["program.bin", "start.bin", "evaluate.bin"]))
def test_swapped_entries_are_refused(names) -> None:
    order = ["program.bin", "start.bin", "evaluate.bin"]
    to = dict(zip(order, names, strict=True)) | {"manifest.json": "manifest.json"}
    swapped = toys.rezipped(lambda inside: [(to[name], data) for name, data in inside])
    if names == order:
        device.load(swapped)
        return
    with pytest.raises(ProgramRefused, match="is not the one in its manifest"):
        device.load(swapped)


def test_other_entries_than_the_known_are_refused() -> None:
    for change in (
        lambda inside: [*inside[:-1], ("other.bin", b"")],
        lambda inside: [*inside, ("../../evil.py", b"")],
        lambda inside: inside[1:],
    ):
        with pytest.raises(ProgramRefused, match="and a program holds"):
            device.load(toys.rezipped(change))
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = toys.rezipped(lambda inside: [*inside, inside[-1]])
    with pytest.raises(ProgramRefused, match="and a program holds"):
        device.load(twice)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = toys.rezipped(
        lambda inside: [(name, bytes(50 << 20) if name == "start.bin" else was) for name, was in inside]
    )
    assert len(bomb) < 200_000
    with pytest.raises(ProgramRefused, match="unpacked it has more than 1,000,000 bytes"):
        device.load(bomb, most_bytes=1_000_000)
    big = toys.with_manifest(b" " * (2 << 20))
    with pytest.raises(ProgramRefused, match="its manifest has more than 1,048,576 bytes"):
        device.load(big)


def wrong_field(name, value):
    whole = {**artifact_of(toys.manifest(), toys.entries())[1], name: value}
    return toys.with_manifest(whole)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("format", "fedjaxlite client program 9", "its format is 'fedjaxlite client program 9'"),
        ("format", 3, "its format is '3'"),
        ("capacity", True, "'capacity' is a bool"),
        ("capacity", 0, "its capacity is 0"),
        ("capacity", "4", "'capacity' is a str"),
        ("capacity", 5, "program.bin takes other arrays than its manifest says"),
        ("noise", 1, "'noise' is a int"),
        ("download", [], "program.bin takes other arrays"),
        ("download", [{"path": "a", "shape": [-1], "dtype": "float32"}], "a shape in its download"),
        ("download", [{"path": "a", "shape": [True], "dtype": "float32"}], "a shape in its download"),
        ("download", [{"path": "a", "shape": [], "dtype": "object"}], "a dtype in its download is 'object'"),
        ("download", [{"path": 2, "shape": [], "dtype": "float32"}], "a path in its download"),
        ("download", ["float32"], "an entry of its download has not the fields"),
        ("state", [], "4 bytes were found where arrays of 0 bytes were expected"),
        ("message", [], "program.bin gives other arrays"),
        ("info", ["loss", "loss"], "its 'info' are no names"),
        ("info", [1], "its 'info' are no names"),
        ("platforms", ["cpu"], "is not for the platforms that its manifest says"),
        ("evaluation", None, "evaluate.bin and its manifest disagree"),
        ("sha256", {}, "and its manifest tells of"),
        ("sha256", {"program.bin": 1, "start.bin": 2, "evaluate.bin": 3}, "is not the one in its manifest"),
        ("extra", 1, "has beside what it should have, .'extra'"),
    ],
)
def test_a_manifest_that_is_not_of_its_program_is_refused(name, value, text) -> None:
    with pytest.raises(ProgramRefused, match=text):
        device.load(wrong_field(name, value))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40)
@given(st.sampled_from(sorted(toys.manifest())), JSON)
def test_no_manifest_brings_the_reader_down(name, value) -> None:
    with contextlib.suppress(ProgramRefused):
        device.load(wrong_field(name, value))


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff", b'{"format": NaN}', b"[" * 100_000, b'{"a": 1, "a": 2}'])
def test_a_manifest_that_is_no_object_is_refused(text) -> None:
    with pytest.raises(ProgramRefused, match="the program is refused: "):
        device.load(toys.with_manifest(text))


def test_what_is_no_program_is_refused_though_its_hash_is_right() -> None:
    for junk in (b"", b"junk" * 20, toys.exported()[:500], bytes(1000)):
        with pytest.raises(ProgramRefused, match="the program is refused: "):
            device.load(artifact_of(toys.manifest(), toys.entries(program=junk))[0])


def in_a_dict(*flat):
    return dict(zip("abcd", toys.toy(*flat), strict=True))


def test_a_program_of_other_trees_than_lists_is_refused() -> None:
    nested = toys.entries(program=toys.exported(in_a_dict))
    with pytest.raises(ProgramRefused, match="program.bin takes or gives more than lists of arrays"):
        device.load(artifact_of(toys.manifest(), nested)[0])


def test_a_program_for_other_machines_says_so() -> None:
    entries = toys.entries(program=toys.exported(platforms=("tpu",)), evaluate=toys.exported(toys.measure, ("tpu",)))
    with pytest.raises(ProgramRefused, match=f"it is for tpu, and JAX runs on {jax.default_backend()} here"):
        device.load(artifact_of(toys.manifest(platforms=["tpu"]), entries)[0])


def calls_home(model, kept, x, num_examples, key, client, noise):
    call = jax.ffi.ffi_call("of_this_machine", jax.ShapeDtypeStruct((), jnp.float32))
    return call(model), kept, jnp.bool_(True), model


def test_a_program_that_calls_code_of_the_machine_is_refused() -> None:
    from jax import export

    check = export.DisabledSafetyCheck.custom_call("of_this_machine")
    shapes = [jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)]
    shapes += [jax.ShapeDtypeStruct((4,), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)]
    shapes += [jax.ShapeDtypeStruct((2,), jnp.uint32), shapes[1], jax.ShapeDtypeStruct((2,), jnp.uint32)]
    platforms = ("cpu", "cuda", "tpu")
    found = export.export(jax.jit(calls_home), platforms=platforms, disabled_checks=(check,))(*shapes).serialize()
    with pytest.raises(ProgramRefused, match="program.bin calls .'of_this_machine'., code of this machine"):
        device.load(artifact_of(toys.manifest(), toys.entries(program=bytes(found)))[0])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"features": {"y": X["x"]}}, r"`features` are \['y'\], and this program takes \['x'\]"),
        (
            {"features": {"x": np.float64([1, 2, 3])}},
            r"'x' is float64\[3\]; expected float32 .* np.asarray\(x, np.float32\)",
        ),
        (
            {"features": {"x": np.zeros((3, 2), np.float32)}},
            r"'x' is float32\[3, 2\]; expected float32 of the shape \['n'\]",
        ),
        ({"features": {"x": np.float32(1)}}, r"'x' is float32\[\]"),
        ({"num_examples": 0}, "`num_examples` is 0; expected 1 to 4, the program's capacity"),
        ({"num_examples": 5}, "`num_examples` is 5; expected 1 to 4, .* Give it fewer of the client's examples"),
        ({"num_examples": 4}, "'x' has 3 rows, and `num_examples` is 4"),
        ({"num_examples": True}, "`num_examples` is True; expected an int"),
        ({"num_examples": 2.0}, "`num_examples` is 2.0; expected an int"),
        ({"client": -1}, "`client` is -1; expected an int"),
        ({"key": np.int32([1, 2])}, r"`key` is int32\[2\], and this program takes uint32\[2\]"),
        ({"noise": np.uint32([1])}, r"`noise` is uint32\[1\]"),
        ({"download": [np.float64(1)]}, r"`download: model` is float64\[\], and this program takes float32\[\]"),
        ({"download": []}, "`download` has 0 arrays, and this program takes 1"),
        ({"state": [np.int32([1])]}, r"`state: kept` is int32\[1\]"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_runs(changes, text) -> None:
    given_ = {"download": MODEL, "state": None, "features": X, "num_examples": 3, "key": KEY, **changes}
    with pytest.raises(ValueError, match=text):
        device.run(device.load(toys.artifact()), **given_)


def test_a_program_without_an_evaluation_says_so() -> None:
    without = artifact_of(toys.manifest(evaluation=None), toys.entries(evaluate=None))[0]
    with pytest.raises(ValueError, match="this program has no evaluation; make one with client_program"):
        device.evaluate(device.load(without), MODEL, None, X, 3)


def test_the_file_is_the_same_bytes_each_time() -> None:
    assert made() == made() == toys.artifact()
    assert made(steps=2) != made()


@given(
    st.lists(st.sampled_from(["bool", "int8", "uint16", "int32", "float16", "bfloat16", "float8_e4m3fn"]), max_size=4),
    st.data(),
)
def test_arrays_come_back_from_their_bytes(dtypes, data) -> None:
    shapes = [data.draw(st.lists(st.integers(0, 3), max_size=3)) for _ in dtypes]
    rng = np.random.default_rng(0)
    leaves = [jnp.asarray(rng.integers(0, 2, shape), dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    specs = [{"shape": list(leaf.shape), "dtype": str(leaf.dtype)} for leaf in leaves]
    packed = device.pack(leaves)
    assert len(packed) == sum(leaf.nbytes for leaf in leaves)
    for leaf, back in zip(leaves, device.unpack(packed, specs), strict=True):
        np.testing.assert_array_equal(np.asarray(leaf), back)
        assert back.dtype == leaf.dtype
    with pytest.raises(ProgramRefused, match="bytes were found where arrays of"):
        device.unpack(packed + b"0", specs)


def test_the_reader_takes_no_more_than_the_directory_declares() -> None:
    long = toys.rezipped(lambda inside: [(name, bytes(10**6) if name == "start.bin" else was) for name, was in inside])
    declared, short = (10**6).to_bytes(4, "little"), (4).to_bytes(4, "little")
    assert long.count(declared) == 2  # at the entry, and in the directory
    with pytest.raises(ProgramRefused):
        device.load(long.replace(declared, short))
