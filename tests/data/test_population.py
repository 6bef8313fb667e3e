import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedjaxlite as fl
from fedjaxlite import storage
from fedjaxlite.data.population import Population


def small():
    features = {"x": np.arange(12.0).reshape(6, 2), "y": np.array([0, 1, 2, 0, 1, 2])}
    return Population.from_arrays(features, client_ids=["b", "a", "b", "c", "a", "b"])


def test_from_arrays_groups_stably_and_orders_by_sorted_id():
    population = small()
    assert population.names.tolist() == ["a", "b", "c"]
    assert population.offsets.tolist() == [0, 2, 5, 6]
    assert population.offsets.dtype == np.int32
    assert population.max_size == 3
    assert population.num_clients == 3
    assert population.num_examples.tolist() == [2, 3, 1]
    assert population.client(1)["x"].tolist() == [[0, 1], [4, 5], [10, 11]]


@given(st.lists(st.integers(-3, 5), min_size=1, max_size=40))
def test_every_row_belongs_to_its_owner_in_stored_order(owners):
    population = Population.from_arrays({"row": np.arange(len(owners))}, owners)
    assert population.names.tolist() == sorted(set(owners))
    for i, name in enumerate(population.names):
        assert population.client(i)["row"].tolist() == [row for row, owner in enumerate(owners) if owner == name]


def test_order_is_followed_and_must_name_every_client():
    population = Population.from_arrays({"y": [1, 2, 3]}, [5, 9, 5], order=[9, 5])
    assert population.names.tolist() == [9, 5]
    assert population.client(1)["y"].tolist() == [1, 3]
    with pytest.raises(ValueError, match=r"client_ids holds 9, which is not in order"):
        Population.from_arrays({"y": [1, 2, 3]}, [5, 9, 5], order=[5])
    with pytest.raises(ValueError, match=r"order holds 5 more than once"):
        Population.from_arrays({"y": [1]}, [5], order=[5, 5])
    with pytest.raises(TypeError, match=r"order has dtype <U1, but client_ids has int64; expected one kind of id"):
        Population.from_arrays({"y": [1]}, [5], order=["5"])
    with pytest.raises(ValueError, match="order is empty"):
        Population.from_arrays({"y": [1]}, [5], order=[])


def test_dtypes_are_what_a_device_takes_and_narrow_ones_are_kept():
    kinds = {
        "f8": ("float64", "float32"),
        "f2": ("float16", "float16"),
        "bf": (jnp.bfloat16, "bfloat16"),
        "i8": ("int64", "int32"),
        "u8": ("uint64", "int32"),
        "u1": ("uint8", "uint8"),
        "u4": ("uint32", "uint32"),
        "b1": ("bool", "bool"),
    }
    features = {name: np.ones(2, given) for name, (given, _) in kinds.items()}
    population = Population.from_arrays(features, [0, 1])
    assert {n: str(a.dtype) for n, a in population.features.items()} == {n: want for n, (_, want) in kinds.items()}


def test_the_population_does_not_share_memory_with_what_it_was_given():
    x, order = np.zeros(3, np.float32), np.array([0])
    population = Population.from_arrays({"x": x}, [0, 0, 0], order=order)
    x[:] = 7
    order[:] = 3
    assert population.client(0)["x"].tolist() == [0, 0, 0]
    assert population.names.tolist() == [0]
    with pytest.raises(ValueError, match="read-only"):
        population.client(0)["x"][0] = 1


def test_from_clients_keeps_order_and_joins_dtypes():
    population = Population.from_clients([{"x": [[1, 2]]}, {"x": [[3.5, 4.0], [5.0, 6.0]]}], names=["z", "a"])
    assert population.names.tolist() == ["z", "a"]
    assert population.features["x"].dtype == np.float32
    assert population.client(1)["x"].tolist() == [[3.5, 4.0], [5.0, 6.0]]
    assert Population.from_clients([{"x": [1.0]}]).names is None


def test_from_clients_equals_from_arrays():
    population = small()
    again = Population.from_clients([population.client(i) for i in range(3)], names=population.names)
    assert again.fingerprint() == population.fingerprint()
    assert again.names.tolist() == population.names.tolist()


def test_client_index_errors():
    population = small()
    for index in (-1, 3):
        with pytest.raises(IndexError, match=rf"client {index} is out of range; the population has clients 0 to 2"):
            population.client(index)
    with pytest.raises(TypeError, match=r"a client's index is 1.0; expected an int in \[0, 3\)"):
        population.client(1.0)
    with pytest.raises(TypeError, match="a client's index is True"):
        population.client(True)


