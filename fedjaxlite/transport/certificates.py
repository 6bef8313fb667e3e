"""How a certificate is made: X.509 for Ed25519 keys, with the shortest set of extensions that OpenSSL asks for."""

import datetime
import importlib
from typing import Any


def load_cryptography(what: str = "keys and certificates need") -> None:
    """Imports `cryptography`, or says how to get it.

    Args:
      what: who needs it, for the message.

    Raises:
      ModuleNotFoundError: it is not installed.
    """
    try:
        importlib.import_module("cryptography")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{what} the cryptography package: pip install 'fedjaxlite[privacy]'.") from error


def certificate(name: str, key: Any, signer: Any, *, issuer: str, hours: float, is_server: bool = False) -> bytes:
    """A certificate, signed by the authority's key.

    Args:
      name: whom it names.
      key: the public key that it is for (of `cryptography`).
      signer: the authority's private key; where `key` belongs to it, the certificate is the authority's own.
      issuer: the authority's name.
      hours: how long it is good for, from an hour ago.
      is_server: whether it is a server's: a client takes it for no other.

    Returns:
      PEM.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    is_authority = key.public_bytes_raw() == signer.public_key().public_bytes_raw()
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=hours))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), critical=True)
        .add_extension(x509.KeyUsage(**_usage(is_authority)), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if not is_authority:
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if is_server:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(signer, None).public_bytes(Encoding.PEM)


def _usage(is_authority: bool) -> dict[str, bool]:
    usage = dict.fromkeys(
        ("digital_signature", "key_cert_sign", "crl_sign", "content_commitment", "key_encipherment"), False
    )
    usage |= dict.fromkeys(("data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False)
    return usage | ({"key_cert_sign": True, "crl_sign": True} if is_authority else {"digital_signature": True})
