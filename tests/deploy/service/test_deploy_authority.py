"""An authority in a folder: a token is spent once, ids come in order, a client's key stays with it."""

import concurrent.futures
import json
import os
import ssl
import stat
import time

import pytest

from fedjaxlite.transport import authority, credentials, enrolment, record
from fedjaxlite.transport.errors import EnrolmentRefused, TransportError


@pytest.fixture
def folder(tmp_path):
    return authority.create(tmp_path / "authority")


def enrolled(folder):
    return authority.sign(folder, authority.new_token(folder), enrolment.request().pem).client


def test_everything_is_its_owners_alone(folder):
    enrolled(folder)
    authority.revoke(folder, 0)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (folder, *folder.rglob("*"))}
    assert {name for name, mode in modes.items() if mode & 0o077} == set(), modes


def test_ids_are_handed_out_in_order_and_name_the_certificate(folder):
    asked = [enrolment.request() for _ in range(3)]
    signed = [authority.sign(folder, authority.new_token(folder), a.pem) for a in asked]
    assert [s.client for s in signed] == [0, 1, 2]
    assert [credentials.public_of(s.certificate) for s in signed] == [a.public for a in asked]
    assert authority.clients(folder) == {0: True, 1: True, 2: True}


def test_a_token_is_worth_one_key_and_asking_again_gives_the_same_certificate(folder):
    token, asked = authority.new_token(folder), enrolment.request()
    first = authority.sign(folder, token, asked.pem)
    assert authority.sign(folder, token, asked.pem) == first
    with pytest.raises(EnrolmentRefused, match="the token is spent; ask the server's owner for another"):
        authority.sign(folder, token, enrolment.request().pem)
    assert authority.sign(folder, token, asked.pem, now=time.time() + 1e9) == first  # an answer was lost long ago
    assert list(authority.clients(folder)) == [0]


def test_tokens_end_and_are_kept_as_hashes_alone(folder):
    token = authority.new_token(folder, hours=2, now=1000.0)
    secret, _ = enrolment.told(token)
    kept = b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
    assert secret not in kept
    assert secret.hex().encode() not in kept
    assert token.split(".")[1].encode() not in kept
    with pytest.raises(EnrolmentRefused, match="the token is too old"):
        authority.sign(folder, token, enrolment.request().pem, now=1000.0 + 7200)
    assert authority.sign(folder, token, enrolment.request().pem, now=1000.0 + 7199).client == 0
    authority.new_token(folder, now=1e10)  # those that ended unspent are cleared away, spent ones stay
    assert len(record.read(folder)["tokens"]) == 2


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ("", "this is no enrolment token"),
        ("fjl1.x", "this is no enrolment token"),
        ("fjl1.\u00e9.\u00e9", "this is no enrolment token"),
        (enrolment.token_of(b"s" * 24, b"f" * 31), "this is no enrolment token"),
        (enrolment.token_of(b"s" * 24, b"f" * 32), "the token is another authority's"),
        (None, "the token is not known here"),
    ],
    ids=["empty", "short", "not-ascii", "mark", "other", "unknown"],
)
def test_what_is_no_token_is_refused(folder, token, text):
    if token is None:
        token = enrolment.token_of(b"s" * 24, enrolment.fingerprint(authority.own_certificate(folder)))
    with pytest.raises(EnrolmentRefused, match=text):
        authority.sign(folder, token, enrolment.request().pem)
    assert authority.clients(folder) == {}