def test_select_renumbers_and_keeps_names():
    population = small()
    chosen = population.select([2, 0])
    assert chosen.names.tolist() == ["c", "a"]
    assert chosen.max_size == 2
    for new, old in enumerate([2, 0]):
        for name in ("x", "y"):
            np.testing.assert_array_equal(chosen.client(new)[name], population.client(old)[name])
    on_device = jax.device_put(population).select(np.array([1]))
    np.testing.assert_array_equal(on_device.client(0)["y"], population.client(1)["y"])


def test_select_errors():
    population = small()
    with pytest.raises(ValueError, match=r"ids has shape \[0\]; expected \[M\] client indices, at least one"):
        population.select([])
    with pytest.raises(IndexError, match="client 3 is out of range"):
        population.select([0, 3])
    with pytest.raises(IndexError, match="client -1 is out of range"):
        population.select([-1])
    with pytest.raises(ValueError, match="ids holds 1 more than once"):
        population.select([1, 1])
    with pytest.raises(TypeError, match=r"np.flatnonzero\(mask\)"):
        population.select(np.array([True, False, True]))


def test_it_is_a_pytree_with_static_size_and_host_names():
    population = small()
    placed = jax.device_put(population)
    assert isinstance(placed.features["x"], jax.Array)
    assert placed.max_size == 3
    assert placed.names is None
    assert placed.num_examples.tolist() == [2, 3, 1]
    sizes = jax.jit(lambda p: p.num_examples * p.max_size)(population)
    assert sizes.tolist() == [6, 9, 3]
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(population)[0]]
    assert paths == [".features['x']", ".features['y']", ".offsets"]


def test_repr_is_short_and_works_on_tracers():
    population = small()
    assert repr(population) == "Population(3 clients, 6 examples, 1 to 3 a client; x float32[2], y int32)"
    seen = []
    jax.jit(lambda p: seen.append(repr(p)) or p.offsets)(population)
    assert seen == ["Population(3 clients; x float32[2], y int32)"]


def test_fingerprint_depends_on_content_and_on_nothing_else():
    population = small()
    assert len(population.fingerprint()) == 64
    assert population.fingerprint() == jax.device_put(population).fingerprint()
    assert population.fingerprint() == population.renamed([1, 2, 3]).fingerprint()
    features = {name: np.array(array) for name, array in population.features.items()}
    reordered = Population({n: features[n] for n in ("y", "x")}, population.offsets, 3)
    assert reordered.fingerprint() == population.fingerprint()
    others = [
        Population({**features, "y": features["y"][::-1]}, population.offsets, 3),
        Population({**features, "y": features["y"].astype(np.int8)}, population.offsets, 3),
        Population({"x": features["x"], "z": features["y"]}, population.offsets, 3),
        Population(features, np.array([0, 3, 5, 6], np.int32), 3),
        population.select([1, 0, 2]),
    ]
    hashes = {p.fingerprint() for p in others} | {population.fingerprint()}
    assert len(hashes) == len(others) + 1


def test_fingerprint_is_stable_over_versions():
    population = Population.from_arrays({"x": np.arange(4.0), "y": [0, 1, 0, 1]}, [0, 0, 1, 1])
    assert population.fingerprint() == "41d6bf85475c595471cb07be6f779c24668a7385ded27b9092b7312fe0fcec4a"


def test_save_and_load_round_trip(tmp_path):
    features = {"x": np.ones((3, 2), jnp.bfloat16), "y": np.array([1, 2, 3], np.uint8)}
    for names in (["ä", "b", "b"], [4, 2, 2]):
        population = Population.from_arrays(features, names)
        population.save(tmp_path / "clients.npz")
        again = Population.load(str(tmp_path / "clients.npz"))
        assert again.fingerprint() == population.fingerprint()
        assert again.names.tolist() == population.names.tolist()
        assert again.max_size == population.max_size
        assert {n: a.dtype for n, a in again.features.items()} == {n: a.dtype for n, a in population.features.items()}
    unnamed = Population.from_clients([{"y": [1]}])
    unnamed.save(tmp_path / "clients.npz")
    assert Population.load(tmp_path / "clients.npz").names is None
    assert [p.name for p in tmp_path.iterdir()] == ["clients.npz"]


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "clients.npz"
    small().save(path)
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        small().select([0]).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["clients.npz"]


