"""The one file of a device: what it imports, and that it runs where neither the library nor its dependencies are."""

import ast
import random
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import toy_programs as toys
from fake_server import Server, X, serving, sha256

from fedjaxlite.deploy import bundle, bundle_main
from fedjaxlite.deploy.device import home as homes
from fedjaxlite.deploy.device.protocol import Message
from fedjaxlite.transport import authority
from fedjaxlite.transport.credentials import Credentials

BLOCKED = ("fedjaxlite", "algorithms", "privacy", "benchmarks", "flax", "optax", "chex", "orbax", "tensorflow", "typer")
RUN = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        root = name.split(".")[0]
        if root in {BLOCKED!r} or root.startswith("tensorflow"):
            raise ModuleNotFoundError(f"No module named {{root!r}}", name=root)
sys.meta_path.insert(0, Absent())
import runpy
sys.argv = sys.argv[1:]
code = 0
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    code = ended.code
print("jax" in sys.modules, "cryptography" in sys.modules)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "fedjaxlite_device.pyz"
    bundle.write_device(path)
    return path


def run(device, *arguments, cwd):
    command = [sys.executable, "-c", RUN, str(device), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)


def test_the_rooms_import_the_standard_library_and_what_a_device_has():
    for name, source in bundle.sources().items():
        allowed = {*sys.stdlib_module_names, "numpy", bundle.PACKAGE}
        outside = set(bundle.roots(source)) - allowed
        lazily = {"jax", "ml_dtypes"} if name.endswith(("device/program.py", "device/artifact.py")) else set()
        assert outside <= {"cryptography"} | lazily, name
        top = [node for node in ast.parse(source).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert set(bundle.roots(ast.unparse(ast.Module(top, [])))) <= allowed, f"{name} imports it when it is loaded"
        assert "import fedjaxlite." not in source.replace(f"import {bundle.PACKAGE}.", "")


def test_a_room_that_imports_more_is_refused(monkeypatch):
    monkeypatch.setattr(bundle, "_renamed", lambda source: source)
    with pytest.raises(ValueError, match=r"imports fedjaxlite, and a device has numpy, jax"):
        bundle.sources()


def test_the_file_is_the_same_each_time_and_holds_no_algorithm(device, tmp_path):
    assert bundle.write_device(tmp_path / "again.pyz") == sha256(device.read_bytes())
    with zipfile.ZipFile(device) as archive:
        names = archive.namelist()
    assert {name.split("/")[1] for name in names if "/" in name} == {
        *("__init__.py", "__main__.py", "device", "transport", "secagg"),
    }
    assert not [name for name in names if "demo" in name or "secagg/transport" in name]


def test_its_help_needs_nothing_but_numpy(device, tmp_path):
    done = run(device, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "enroll,join,evaluate,log" in done.stdout
    assert done.stdout.endswith("False False\n")


def test_what_goes_wrong_is_one_line(tmp_path, capsys):
    assert bundle_main.main(["log", "--home", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("HomeDamaged: ")
    assert said.count("\n") == 1


@pytest.mark.slow
def test_a_dry_run_without_the_library(device, tmp_path):
    identity = sha256(toys.artifact())
    credentials = Credentials(b"k" * 32, b"p" * 32, b"certificate", b"authority")
    homes.write(tmp_path / "home", client=0, server="localhost:1", program=identity, credentials=credentials)
    (tmp_path / "client.fjlp").write_bytes(toys.artifact())
    np.savez(tmp_path / "data.npz", **X)
    where = ("--home", tmp_path / "home", "--data", tmp_path / "data.npz", "--program", tmp_path / "client.fjlp")
    done = run(device, "join", *where, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for line in (
        identity,
        "leaves     4 bytes a round, in the clear",
        "examples   3 of at most 4",
        "numbers    finite",
    ):
        assert line in done.stdout
    assert done.stdout.endswith("True False\n")


@pytest.mark.slow
def test_a_device_without_the_library_enrolls_joins_evaluates_and_tells_what_left(device, tmp_path):
    folder, server = authority.create(tmp_path / "authority"), Server(client=0)
    np.savez(tmp_path / "data.npz", **X)
    home, data = ("--home", tmp_path / "home"), ("--data", tmp_path / "data.npz")
    with serving(server.answer, folder) as where:
        token = authority.new_token(folder)
        done = run(device, "enroll", *home, "--server", where, "--token", token, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "it will agree to the first program it gets" in done.stdout
        done = run(device, "join", *home, *data, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "finished: 3 updates sent, 3 counted, 0 tasks refused" in done.stdout
    done = run(device, "evaluate", *home, *data, cwd=tmp_path)
    assert done.stdout.startswith("loss 1.66667")
    done = run(device, "log", *home, cwd=tmp_path)
    assert "updates   3 in the clear (largest norm 3), 0 in secure sums" in done.stdout


def started(device, *arguments, cwd):
    command = [sys.executable, "-c", RUN, str(device), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd)


@pytest.mark.slow
def test_a_process_that_is_killed_at_any_moment_goes_on_and_a_polite_end_is_clean(device, tmp_path):
    folder, server, draw = authority.create(tmp_path / "authority"), Server(client=0, rounds=6), random.Random(0)
    honest = server.on_check_in

    def on_check_in(head, body):
        reply = honest(head, body)
        slow = {"seconds": 0.2, "reason": "slowly", **{name: reply.head[name] for name in ("settled", "counted")}}
        return Message("wait", slow) if draw.random() < 0.5 and reply.kind == "task" else reply

    server.on_check_in = on_check_in
    np.savez(tmp_path / "data.npz", **X)
    home, data = ("--home", tmp_path / "home"), ("--data", tmp_path / "data.npz")
    with serving(server.answer, folder) as where:
        run(device, "enroll", *home, "--server", where, "--token", authority.new_token(folder), cwd=tmp_path)
        for _ in range(5):
            process = started(device, "join", *home, *data, cwd=tmp_path)
            time.sleep(1.5 + 2 * draw.random())
            process.kill()
            process.communicate()
        server.on_check_in = lambda head, body: Message(
            "wait", {"seconds": 9.0, "reason": "later", "settled": -1, "counted": False}
        )
        process = started(device, "join", *home, *data, cwd=tmp_path)
        time.sleep(2)
        process.terminate()
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "ending after this step" in said
        assert "stopped: 0 updates sent" in said
        server.on_check_in = on_check_in
        done = run(device, "join", *home, *data, cwd=tmp_path)
    assert "finished" in done.stdout, done.stdout
    assert [np.frombuffer(server.taken[r], np.float32)[0] for r in range(6)] == [3, 0, -3, -6, -9, -12]
    kept = homes.committed(homes.read(tmp_path / "home"))
    assert (kept.round, np.frombuffer(kept.state, np.int32)[0]) == (5, 7 + 6)