def test_a_request_proves_that_the_asker_has_the_key(folder):
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    token, good = authority.new_token(folder), enrolment.request()
    der = ssl.PEM_cert_to_DER_cert(good.pem.decode().replace(" REQUEST", ""))
    forged = ssl.DER_cert_to_PEM_cert(der[:-1] + bytes([der[-1] ^ 1])).replace("CERTIFICATE", "CERTIFICATE REQUEST")
    curve = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    other = curve.sign(ec.generate_private_key(ec.SECP256R1()), SHA256()).public_bytes(Encoding.PEM)
    for pem, text in (
        (b"", "cannot be read; expected PEM"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\n!!\n", "cannot be read; expected PEM"),
        (forged.encode(), "not signed by the Ed25519 key that it is for"),
        (other, "not signed by the Ed25519 key that it is for"),
        (good.pem + b" " * 5000, "expected at most 4096"),
    ):
        with pytest.raises(EnrolmentRefused, match=text):
            authority.sign(folder, token, pem)
    assert authority.sign(folder, token, good.pem).client == 0  # none of these has spent it


def test_places_are_counted_before_a_token_is_spent(folder):
    assert enrolled(folder) == 0
    token, asked = authority.new_token(folder), enrolment.request()
    with pytest.raises(EnrolmentRefused, match="all 1 places are taken"):
        authority.sign(folder, token, asked.pem, most=1)
    assert authority.sign(folder, token, asked.pem, most=2).client == 1


def test_a_revoked_client_stays_revoked_and_its_id_is_not_given_again(folder):
    enrolled(folder), enrolled(folder)
    assert not authority.is_revoked(folder, 1)
    authority.revoke(folder, 1)
    authority.revoke(folder, 1)
    assert authority.is_revoked(folder, 1)
    assert authority.clients(folder) == {0: True, 1: False}
    assert enrolled(folder) == 2
    with pytest.raises(TransportError, match="`client` is 3; this authority has enrolled 3 clients, from 0"):
        authority.revoke(folder, 3)


def test_a_folder_that_is_no_authority_says_so(folder, tmp_path):
    with pytest.raises(TransportError, match="is not empty; expected a new one"):
        authority.create(folder)
    with pytest.raises(TransportError, match="holds no authority; make one with authority.create"):
        authority.open_at(tmp_path)
    (folder / "key.pem").chmod(0o640)
    with pytest.raises(TransportError, match="can be read by others: chmod 600"):
        authority.open_at(folder)
    (folder / "key.pem").chmod(0o600)
    (folder / "book.json").write_text("{")
    with pytest.raises(TransportError, match="is damaged"):
        authority.open_at(folder)
    (folder / "book.json").write_text(json.dumps({"format": "fedjaxlite authority 9"}))
    with pytest.raises(TransportError, match="of another format; expected 'fedjaxlite authority 1'"):
        authority.open_at(folder)
    with pytest.raises(ValueError, match="`hours` is 0; expected"):
        authority.new_token(folder, hours=0)


def test_threads_that_enrol_at_once_get_ids_of_their_own(folder):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: enrolled(folder), range(24)))
    assert sorted(ids) == list(range(24))


class Killed(BaseException):
    """The process ends here: nothing more is written."""


@pytest.mark.parametrize("write", range(5))
def test_a_kill_at_any_write_spends_nothing_or_everything(folder, write, monkeypatch):
    token, asked, calls = authority.new_token(folder), enrolment.request(), iter(range(10))
    sync = os.fsync

    def fatal(handle):
        if next(calls) == write:
            raise Killed
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fatal)
        try:
            authority.sign(folder, token, asked.pem)
            died = False
        except Killed:
            died = True
    assert died == (write < 4)
    assert authority.sign(folder, token, asked.pem).client == 0
    assert enrolled(folder) == 1
    with pytest.raises(EnrolmentRefused, match="spent"):
        authority.sign(folder, token, enrolment.request().pem)


def test_credentials_are_kept_and_read_without_a_library_for_keys(tmp_path):
    server, clients = credentials.issue([5])
    credentials.keep(tmp_path / "me", clients[5])
    credentials.keep(tmp_path / "me", clients[5])
    assert credentials.kept(tmp_path / "me") == clients[5]
    assert stat.S_IMODE((tmp_path / "me" / "key.pem").stat().st_mode) == 0o600
    assert clients[5].private.hex() not in repr(clients[5])
    (tmp_path / "me" / "key.pem").write_text("nothing")
    with pytest.raises(TransportError, match="key.pem holds no Ed25519 private key"):
        credentials.kept(tmp_path / "me")
    with pytest.raises(TransportError, match="holds no certificate for an Ed25519 key"):
        credentials.public_of(b"nothing")
    asked = enrolment.request()
    assert asked.private.hex() not in repr(asked)


def test_what_openssl_reads_is_what_was_written(tmp_path):
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    _, clients = credentials.issue([5])
    key = load_pem_private_key(credentials.private_pem(clients[5].private), None)
    assert key.private_bytes_raw() == clients[5].private  # pyright: ignore[reportAttributeAccessIssue]
    assert key.public_key().public_bytes_raw() == clients[5].public == credentials.public_of(clients[5].certificate)