def test_load_refuses_other_files_and_damage(tmp_path):
    with pytest.raises(FileNotFoundError):
        Population.load(tmp_path / "none.npz")
    other = tmp_path / "other.npz"
    np.savez(other, a=np.zeros(2))
    with pytest.raises(ValueError, match=r"other.npz' is no file of this library, or damaged"):
        Population.load(other)
    path = tmp_path / "clients.npz"
    small().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged"):
        Population.load(path)
    broken = bytearray(content)
    at = content.index(np.array([2, 3], np.float32).tobytes())
    broken[at] ^= 1
    path.write_bytes(bytes(broken))
    with pytest.raises(ValueError, match="damaged"):
        Population.load(path)


def test_load_checks_the_format_and_the_fingerprint(tmp_path):
    path = tmp_path / "clients.npz"
    arrays = {"feature y": np.zeros(2, np.int32), "offsets": np.array([0, 2], np.int32)}
    storage.write_npz(path, arrays, {"format": "something else"})
    with pytest.raises(ValueError, match="holds 'something else'; expected 'fedjaxlite population 1'"):
        Population.load(path)
    storage.write_npz(path, arrays, {"format": "fedjaxlite population 1", "fingerprint": "0"})
    with pytest.raises(ValueError, match="its content has not the fingerprint it was saved with"):
        Population.load(path)


def test_renamed_checks_names():
    population = small()
    assert population.renamed([10, 20, 30]).names.tolist() == [10, 20, 30]
    with pytest.raises(ValueError, match="names has 2 entries for 3 clients"):
        population.renamed([1, 2])
    with pytest.raises(ValueError, match="names holds 1 more than once"):
        population.renamed([1, 1, 2])


def test_empty_clients_are_refused_unless_allowed():
    with pytest.raises(
        ValueError, match=r"client 1 \('b'\) has no examples, and so have 1 of 2 clients; leave them out"
    ):
        Population.from_arrays({"y": [1]}, ["a"], order=["a", "b"])
    population = Population.from_arrays({"y": [1]}, ["a"], order=["a", "b"], allow_empty=True)
    assert population.num_examples.tolist() == [1, 0]
    assert population.client(1)["y"].shape == (0,)
    with pytest.raises(ValueError, match="client 0 has no examples"):
        Population.from_clients([{"y": np.zeros(0)}, {"y": np.ones(1)}])
    assert Population.from_clients([{"y": np.zeros(0)}, {"y": np.ones(1)}], allow_empty=True).max_size == 1
    with pytest.raises(ValueError, match="there are no examples, and so no clients"):
        Population.from_arrays({"y": []}, [])
    assert Population.from_arrays({"y": []}, [], order=[3], allow_empty=True).num_examples.tolist() == [0]


WRONG_ARRAYS = {
    "lengths": (
        {"x": np.zeros((3, 2)), "y": np.zeros(2)},
        [0, 1, 2],
        ValueError,
        "'y' has 2 rows, but feature 'x' has 3",
    ),
    "ids length": ({"x": np.zeros(3)}, [0, 1], ValueError, "client_ids has 2 entries, but feature 'x' has 3 rows"),
    "ids shape": ({"x": np.zeros(3)}, [[0, 1, 1]], ValueError, r"client_ids has shape \[1, 3\]; expected one id each"),
    "ids dtype": ({"x": np.zeros(2)}, [0.5, 1.5], TypeError, "client_ids has dtype float64; expected ints or strings"),
    "ids mixed": ({"x": np.zeros(2)}, np.array([0, "a"], object), TypeError, "client_ids has dtype object"),
    "no dict": ([1, 2], [0, 1], TypeError, "features are a list; expected a dict from names to arrays"),
    "no features": ({}, [], ValueError, "features are empty"),
    "name": ({3: np.zeros(2)}, [0, 1], TypeError, "feature name 3 is of type int; expected a str"),
    "scalar": ({"x": 3.0}, [0], ValueError, "feature 'x' is a scalar"),
    "object": ({"x": np.array([[1], [1, 2]], object)}, [0, 1], TypeError, "'x' has dtype object;.* pad or cut them"),
    "text": ({"x": ["a", "b"]}, [0, 1], TypeError, "'x' has dtype <U1; expected floats, integers or booleans: map it"),
    "complex": ({"x": np.ones(2, complex)}, [0, 1], TypeError, "'x' has dtype complex128"),
    "dates": ({"x": np.zeros(2, "datetime64[s]")}, [0, 1], TypeError, "'x' has dtype datetime64"),
    "records": ({"x": np.zeros(2, [("a", "f4")])}, [0, 1], TypeError, "'x' has dtype"),
    "mask": ({"mask": np.zeros(2)}, [0, 1], ValueError, "feature name 'mask' is reserved for the mask"),
    "nan": ({"x": [[0.0], [np.nan]]}, ["a", "b"], ValueError, r"feature 'x' holds nan at row 1 \(client 'b'\)"),
    "inf": ({"x": [1.0, -np.inf]}, [7, 8], ValueError, r"feature 'x' holds -inf at row 1 \(client 8\)"),
    "overflow": ({"x": [1e300]}, [0], ValueError, r"holds inf at row 0.*expected finite values \(as float32\)"),
    "bf16 nan": ({"x": np.array([np.nan], jnp.bfloat16)}, [0], ValueError, "holds nan at row 0"),
    "int64": ({"y": [0, 2**31]}, [0, 1], ValueError, r"'y' holds 2147483648 at row 1 \(client 1\), beyond int32"),
    "uint64": ({"y": np.array([2**63], "u8")}, [0], ValueError, "beyond int32"),
}


