"""A Flower app as it is written: its files, what they import, and its rounds beside those of the simulation."""

import ast
import importlib
import json
import re
import sys
import tomllib
from functools import lru_cache
from pathlib import Path

import flower_runs
import flower_stand_in as flower
import jax
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.deploy.flower import FlowerApp, export_flower, texts
from fedjaxlite.deploy.flower.export import device_files
from fedjaxlite.deploy.program.client_program import ClientProgram, client_program

KEY = 5
FED_AVG, SCAFFOLD = "fed_avg", "scaffold"


@lru_cache
def program_of(algorithm: str = FED_AVG, measured: bool = False) -> ClientProgram:
    """The clients' program, which is the same whoever is drawn."""
    return client_program(*flower_runs.digits(algorithm), evaluate=flower_runs.loss if measured else None)


def written(folder: Path, algorithm: str = FED_AVG, measured: bool = False, **options) -> FlowerApp:
    given = {"made_by": "flower_runs:digits", "key": jax.random.key(KEY), "num_rounds": 3}
    arguments = {"algorithm": algorithm}
    return export_flower(program_of(algorithm, measured), folder, **{**given, "arguments": arguments, **options})


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> FlowerApp:
    return written(tmp_path_factory.mktemp("flower") / "app")


@pytest.fixture
def grid_of(monkeypatch, tmp_path):
    """A grid of clients that run the files of an app, and its server's function."""
    flower.install(monkeypatch)
    people = flower_runs.clients()

    def make(app: FlowerApp, **options):
        monkeypatch.syspath_prepend(str(app.folder))
        for name in [name for name in sys.modules if name.split(".")[0] == texts.PACKAGE]:
            monkeypatch.delitem(sys.modules, name)
        client_app = importlib.import_module(f"{texts.PACKAGE}.client_app").app
        server_app = importlib.import_module(f"{texts.PACKAGE}.server_app").app
        nodes = {}
        for client in range(people.num_clients):
            path = tmp_path / f"client-{client}.npz"
            np.savez(path, **people.select([client]).features)
            nodes[100 - client] = (client_app, flower.Context({"partition-id": client, "data": str(path)}))
        config = tomllib.loads((app.folder / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
        context = flower.Context({})
        context.run_config = config
        return flower.Grid(nodes, **options), lambda grid: server_app.function(grid, context)

    return make


def simulated(algorithm: str, num_rounds: int, away: tuple[tuple[int, int], ...] = (), **arguments):
    """The models of `rounds.step` from the same key; `away` lists (round, client) that do not report."""
    rounds, params, _ = flower_runs.digits(algorithm, **arguments)
    whole = rounds.sampler.sample

    def sample(key, number, population):
        cohort = whole(key, number, population)
        for round_number, client in away:
            gone = (number == round_number) & (cohort.ids == client)
            cohort = cohort._replace(reported=cohort.reported & ~gone)
        return cohort

    rounds = fl.rounds(
        rounds.algorithm,
        sampler=rounds.sampler._replace(sample=sample),
        aggregator=rounds.aggregator,
        execution=fl.Execution(lanes=1, devices=1),
    )
    people = flower_runs.clients()
    state = rounds.init(params, people, key=jax.random.key(KEY))
    for _ in range(num_rounds):
        state, _ = rounds.step(state, people)
    return rounds.params(state)


def largest_difference(folder: Path, params) -> float:
    from fedjaxlite.storage import read_npz

    found, header = read_npz(folder / "server" / "results" / "params.npz")
    assert header == {"round": 3}
    leaves = jax.tree.leaves(params)
    assert len(leaves) == len(found)
    return max(float(np.abs(a - np.asarray(b)).max()) for a, b in zip(found.values(), leaves, strict=True))


def test_the_files_are_those_that_are_told(app):
    package = texts.PACKAGE
    assert app.files == (
        "LICENSE",
        "README.md",
        f"{package}/__init__.py",
        f"{package}/client_app.py",
        f"{package}/device/__init__.py",
        f"{package}/device/artifact.py",
        f"{package}/device/program.py",
        f"{package}/program.json",
        f"{package}/server_app.py",
        "pyproject.toml",
        "server/params.npz",
        "server/run.json",
    )
    for name in app.files:
        if name.endswith(".py"):
            compile((app.folder / name).read_text(), name, "exec")


def test_a_node_gets_neither_the_library_nor_the_method(app):
    allowed = {"flwr", "jax", "numpy", "ml_dtypes", texts.PACKAGE} | sys.stdlib_module_names
    for name in (*device_files(), "client_app.py", "__init__.py"):
        tree = ast.parse((app.folder / texts.PACKAGE / name).read_text())
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {module.split(".")[0] for module in imported} <= allowed, name
    for name in (*device_files(), "client_app.py"):
        text = (app.folder / texts.PACKAGE / name).read_text()
        assert not re.search(r"fedjaxlite\.|pyright|noqa: F", text), name


def test_the_configuration_is_of_flowers_format(app):
    told = tomllib.loads((app.folder / "pyproject.toml").read_text())
    assert told["project"]["license"] == {"file": "LICENSE"}
    assert told["project"]["description"] == "fed_avg with weighted_mean"
    assert f"flwr>={texts.FLWR}" in told["project"]["dependencies"]
    assert not any("fedjaxlite" in dependency for dependency in told["project"]["dependencies"])
    flwr = told["tool"]["flwr"]["app"]
    assert (flwr["fab-format-version"], flwr["flwr-version-target"]) == (1, texts.FLWR)
    assert flwr["fab-include"] == [f"{texts.PACKAGE}/**", "LICENSE"]  # server/ stays
    assert flwr["config"] == {
        "num-rounds": 3,
        "min-clients": 3,
        "round-seconds": 600.0,
        "evaluate-every": 0,
        "server-folder": str(app.folder / "server"),
    }


def test_the_readme_has_commands_that_fit_the_app(app):
    text = (app.folder / "README.md").read_text()
    config = tomllib.loads((app.folder / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    for given in re.findall(r"--run-config ['\"](.+?)['\"][`.;]", text):
        for part in re.findall(r"([a-z-]+)=", given):
            assert part in config
    assert "flwr run . loop --stream" in text
    assert app.program in text
    assert 'np.savez("client-0.npz", x=x, y=y)' in text
    assert "| `x` | float32[n, 8, 8, 1] |" in text
    node = re.findall(r"--node-config '(.+?)'", text)
    assert node == [f'partition-id={client} data="/path/client-{client}.npz"' for client in (0, 1)]
    toml = re.search(r"```toml\n(.+?)```", text, re.DOTALL)
    assert toml is not None
    assert tomllib.loads(toml[1]) == {"superlink": {"loop": {"address": "127.0.0.1:8000", "insecure": True}}}


def test_the_server_keeps_names_and_numbers(app):
    told = json.loads((app.folder / "server" / "run.json").read_text())
    assert told == {
        "format": "fedjaxlite flower run 1",
        "made_by": "flower_runs:digits",
        "arguments": {"algorithm": FED_AVG},
        "found_in": str(Path(__file__).parent),
        "key": [0, KEY],
        "program": app.program,
        "capacity": flower_runs.MOST,
        "evaluation": None,
    }


def records_of(app: FlowerApp) -> list[dict]:
    return [json.loads(line) for line in (app.folder / "server/results/records.jsonl").read_text().splitlines()]


def test_the_rounds_are_those_of_the_simulation(grid_of, tmp_path):
    made = written(tmp_path / "app", measured=True, evaluate_every=3, arguments={"cohort": 2}, min_clients=3)
    grid, serve = grid_of(made)
    serve(grid)
    model = simulated(FED_AVG, 3, cohort=2)
    assert largest_difference(made.folder, model) < 1e-6
    losses = flower_runs.loss(model, flower_runs.clients().features, None)
    assert [record.get("clients_loss") for record in records_of(made)[:2]] == [None, None]
    np.testing.assert_allclose(records_of(made)[2]["clients_loss"], float(losses.mean()), rtol=1e-5)
    size = 4 * (64 * 10 + 10)
    for number, record in enumerate(records_of(made), start=1):
        told = {name: record[name] for name in ("round", "num_reported", "num_away", "bytes_down")}
        assert told == {"round": number, "num_reported": 2, "num_away": 0, "bytes_down": 2 * size}
        assert 2 * size <= record["bytes_up"] <= 2 * (size + 16)
    assert [kind for kind, _, _ in grid.seen].count("query") == 3


def test_clients_that_are_not_in_a_sum_keep_their_state(grid_of, tmp_path):
    """In SCAFFOLD: an answer that is lost, one of NaN, one that is too short."""
    made = written(tmp_path / "app", SCAFFOLD)
    grid, serve = grid_of(made, fails=[("0", 100 - 2)])
    app, context = grid.nodes[100 - 1]
    bad = flower.ClientApp()
    bad.functions = dict(app.functions)

    def train(message, context):
        reply = app.functions["train"](message, context)
        update = reply.content["update"].to_numpy_ndarrays()[0].copy()
        if message.metadata.group_id == "1":
            update[:4] = np.frombuffer(np.float32(np.nan).tobytes(), np.uint8)
        if message.metadata.group_id == "2":
            update = update[:7]
        reply.content["update"] = flower.ArrayRecord([update])
        return reply

    bad.functions["train"] = train
    grid.nodes[100 - 1] = (bad, context)
    serve(grid)
    assert [record["num_reported"] for record in records_of(made)] == [2, 2, 2]
    assert [record["num_refused"] for record in records_of(made)] == [0, 1, 1]
    assert largest_difference(made.folder, simulated(SCAFFOLD, 3, away=((0, 2), (1, 1), (2, 1)))) < 1e-6


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"made_by": "flower_runs"}, ValueError, r"`made_by` is 'flower_runs'; expected 'module:function'"),
        ({"made_by": "__main__:run"}, ValueError, r"another __main__. Put the function into a file"),
        ({"arguments": {"loss": np.float32(1)}}, TypeError, r"`arguments` has 'loss': .*expected texts, numbers"),
        ({"made_by": "flower_runs:nothing_of_it", "arguments": {}}, TypeError, r"returned 'digits'; expected a tuple"),
        ({"arguments": {"algorithm": SCAFFOLD}}, ValueError, r"makes other rounds than the program is of: their "),
        (
            {"arguments": {"learning_rate": 0.2}},
            ValueError,
            r"makes other rounds than the program is of: program.bin would have another hash.*A learning rate",
        ),
        ({"name": "my_app"}, ValueError, r"`name` is 'my_app'; expected letters, digits and hyphens"),
        ({"publisher": ""}, ValueError, r"`publisher` is ''; expected letters"),
        ({"num_rounds": 0}, ValueError, r"`num_rounds` is 0; expected an int of at least 1"),
        ({"evaluate_every": 1}, ValueError, r"`evaluate_every` is 1, and the program has no evaluation"),
    ],
)
def test_bad_arguments_are_refused(options, kind, text, tmp_path):
    with pytest.raises(kind, match=text):
        written(tmp_path / "app", **options)
    assert not (tmp_path / "app").exists()


