"""Rows whose clients are mixed: however they are cut into blocks, a folder holds what `from_arrays` makes."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedjaxlite as fl


def blocks_of(ids, features, step):
    for begin in range(0, len(ids), step):
        yield ids[begin : begin + step], {name: array[begin : begin + step] for name, array in features.items()}


@given(
    st.lists(st.integers(-3, 8), min_size=1, max_size=60),
    st.integers(1, 20),
    st.integers(1, 600),
    st.booleans(),
)
@settings(max_examples=12, deadline=None)
def test_a_folder_holds_what_from_arrays_makes(owners, step, buffer_bytes, text):
    ids = np.array([f"client {'x' * abs(i)}{i}" if text else i for i in owners])
    rows = np.arange(len(owners))
    features = {"x": np.stack([rows, rows * 0.5], 1), "y": rows.astype(np.uint8)}
    memory = fl.Population.from_arrays(features, ids)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "people")
        disk = fl.Population.write_rows(folder, blocks_of(ids, features, step), buffer_bytes=buffer_bytes)
        assert disk.fingerprint() == memory.fingerprint()
        assert disk.names.tolist() == memory.names.tolist()
        assert not (folder / "parts").exists()
        for index, name in enumerate(memory.names.tolist()):
            assert disk.index_of(name) == index


WRONG = {
    "nan": ([([1, 2], {"x": [1.0, 2.0]}), ([1], {"x": [np.inf]})], ValueError, r"holds inf at row 2 \(client 1\)"),
    "label": ([([1, 2], {"y": [1, 7]})], ValueError, r"feature 'y' holds label 7 at row 1 \(client 2\)"),
    "count": ([([1, 2], {"y": [1]})], ValueError, "block 0 of `blocks` has 2 client_ids and 1 rows"),
    "dtype": (
        [([1], {"y": [1]}), ([1], {"y": [1.5]})],
        ValueError,
        "feature 'y' of block 1 is float32, but that of block 0 is int32",
    ),
    "features": ([([1], {"y": [1]}), ([1], {"z": [1]})], ValueError, r"block 1 has features \['z'\]"),
    "ids": ([([1], {"y": [1]}), (["a"], {"y": [1]})], TypeError, "block 1 of `blocks`: .* strings .*, and ints before"),
    "pair": ([{"y": [1]}], TypeError, r"block 0 of `blocks` is .*; expected pairs \(client_ids"),
    "none": ([], ValueError, "`blocks` gave no rows"),
    "no rows": ([([], {"y": []})], ValueError, "`blocks` gave no rows"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_what_cannot_be_written_is_told_and_leaves_nothing(tmp_path, case):
    blocks, kind, text = WRONG[case]
    with pytest.raises(kind, match=text):
        fl.Population.write_rows(tmp_path / "people", blocks, num_classes=3 if case == "label" else None)
    assert not (tmp_path / "people").exists()