@pytest.mark.parametrize(("features", "ids", "kind", "text"), WRONG_ARRAYS.values(), ids=WRONG_ARRAYS)
def test_from_arrays_says_what_is_wrong_and_where(features, ids, kind, text):
    with pytest.raises(kind, match=text):
        Population.from_arrays(features, ids)


def test_values_that_are_not_finite_pass_on_request():
    population = Population.from_arrays({"x": [np.nan]}, [0], check_finite=False)
    assert np.isnan(population.client(0)["x"]).all()


def test_num_classes_checks_labels():
    assert Population.from_arrays({"y": [0, 2]}, [0, 0], num_classes=3).num_clients == 1
    for bad in (3, -1):
        with pytest.raises(
            ValueError, match=rf"feature 'y' holds label {bad} at row 1 \(client 'b'\); expected 0 to 2"
        ):
            Population.from_arrays({"y": [0, bad]}, ["a", "b"], num_classes=3)
    with pytest.raises(ValueError, match=r"num_classes=3 checks feature 'y', but the features are \['x'\]"):
        Population.from_arrays({"x": [0]}, [0], num_classes=3)
    with pytest.raises(TypeError, match="feature 'y' has dtype float32; num_classes=3 expects integer labels"):
        Population.from_arrays({"y": [0.0]}, [0], num_classes=3)
    with pytest.raises(ValueError, match="`num_classes` is 0"):
        Population.from_arrays({"y": [0]}, [0], num_classes=0)


def test_more_examples_than_int32_counts_are_refused():
    x = np.broadcast_to(np.zeros(1, np.uint8), (2**31,))
    with pytest.raises(ValueError, match=r"2147483648 examples; one Population in memory holds at most 2\*\*31 - 1"):
        Population.from_arrays({"x": x}, client_ids=[0])


WRONG_CLIENTS = {
    "none": ([], ValueError, "`clients` is empty; expected a list with one dict of arrays a client"),
    "a dict": ({"x": [1]}, TypeError, r"`clients` is \{'x': \[1\]\}; expected a list with one dict of arrays a client"),
    "features": ([{"x": [1]}, {"z": [1]}], ValueError, r"client 1 has features \['z'\], but client 0 has \['x'\]"),
    "lengths": ([{"x": [1], "y": [1, 2]}], ValueError, "client 0: feature 'y' has 2 rows, but feature 'x' has 1"),
    "shapes": (
        [{"x": np.zeros((1, 2))}, {"x": np.zeros((1, 3))}],
        ValueError,
        r"'x' of client 1 has rows of shape \[3\], but those of client 0 have \[2\]",
    ),
    "nan": ([{"x": [0.0, 1.0]}, {"x": [0.0, np.nan]}], ValueError, "feature 'x' holds nan at row 1 of client 1"),
}


@pytest.mark.parametrize(("clients", "kind", "text"), WRONG_CLIENTS.values(), ids=WRONG_CLIENTS)
def test_from_clients_says_what_is_wrong_and_where(clients, kind, text):
    with pytest.raises(kind, match=text):
        Population.from_clients(clients)
    with pytest.raises(ValueError, match="names has 1 entries for 2 clients"):
        Population.from_clients([{"x": [1]}, {"x": [2]}], names=["a"])


def test_a_million_clients_are_cheap():
    n = 1_000_000
    population = fl.Population.from_arrays({"x": np.zeros(n, np.uint8)}, client_ids=np.arange(n)[::-1])
    assert population.num_clients == n
    assert population.max_size == 1


ROWS = {"x": np.zeros((7, 2), np.float32)}