def test_a_folder_with_something_in_it_stays_as_it_is(app):
    with pytest.raises(FileExistsError, match=r"is there already, and not empty; give a new folder"):
        written(app.folder)


def test_programs_that_flower_cannot_carry_are_refused(tmp_path):
    program = program_of()
    masked = program._replace(manifest={**program.manifest, "masked": True})
    options = {"made_by": "flower_runs:digits", "key": jax.random.key(KEY), "num_rounds": 3}
    with pytest.raises(ValueError, match=r"masked rounds.*the server would see every update"):
        export_flower(masked, tmp_path / "app", **options)
    large = program._replace(artifact=bytes(9 * 1024 * 1024 + 1))
    with pytest.raises(ValueError, match=r"9,437,185 bytes, and Flower ships at most 10 MiB to a node"):
        export_flower(large, tmp_path / "app", **options)
    with pytest.raises(TypeError, match=r"`program` is .*; expected what fl.deploy.client_program"):
        export_flower(program.artifact, tmp_path / "app", **options)


def test_a_node_says_what_is_wrong_with_its_data(app, grid_of, tmp_path):
    grid, _ = grid_of(app)
    client_app, context = grid.nodes[100]
    program = sys.modules[f"{texts.PACKAGE}.client_app"]._program()
    read = lambda: sys.modules[f"{texts.PACKAGE}.client_app"]._data(context, program)  # noqa: E731
    assert read()[1] == 42
    path = tmp_path / "client-0.npz"
    np.savez(path, x=np.zeros((2, 8, 8, 1), np.float32))
    with pytest.raises(ValueError, match=r"holds the arrays \['x'\]; expected \['x', 'y'\]"):
        read()
    np.savez(path, x=np.zeros((2, 8, 8, 1), np.float32), y=np.zeros(3, np.int32))
    with pytest.raises(ValueError, match=r"arrays of unlike lengths, \{'x': 2, 'y': 3\}"):
        read()
    context.node_config = {"partition-id": "0"}
    with pytest.raises(FileNotFoundError, match=r"has data=None; expected an .npz file"):
        read()
    with pytest.raises(ValueError, match=r"partition-id='0'; expected the number of this client"):
        sys.modules[f"{texts.PACKAGE}.client_app"]._client(context)


def test_a_server_without_its_folder_says_so(app, grid_of, tmp_path):
    from fedjaxlite.deploy.flower import rebuilding

    with pytest.raises(FileNotFoundError, match=r"there is no .*run.json.*It stays with the server"):
        rebuilding.read(tmp_path)
    told = json.loads((app.folder / "server" / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**told, "format": "2"}))
    with pytest.raises(ValueError, match=r"of the format '2'; this version reads 'fedjaxlite flower run 1'"):
        rebuilding.read(tmp_path)
