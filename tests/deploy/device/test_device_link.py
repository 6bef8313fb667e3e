"""A device over TLS: it enrolls by a token, joins, and is settled; and what it is asked to prove."""

from functools import lru_cache

import numpy as np
import pytest
import toy_programs as toys
from fake_server import Server, X, serving, sha256

from fedjaxlite.deploy import device as devices
from fedjaxlite.deploy.device import data, program
from fedjaxlite.deploy.device import home as homes
from fedjaxlite.deploy.device.home import ledger
from fedjaxlite.deploy.device.joining import address, program_for
from fedjaxlite.deploy.device.link import ServerRefuses
from fedjaxlite.transport import authority

_load = lru_cache(program.load)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda number: None)
    monkeypatch.setattr(program, "load", _load)


def test_a_device_enrolls_and_joins_over_tls(tmp_path):
    folder, server = authority.create(tmp_path / "authority"), Server(client=0)
    with serving(server.answer, folder, pinned=sha256(toys.artifact())) as where:
        home = devices.enroll(tmp_path / "device", where, authority.new_token(folder))
        assert (home.client, home.program) == (0, sha256(toys.artifact()))
        assert homes.read(home.folder) == home
        assert "masked_only" in (home.folder / "policy.toml").read_text()
        assert not (home.folder / "enrolling").exists()
        # What its owner looks at before: only the question for the program leaves.
        ready = program_for(home)
        assert [line["kind"] for line in ledger.lines(home.folder / "log.jsonl")] == ["get", "chunk"]
        assert devices.dry_run(ready, X).upload == 4
        told = devices.join(home, X)
    assert (told.trained, told.counted, told.failures, told.ended) == (3, 3, 0, "finished")
    assert ledger.summary(home.folder / "log.jsonl").updates == 3


def test_a_token_is_good_for_one_device_and_a_broken_try_goes_on(tmp_path, monkeypatch):
    folder = authority.create(tmp_path / "authority")
    token = authority.new_token(folder)
    with serving(Server().answer, folder) as where:
        with monkeypatch.context() as patched:
            patched.setattr(homes.folder, "_tell", lambda home: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                devices.enroll(tmp_path / "one", where, token)
        assert devices.enroll(tmp_path / "one", where, token).client == 0
        with pytest.raises(FileExistsError, match="a device's folder already"):
            devices.enroll(tmp_path / "one", where, token)
        with pytest.raises(ServerRefuses, match="token"):
            devices.enroll(tmp_path / "two", where, token)


def test_a_revoked_device_is_told_so_and_ends(tmp_path):
    folder, server = authority.create(tmp_path / "authority"), Server(client=0)
    with serving(server.answer, folder, revoked=lambda client: True) as where:
        home = devices.enroll(tmp_path / "device", where, authority.new_token(folder))
        told = devices.join(home, X)
    assert "revoked" in told.ended
    assert server.seen == []


def test_a_server_of_another_authority_hears_nothing(tmp_path, monkeypatch):
    mine, other = authority.create(tmp_path / "mine"), authority.create(tmp_path / "other")
    server, lines = Server(client=0), []
    with serving(Server().answer, mine) as where:
        home = devices.enroll(tmp_path / "device", where, authority.new_token(mine))

    def report(line):
        lines.append(line)
        raise SystemExit

    with serving(server.answer, other) as where, pytest.raises(SystemExit):
        devices.join(home, X, server=where, report=report)
    assert "CERTIFICATE_VERIFY_FAILED" in lines[0]
    assert server.seen == []


@pytest.mark.parametrize("server", ["localhost", ":7000", "localhost:0", "localhost:x", ""])
def test_an_address_says_what_it_should_be(server):
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        address(server)


def test_examples_come_from_a_folder_too(tmp_path):
    np.save(tmp_path / "x.npy", X["x"])
    assert data.read(tmp_path)["x"].tolist() == [1, 2, 3]
