"""A server that is started again: it goes on with the program that its devices agreed to, whatever was upgraded."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import machines
import numpy as np
import pytest
from described_digits import CAPACITY, CONFIG, TABLE
from typer.testing import CliRunner

import fedjaxlite as fl
from fedjaxlite.cli.app import app
from fedjaxlite.cli.deploying import composing, keeping, serving
from fedjaxlite.cli.settings import Settings
from fedjaxlite.deploy.device.artifact import pack
from fedjaxlite.deploy.device.protocol import Message
from fedjaxlite.deploy.program import manifest
from fedjaxlite.deploy.server.disk.journal import open_at
from fedjaxlite.deploy.server.run import running
from fedjaxlite.deploy.server.state import ServerHalf, ServerState
from fedjaxlite.observers import records

pytest.importorskip("cryptography")


async def nobody_comes(server: ServerHalf, folder: Path, *args: Any, **kwargs: Any) -> ServerState:
    """In the place of a service."""
    return running(server, open_at(folder)).state()


async def one_round(server: ServerHalf, folder: Path, *args: Any, **kwargs: Any) -> ServerState:
    """In the place of a service: two clients that send the same update."""
    at = running(server, open_at(folder))
    head = {"pending": -1, "attempt": 0, "num_examples": 5, "program": server.program.sha256}
    check_in = Message("check_in", head | dict.fromkeys(("idle", "charging", "wireless"), True))
    body = pack([np.full(spec["shape"], 0.01, spec["dtype"]) for spec in server.specs])
    sha256 = hashlib.sha256(body).hexdigest()
    at.answer(0, check_in)
    at.answer(1, check_in)
    for client in range(2):
        task = at.answer(client, check_in)
        assert task.head["program"] == server.program.sha256
        head = {"round": task.head["round"], "attempt": 0, "sha256": sha256, "offset": 0, "total": len(body)}
        assert at.answer(client, Message("put", head | {"packed": "raw"}, body)).kind == "taken"
    return at.state()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(serving, "serve_run", nobody_comes)
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    return path


def served(config: Path, more: str = "", status: int = 0, capacity: int = 40) -> str:
    text = CONFIG.replace("cohort = 2\n", "") if "cohort" in more else CONFIG
    config.write_text(text + more + TABLE.replace(f"capacity = {CAPACITY}", f"capacity = {capacity}"))
    told = CliRunner().invoke(app, ["serve", str(config), "--out", str(config.parent / "out"), "--port", "0"])
    assert told.exit_code == status, told.output
    return " ".join(told.output.split())


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_after_an_upgrade_a_run_goes_on_with_the_program_that_its_devices_agreed_to(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "serve_run", one_round)
    first = served(config)
    program = fl.deploy.load_program(config.parent / "out" / "program.fjlp")
    assert f"program {program.sha256}" in first
    monkeypatch.setattr(jax, "__version__", "99.0.0")
    monkeypatch.setattr(manifest, "library_version", lambda: "99.0.0")
    words = ["export", "program", str(config.parent / "fresh.fjlp"), "--config", str(config)]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert fl.deploy.load_program(config.parent / "fresh.fjlp").sha256 != program.sha256
    again = served(config, "[serve]\nwait = 1.0\n")
    assert f"program {program.sha256}" in again
    assert "stopped after 2 rounds" in again
    assert (config.parent / "out" / "program.fjlp").read_bytes() == program.artifact
    lines = records.read(config.parent / "out" / "run" / "records.jsonl")
    assert [line["round"] for line in lines] == [1, 2]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ("client_lr = 0.2\n", "client_lr is 0.1 in the folder and 0.2 in the config. Serve what the folder"),
        ("batch_size = '20'\n", "hyperparameters.algorithm.batch_size is 10 in the folder and 20 in the config"),
        ("algorithm = 'fed_prox'\nset = ['mu=0.1']\n", "algorithm is 'fed_avg' in the folder and 'fed_prox' in the"),
        ("clip_norm = 1.0\nquantize_bits = 8\n", "aggregator is 'weighted_mean' in the folder and 'chain("),
        ("", "capacity is 40 in the folder and 50 in the config"),
        ("cohort = 3\n", "cohort is 2 in the folder and 3 in the config"),
        ("server_lr = 0.5\n", "server_lr is nothing in the folder and 0.5 in the config"),
        ("secure_sum = true\nclip_norm = 1.0\nquantize_bits = 8\n", "masked is False in the folder and True in the c"),
    ],
    ids=["rate", "batch", "method", "codec", "capacity", "cohort", "server", "masked"],
)
def test_a_config_of_other_rounds_is_refused_before_anything_is_written(
    config: Path, more: str, text: str, once: Path
) -> None:
    (config.parent / "out").symlink_to(once)
    before = files(once)
    told = served(config, more, status=2, capacity=40 if more else 50)
    assert "to which devices have agreed, is of other rounds than" in told
    assert text in told
    assert "or give another --out: devices then have to agree to a new program." in told
    assert files(once) == before


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a server that was started."""
    config = tmp_path_factory.mktemp("once") / "config.toml"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "serve_run", nobody_comes)
        served(config)
    return config.parent / "out"