@pytest.mark.parametrize(
    ("features", "offsets", "max_size", "kind", "text"),
    [
        (ROWS, [0, 9], 9, ValueError, "`offsets` ends at 9, but the features have 7 rows; expected 7"),
        (ROWS, [0, 5], 5, ValueError, "`offsets` ends at 5, but the features have 7 rows"),
        (ROWS, [2, 7], 5, ValueError, "`offsets` begins with 2; expected 0"),
        (ROWS, [0, 5, 3, 7], 5, ValueError, "`offsets` goes down from 5 to 3 at client 1; expected ascending ints"),
        (ROWS, [0.0, 7.0], 7, TypeError, "`offsets` has dtype float64; expected int32"),
        (ROWS, np.array([0, 2**40]), 7, ValueError, r"`offsets` holds values from 0 to 1099511627776; .*2\*\*31 - 1"),
        (ROWS, [[0, 7]], 7, ValueError, r"`offsets` has shape \[1, 2\]; expected \[N \+ 1\]"),
        (ROWS, [0], 7, ValueError, r"`offsets` has shape \[1\]; expected \[N \+ 1\] for N clients, at least one"),
        (ROWS, iter([0, 7]), 7, TypeError, "`offsets` is <list_iterator"),
        (ROWS, [0, 7], 6, ValueError, "`max_size` is 6, but client 0 has 7 examples; expected at least 7"),
        (ROWS, [0, 7], -1, ValueError, "`max_size` is -1; expected an int of at least 0"),
        (ROWS, [0, 7], "7", TypeError, "`max_size` is '7'; expected an int"),
        ([1, 2], [0, 2], 2, TypeError, r"`features` is \[1, 2\]; expected a dict"),
        ({"x": [1, 2]}, [0, 2], 2, TypeError, r"feature 'x' is \[1, 2\]; expected an array .*from_arrays"),
        ({"x": np.zeros(2), "y": np.zeros(3)}, [0, 2], 2, ValueError, "feature 'y' has 3 rows, and others have 2"),
        ({"x": np.array(["a"])}, [0, 1], 1, TypeError, "feature 'x' has dtype <U1; expected numbers"),
    ],
)
def test_a_population_of_its_parts_says_what_does_not_fit(features, offsets, max_size, kind, text):
    with pytest.raises(kind, match=text):
        Population(features, offsets if not isinstance(offsets, list) else np.asarray(offsets), max_size)


@given(st.lists(st.integers(-3, 12), min_size=2, max_size=6), st.integers(-2, 12))
def test_whatever_parts_pass_no_client_owns_rows_that_are_not_there(offsets, max_size):
    try:
        population = Population({"x": np.arange(10)}, np.asarray(offsets), max_size)
    except ValueError:
        sizes = np.diff(offsets)
        fits = offsets[0] == 0 and offsets[-1] == 10 and (sizes >= 0).all() and sizes.max() <= max_size
        assert not fits
        return
    assert population.offsets.dtype == np.int32
    assert (population.num_examples >= 0).all()
    assert np.concatenate([population.client(i)["x"] for i in range(population.num_clients)]).tolist() == list(
        range(10)
    )


def test_a_population_is_checked_by_shape_under_jit_and_not_at_all_when_it_is_rebuilt():
    population = Population({"x": np.arange(4)}, [0, 1, 4], 3)

    @jax.jit
    def halved(people: Population) -> Population:
        return Population({"x": people.features["x"] * 2}, people.offsets, people.max_size)

    assert halved(population).features["x"].tolist() == [0, 2, 4, 6]
    shapes = jax.eval_shape(halved, population)
    assert Population(shapes.features, shapes.offsets, shapes.max_size).num_clients == 2
    leaves, treedef = jax.tree.flatten(population)
    assert jax.tree.unflatten(treedef, [object()] * len(leaves)).max_size == 3
    with pytest.raises(ValueError, match=r"`offsets` has shape \[2, 1\]"):
        jax.jit(lambda o: Population({}, o, 1).max_size)(jnp.zeros((2, 1), jnp.int32))


@pytest.mark.parametrize("clients", [None, [1, 2], iter([{"x": [1]}]), [None], "ab", {"x": [1]}])
def test_from_clients_wants_a_list_of_dicts(clients):
    with pytest.raises(TypeError, match="`clients`.*; expected a (list|dict)"):
        Population.from_clients(clients)


def test_a_ragged_list_is_no_feature():
    ragged = [[1, 2], [3]]
    with pytest.raises(
        TypeError, match=r"feature 'x' is \[\[1, 2\], \[3\]\]; expected a rectangular array .* Pad rows"
    ):
        Population.from_arrays({"x": ragged}, [0, 1])
    with pytest.raises(TypeError, match=r"feature 'x' is \[\[1, 2\], \[3\]\]; expected a rectangular array"):
        Population.from_clients([{"x": ragged}])
