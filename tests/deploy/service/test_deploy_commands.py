"""serve, join, enroll and export: their files, and what they say of what cannot be."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import fedjaxlite as fl
from fedjaxlite.cli.app import app

CONFIG = """[arguments]
dataset = "digits"
clients = 4
partition = "iid"
model = "logistic"
cohort = 2
rounds = 3
epochs = 1
"""


def said(*words: str, status: int = 0) -> str:
    told = CliRunner().invoke(app, list(words))
    assert told.exit_code == status, told.output
    return told.output


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deployed") / "config.toml"
    path.write_text(CONFIG)
    return path


def test_export_writes_the_program_the_data_and_the_file_of_a_device(config: Path, tmp_path: Path) -> None:
    assert "sha256" in said("export", "program", str(tmp_path / "p.fjlp"), "--config", str(config))
    manifest = fl.deploy.load_program(tmp_path / "p.fjlp").manifest
    assert (manifest["algorithm"], manifest["evaluation"]) == ("fed_avg", ["accuracy", "loss"])
    assert "4 files" in said("export", "clients", str(tmp_path / "data"), "--config", str(config))
    sizes = [len(np.load(tmp_path / "data" / f"client-{u}.npz")["y"]) for u in range(4)]
    assert sum(sizes) == 1438
    assert max(sizes) == manifest["capacity"]
    said("export", "device", str(tmp_path / "d.pyz"))
    assert "__main__.py" in zipfile.ZipFile(tmp_path / "d.pyz").namelist()


def test_a_server_owner_makes_tokens_and_revokes(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    tokens = said("enroll", str(tmp_path), "--tokens", "2").split()
    assert len(set(tokens)) == 2
    assert all(token.startswith("fjl1.") for token in tokens)
    assert "enrolled 0 clients" in said("enroll", str(tmp_path), "--revoke", "0", status=2)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("enroll",), "expected --server HOST:PORT and --token"),
        (("enroll", "FOLDER"), "nothing was asked for; expected --tokens N, --revoke ID or --list"),
        (("enroll", "FOLDER", "--token", "x"), "a server's folder and --server or --token were both given"),
        (("join",), "--data is missing"),
        (("join", "--data", "x.npz", "--token", "x", "--home", "FOLDER"), "--token was given without --server"),
        (("serve", "FOLDER/none.toml"), "there is no"),
        (("export", "program", "--config", "FOLDER/none.toml"), "there is no"),
    ],
    ids=["enroll", "enroll-folder", "enroll-both", "join", "join-token", "serve", "export"],
)
def test_what_is_missing_is_named(words: tuple[str, ...], text: str, tmp_path: Path) -> None:
    told = said(*(word.replace("FOLDER", str(tmp_path)) for word in words), status=2)
    assert text in " ".join(told.split())


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ("[serve]\nwiat = 3.0\n", "has 'wiat' in [serve]; known are over_select"),
        ('[serve]\nport = "x"\n', "expected int"),
        ("[serve]\nwait = -1.0\n", "`wait` of the ServerSettings is -1.0; expected seconds above 0"),
        ("seeds = 3\n", "has seeds, which a server of devices has no place for"),
        ('availability = "diurnal"\n', "has availability, which a server of devices has no place for"),
        ('sampler = "poisson"\n', "decides who is drawn from the whole population"),
        ('service = "constant:1"\ndeadline = 2.0\n', "is a simulation of devices"),
    ],
    ids=["name", "type", "value", "seeds", "availability", "poisson", "clock"],
)
def test_a_config_that_cannot_be_served_says_why(more: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG + more)
    told = said("serve", str(path), "--out", str(tmp_path / "out"), "--port", "0", status=2)
    assert text in " ".join(told.split())


@pytest.mark.whole
def test_serve_and_join_in_processes(config: Path, tmp_path: Path) -> None:
    import many_processes as many
    from test_many_processes import free_port

    text = CONFIG + "[serve]\nwait = 0.5\n"
    place = many.prepared(tmp_path, text, free_port())
    server = many.serving(place)
    log = tmp_path / "serve.log"
    many.wait_for(lambda: b"listening" in log.read_bytes(), 120)
    devices = []
    for token in many.tokens(place, 2):
        home = f"home-{len(devices)}"
        words = [
            "join",
            "--server",
            f"127.0.0.1:{place.port}",
            "--token",
            token,
            "--home",
            home,
            "--data",
            "data-0.npz",
        ]
        environment = {**place.environment, "PYTHONPATH": str(many.LIBRARY)}
        devices.append(
            subprocess.Popen(
                [sys.executable, "-m", "fedjaxlite", *words],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    told = [process.communicate(timeout=240)[0] for process in devices]
    many.kill(server)
    assert all("finished: 3 updates sent, 3 counted, 0 tasks refused" in output for output in told), told
    assert [record["reported"] for record in many.records(place)] == [2, 2, 2]
    assert "test_accuracy" in many.records(place)[-1]
