"""ChaCha20: the vectors of RFC 8439, `cryptography`'s keystream, and independence of where and how it is computed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjaxlite.privacy.masking import chacha

# RFC 8439, appendix A.1: key, nonce, block, keystream.
VECTORS = [
    (
        bytes(32), bytes(12), 0,
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
    ),
    (
        bytes(32), bytes(12), 1,
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f",
    ),
    (
        bytes(31) + b"\x01", bytes(12), 1,
        "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a"
        "8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0",
    ),
    (
        b"\x00\xff" + bytes(30), bytes(12), 2,
        "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca"
        "13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096",
    ),
    (
        bytes(32), bytes(11) + b"\x02", 0,
        "c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c7"
        "8a970e0e955c14f3a88e741b97c286f75f8fc299e8148362fa198a39531bed6d",
    ),
]  # fmt: skip
RFC_KEY = bytes(range(32))


def words(data: bytes) -> jax.Array:
    return jnp.asarray(np.frombuffer(data, "<u4"))


def as_bytes(stream: Any) -> bytes:
    return np.asarray(stream).astype("<u4").tobytes()


def reference(key: bytes, nonce: bytes, block: int, length: int) -> bytes:
    """The keystream of `cryptography`, whose nonce starts with the block's number."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    cipher = Cipher(algorithms.ChaCha20(key, block.to_bytes(4, "little") + nonce), mode=None)
    return cipher.encryptor().update(bytes(length))


keystream = jax.jit(chacha.keystream, static_argnums=3)


@jax.jit
def five_blocks(key: jax.Array, nonce: jax.Array, counter: jax.Array) -> jax.Array:
    return chacha.keystream(key, nonce, counter, 5)


@pytest.mark.parametrize(("key", "nonce", "block", "expected"), VECTORS)
def test_the_keystreams_of_rfc_8439(key: bytes, nonce: bytes, block: int, expected: str) -> None:
    assert as_bytes(five_blocks(words(key), words(nonce), jnp.uint32(block)))[:64].hex() == expected


def test_the_block_of_rfc_8439() -> None:
    stream = five_blocks(words(RFC_KEY), words(bytes.fromhex("000000090000004a00000000")), jnp.uint32(1))
    assert as_bytes(stream)[:64].hex() == (
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )


def test_the_encryption_of_rfc_8439() -> None:
    text = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would "
        b"be it."
    )
    stream = as_bytes(five_blocks(words(RFC_KEY), words(bytes.fromhex("000000000000004a00000000")), jnp.uint32(1)))
    cipher = bytes(a ^ b for a, b in zip(text, stream, strict=False))
    assert cipher.hex() == (
        "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0b"
        "f91b65c5524733ab8f593dabcd62b3571639d624e65152ab8f530c359f0861d8"
        "07ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736"
        "5af90bbf74a35be6b40b8eedf2785e42874d"
    )


def test_equals_cryptography_at_random_keys_nonces_and_offsets() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        key, nonce = rng.bytes(32), rng.bytes(12)
        block = int(rng.integers(0, 2**32 - 5))
        stream = five_blocks(words(key), words(nonce), jnp.uint32(block))
        assert as_bytes(stream) == reference(key, nonce, block, 5 * 64)


@pytest.mark.parametrize("num_blocks", [1, 3, 67])
def test_equals_cryptography_at_other_lengths(num_blocks: int) -> None:
    key, nonce = RFC_KEY, bytes(range(100, 112))
    stream = keystream(words(key), words(nonce), jnp.uint32(2**31 - 2), num_blocks)
    assert stream.dtype == jnp.uint32
    assert as_bytes(stream) == reference(key, nonce, 2**31 - 2, 64 * num_blocks)


def test_any_part_is_had_without_the_parts_before_it() -> None:
    key, nonce = words(RFC_KEY), words(bytes(12))
    whole = keystream(key, nonce, jnp.uint32(7), 12)
    assert (keystream(key, nonce, jnp.uint32(7), 3) == whole[: 3 * 16]).all()  # a prefix
    assert (five_blocks(key, nonce, jnp.uint32(10)) == whole[3 * 16 : 8 * 16]).all()


def test_blocks_are_counted_mod_2_32() -> None:
    key, nonce = words(RFC_KEY), words(bytes(12))
    wrapped = five_blocks(key, nonce, jnp.uint32(2**32 - 2))
    assert (wrapped[2 * 16 :] == five_blocks(key, nonce, jnp.uint32(0))[: 3 * 16]).all()


def test_the_same_under_vmap_under_jit_and_on_every_device() -> None:
    keys = jnp.asarray(np.random.default_rng(1).integers(0, 2**32, (6, 8), dtype=np.uint32))
    nonce, counter = words(bytes(12)), jnp.uint32(3)
    alone = np.stack([five_blocks(key, nonce, counter) for key in keys])
    assert (np.asarray(jax.vmap(five_blocks, in_axes=(0, None, None))(keys, nonce, counter)) == alone).all()
    with jax.disable_jit():
        assert (np.asarray(chacha.keystream(keys[0], nonce, counter, 5)) == alone[0]).all()
    for device in jax.devices():
        there = jax.device_put((keys[1], nonce, counter), device)
        assert (np.asarray(five_blocks(*there)) == alone[1]).all()


def test_blocks_are_the_stream_with_blocks_last() -> None:
    key, nonce = words(RFC_KEY), words(bytes(12))
    stream = np.asarray(five_blocks(key, nonce, jnp.uint32(2)))
    apart = chacha.blocks(key, nonce, 2, 5)
    assert (np.asarray(apart).transpose(2, 0, 1).reshape(-1) == stream).all()
    assert (np.asarray(chacha.in_order(apart)) == stream).all()


def test_derived_keys_are_the_first_half_of_a_block() -> None:
    root = words(RFC_KEY)
    nonces = jnp.asarray(np.random.default_rng(2).integers(0, 2**32, (9, 3), dtype=np.uint32))
    keys = jax.jit(chacha.derive)(root, nonces)
    for nonce, key in zip(nonces, keys, strict=True):
        assert as_bytes(key) == reference(RFC_KEY, as_bytes(nonce), 0, 32)
    assert chacha.derive(root, nonces[:0]).shape == (0, 8)


class TestRefused:
    def test_words_of_another_kind(self) -> None:
        key, nonce = words(RFC_KEY), words(bytes(12))
        with pytest.raises(TypeError, match=r"`key` is uint32\[4\]; expected uint32\[8\]. Bytes become words"):
            chacha.keystream(key[:4], nonce, 0, 1)
        with pytest.raises(TypeError, match=r"`nonce` is float32\[3\]; expected uint32\[3\]"):
            chacha.keystream(key, jnp.zeros((3,)), 0, 1)
        with pytest.raises(TypeError, match=r"`key` is b'\\x00.*; expected uint32\[8\]"):
            chacha.derive(bytes(32), jnp.zeros((1, 3), jnp.uint32))

    def test_no_blocks(self) -> None:
        with pytest.raises(ValueError, match="`num_blocks` is 0; expected at least 1"):
            chacha.blocks(words(RFC_KEY), words(bytes(12)), 0, 0)

    def test_nonces_of_another_shape(self) -> None:
        with pytest.raises(ValueError, match=r"`nonces` is uint32\[3\]; expected uint32\[M, 3\]"):
            chacha.derive(words(RFC_KEY), jnp.zeros((3,), jnp.uint32))
