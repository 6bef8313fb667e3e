"""A server without any data of its clients: [serve.data] says what it has to know of them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from described_digits import CONFIG, TABLE
from typer.testing import CliRunner

import fedjaxlite as fl
from fedjaxlite.cli import build, named
from fedjaxlite.cli.app import app
from fedjaxlite.cli.deploying import composing, described, serving
from fedjaxlite.keys import is_random_key


def written(folder: Path, more: str = "", *, table: str = TABLE, partition: str = "iid") -> Path:
    path = folder / "config.toml"
    path.write_text(CONFIG + f'partition = "{partition}"\n' + more + table)
    return path


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("data were read")

    monkeypatch.setattr(build, "load", load)
    monkeypatch.setattr(fl.datasets, "load", load)
    monkeypatch.setattr(named, "dataset", load)


def server_of(found: composing.Deployed) -> Any:
    job, program = found.job, composing.program_of(found)
    key = composing.key_of(job.settings)
    arguments: Any = {"program": program, "key": key, "noise_key": key, "num_rounds": job.settings.rounds}
    return fl.deploy.Server(job.rounds, job.params, job.population, **arguments)


def test_program_and_first_state_are_those_of_a_server_that_read_data_of_these_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = "clip_norm = 1.0\nquantize_bits = 8\nalgorithm = 'scaffold'\n"
    loaded = composing.deployed(written(tmp_path, more, table="", partition="dirichlet:1"))
    people = loaded.job.population
    rows = sum(np.asarray(people.num_examples).tolist())
    table = TABLE.replace("360", f"{people.max_size}").replace("classes", f"examples = {rows}\nclasses")
    with monkeypatch.context() as patch:
        patch.setattr(build, "load", None)
        unread = composing.deployed(written(tmp_path, more, table=table, partition="dirichlet:1"))
    servers = [server_of(found) for found in (loaded, unread)]
    assert len({server.program.sha256 for server in servers}) == 1
    one, other = (jax.tree.leaves(jax.tree.map(_plain, server.first)) for server in servers)
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert unread.job.evaluate == {}
    assert servers[0].numbers == servers[1].numbers


def _plain(leaf: Any) -> Any:
    return np.asarray(jax.random.key_data(leaf) if is_random_key(leaf) else leaf)


def test_a_server_without_data_starts_and_evaluates_on_its_own_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_data: None
) -> None:
    pytest.importorskip("cryptography")
    rng = np.random.default_rng(0)
    own = {"x": rng.normal(size=(7, 8, 8, 1)).astype(np.float32), "y": np.arange(7, dtype=np.int32)}
    np.savez(tmp_path / "own.npz", **own)  # pyright: ignore[reportArgumentType]
    seen = {}

    async def service(server: Any, *args: Any, evaluate: Any, **kwargs: Any) -> Any:
        seen.update(evaluate(server.first.server_state.params))
        return SimpleNamespace(number=0, phase="waiting")

    monkeypatch.setattr(serving, "serve_run", service)
    path = written(tmp_path, table=TABLE.replace("classes", f"test = '{tmp_path / 'own.npz'}'\nclasses"))
    told = CliRunner().invoke(app, ["serve", str(path), "--out", str(tmp_path / "out"), "--port", "0"])
    assert told.exit_code == 0, told.output
    assert 'one example: {"x": "float32[8, 8, 1]", "y": "int32[]"}; at most 360 a client' in told.output
    assert set(seen) == {"test_loss", "test_accuracy"}
    assert seen["test_loss"] == pytest.approx(np.log(10), rel=1e-5)


def test_many_clients_take_no_memory(no_data: None, tmp_path: Path) -> None:
    table = TABLE.replace("clients = 4", "clients = 1_000_000").replace("capacity = 360", "capacity = 5_000")
    people = composing.deployed(written(tmp_path, table=table)).job.population
    assert (people.num_clients, people.max_size) == (1_000_000, 5_000)
    assert not any(people.features["x"].strides)
    assert people.offsets[-1] == len(people.features["y"]) == 2**31 - 1


@pytest.mark.parametrize(
    ("text", "shape"),
    [("float32", ()), ("int32[]", ()), ("uint8[28,28]", (28, 28)), (" float16 [ 3 , 4, ] ", None), ("bool[2]", (2,))],
    ids=["number", "empty", "image", "comma", "bool"],
)
def test_one_example_is_written_as_a_server_prints_it(text: str, shape: tuple[int, ...] | None) -> None:
    if shape is None:
        with pytest.raises(ValueError, match="expected the dtype and shape of one example"):
            described.one_example("x", text, "file has")
        return
    one = described.one_example("x", text, "file has")
    assert (one.shape, one.dtype) == (shape, np.dtype(text.partition("[")[0].strip()))


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("clients = 4\ncap", "cap", "has no clients in [serve.data]; expected how many may ever be enrolled"),
        ("capacity = 360\n", "", "has no capacity in [serve.data]; expected the most examples of one client"),
        (
            '[serve.data.features]\nx = "float32[8, 8, 1]"\ny = "int32"\n',
            "",
            "has no features in [serve.data]; expected",
        ),
        (
            'x = "float32[8, 8, 1]"\ny = "int32"\n',
            "",
            "has features = {} in [serve.data]; expected one example of each",
        ),
        ("capacity = 360", "capacity = 0", "has capacity = 0 in [serve.data]; expected an int of at least 1"),
        ("capacity = 360", "capacity = true", "has capacity = True in [serve.data]; expected an int of at least 1"),
        ("classes = 10", "clases = 10", "has 'clases' in [serve.data]; known are clients, capacity, features, classes"),
        ("classes = 10", "", "has labels y of int32 and no classes in [serve.data]; expected one more than the"),
        (
            "classes = 10",
            "classes = 10\nexamples = 3",
            "has examples = 3 in [serve.data]; expected 4 to 1440, those of",
        ),
        ("int32", "float32", "has classes = 10 in [serve.data] and no integers y that it could be of"),
        ('"int32"', '"uint8"\n[serve.data2]', "has 'data2' in [serve]; known are over_select"),
        ("10", "300", "MANY"),
        ("float32[8, 8, 1]", "float64[8]", "has x = 'float64[8]' in [serve.data.features]; expected the dtype and"),
        ("float32[8, 8, 1]", "float32[8, 0]", "has x = 'float32[8, 0]' in [serve.data.features]; expected the dtype"),
        ('"float32[8, 8, 1]"', "8", "has x = 8 in [serve.data.features]; expected the dtype and shape"),
        ("classes", "test = 'none.npz'\nclasses", "has test = 'none.npz' in [serve.data]: the data 'none.npz' are not"),
        ("classes", "test = 3\nclasses", "has test = 3 in [serve.data]; expected the path of an .npz file"),
        (
            "[serve.data]\n",
            "warm_start = 0.1\n[serve.data]\n",
            "has warm_start, which trains on a part of the clients'",
        ),
        ("[serve.data]\n", "algorithm = 'k_means'\n[serve.data]\n", "draws its first centers from the clients' exampl"),
        ("[serve.data]\n", "personal_eval = true\n[serve.data]\n", "has personal_eval, which a server of devices has"),
        (TABLE, "[serve]\ndata = 3\n", "has data = 3 in [serve]; expected a table [serve.data]"),
    ],
    ids=[
        *(
            "clients",
            "capacity",
            "features",
            "none",
            "zero",
            "flag",
            "unknown",
            "classes",
            "examples",
            "floats",
            "table",
        ),
        *("many", "wide", "empty", "number", "missing", "path", "warm_start", "centers", "personal", "kind"),
    ],
)
def test_what_cannot_be_is_said(old: str, new: str, text: str, tmp_path: Path, no_data: None) -> None:
    assert old in TABLE
    table = TABLE.replace(old, new)
    if text == "MANY":
        table, text = (
            table.replace("int32", "uint8"),
            "has classes = 300 in [serve.data], more than uint8 of y can tell",
        )
    with pytest.raises(ValueError, match="config.toml' has") as error:
        composing.deployed(written(tmp_path, table=table))
    assert text in str(error.value)


def test_a_test_set_of_other_shapes_is_refused(tmp_path: Path, no_data: None) -> None:
    np.savez(tmp_path / "own.npz", x=np.zeros((7, 8, 8, 1)), y=np.arange(7, dtype=np.int32))
    table = TABLE.replace("classes", f"test = '{tmp_path / 'own.npz'}'\nclasses")
    text = r"the feature 'x' is float64\['n', 8, 8, 1\], and \[serve.data\] says float32"
    with pytest.raises(ValueError, match=text):
        composing.deployed(written(tmp_path, table=table))


def test_export_clients_takes_the_simulation_s_data(tmp_path: Path) -> None:
    path = written(tmp_path, table=TABLE.replace("clients = 4", "clients = 9"))
    told = CliRunner().invoke(app, ["export", "clients", str(tmp_path / "data"), "--config", str(path)])
    assert "4 files" in told.output, told.output