OF_DATA = ("dataset", "data_dir", "clients", "partition", "delta", "epsilon")
"""They speak through the manifest, or through the noise multiplier."""
NO_NUMBERS = (
    *("rounds", "evaluate_every", "lost_rounds", "diverged_rounds", "stop_at_nan", "target_accuracy", "cohort_seed"),
    *("lanes", "devices", "client_states", "distributed", "coordinator", "processes", "process_id", "heartbeat"),
    *("compile_cache", "out", "checkpoint_every", "resume", "accept_changes", "config", "tensorboard", "progress"),
    "debug",
)
REFUSED = (
    *("sweep", "seeds", "validation", "select", "tracker", "personal_eval", "per_client_eval", "max_epsilon", "attack"),
    *("bad", "dropout", "stragglers", "service", "async_buffer", "concurrency", "staleness", "max_staleness"),
    *("async_mix", "deadline", "over_select", "availability", "grace"),
)


def test_of_every_option_it_is_known_whether_a_restart_may_change_it() -> None:
    every = [*keeping.DECIDE, *OF_DATA, *NO_NUMBERS, *REFUSED]
    assert sorted(every) == sorted(Settings._fields)


def test_more_rounds_and_other_settings_of_the_server_are_no_other_rounds(config: Path, once: Path) -> None:
    (config.parent / "out").symlink_to(once)
    more = "evaluate_every = 5\ncheckpoint_every = 3\n[serve]\nmin_reports = 2\nover_select = 2\n"
    assert "program" in served(config, more)


def test_a_program_that_is_damaged_missing_or_replaced_is_named(config: Path, once: Path) -> None:
    path = shutil.copytree(once, config.parent / "out") / "program.fjlp"
    whole = path.read_bytes()
    sha256 = hashlib.sha256(whole).hexdigest()
    remedy = f"The run in this folder was begun with {sha256}. Put the file back"
    path.write_bytes(whole[:-100])
    told = served(config, status=2)
    assert "program.fjlp' is damaged: the program is refused: BadZipFile" in told
    assert remedy in told
    rest = program()
    path.write_bytes(rest.artifact)
    assert f"program.fjlp' is {rest.sha256}. {remedy}" in served(config, status=2)
    path.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composing, "program_of", lambda found: rest)
        told = served(config, status=2)
    assert f"program.fjlp' is missing, and one made now would be {rest.sha256}. {remedy}" in told
    assert remedy in told
    assert f"program {sha256}" in served(config)  # what is made now has the same bytes
    assert path.read_bytes() == whole


def test_what_is_beside_the_program_may_be_missing_and_is_told_when_damaged(config: Path, once: Path) -> None:
    made_of = shutil.copytree(once, config.parent / "out") / "program.json"
    before = json.loads(made_of.read_text())
    made_of.unlink()
    served(config)
    assert json.loads(made_of.read_text()) == {"options": before["options"], "versions": {}}
    made_of.write_text("{")
    assert "program.json' is damaged" in served(config, status=2)


def test_a_change_of_code_of_ones_own_is_told(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(config.parent))
    code = "import fedjaxlite as fl\ndef loss(model):\n    return fl.losses.cross_entropy(model)\n"
    (config.parent / "own_restarts.py").write_text(code)
    served(config, 'loss = "own_restarts:loss"\n')
    kept, made = fl.deploy.load_program(config.parent / "out" / "program.fjlp"), []
    monkeypatch.setattr(composing, "program_of", lambda found: made[0])
    made[:] = [kept]
    assert "would have other bytes" not in served(config, 'loss = "own_restarts:loss"\n')
    hashes = {**kept.manifest["sha256"], "program.bin": "0" * 64}
    made[:] = [kept._replace(manifest={**kept.manifest, "sha256": hashes})]
    told = served(config, 'loss = "own_restarts:loss"\n')
    assert "program.bin would have other bytes if the program were made now" in told


def program(**changes: Any) -> fl.deploy.ClientProgram:
    return fl.deploy.client_program(machines.composed(**changes), jnp.float32(0), machines.SPEC)


def server(program: Any, **changes: Any) -> ServerHalf:
    arguments: Any = {"key": jax.random.key(1), "num_rounds": 5, "settings": machines.PLAIN, "program": program}
    return fl.deploy.Server(machines.composed(**changes), jnp.float32(0), machines.SPEC, **arguments)


def test_in_python_a_run_goes_on_with_a_program_from_its_file_and_with_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = program()
    first.save(tmp_path / "p.fjlp")
    running(server(first), open_at(tmp_path / "run"))
    monkeypatch.setattr(jax, "__version__", "99.0.0")
    with pytest.raises(ValueError, match=f"was begun with the program {first.sha256}.*fl.deploy.load_program"):
        running(server(program()), open_at(tmp_path / "run"))
    again = server(fl.deploy.load_program(tmp_path / "p.fjlp"))
    assert running(again, open_at(tmp_path / "run")).state().phase == "waiting"
    assert again.program.sha256 == first.sha256
    running(server(None), open_at(tmp_path / "run"))  # clients have it
    whose = tmp_path / "run" / "run.json"
    whose.write_text(json.dumps({n: v for n, v in json.loads(whose.read_text()).items() if n != "program"}))
    running(server(program()), open_at(tmp_path / "run"))


def test_a_program_of_other_hyperparameters_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    clipped = [fl.chain(fl.mean(), fl.clip_by_global_norm(norm)) for norm in (1.0, 2.0)]
    made = program(aggregator=clipped[0])
    server(made, aggregator=clipped[0])
    text = r"its hyperparameters.aggregator.clip_by_global_norm.clip_norm is 1.0, and that of these rounds 2.0"
    with pytest.raises(ValueError, match=text):
        server(made, aggregator=clipped[1])
    with pytest.raises(ValueError, match=r"its aggregator is 'chain\(mean, clip.*, and that of these rounds 'mean'"):
        server(made)
