"""Keys and masks against published vectors, labels that keep purposes apart, and the rules of the parameters."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedjaxlite.privacy import secagg
from fedjaxlite.privacy.secagg import errors, keys, masking

REAL = keys.real()
ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
ROOT = Path(__file__).resolve().parents[3]


def test_exchanges_agree_with_rfc_7748_section_6_1():
    assert REAL.public(ALICE).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert REAL.agree(ALICE, REAL.public(BOB)).hex() == REAL.agree(BOB, REAL.public(ALICE)).hex() == shared


def test_derivation_agrees_with_rfc_5869_case_3():
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    assert REAL.derive(b"\x0b" * 22, b"").hex() == expected


def test_mask_words_agree_with_rfc_8439_section_2_3_2():
    key = bytes(range(32)) + bytes.fromhex("000000090000004a00000000")
    block = (
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )
    words = masking.chacha20_words(key, 16, 16)  # block 1
    assert words.dtype == np.uint32
    assert words.astype("<u4").tobytes().hex() == block


def test_mask_words_reach_to_the_last_block_and_no_further():
    key = masking.stream_key(b"k" * 32, 0, masking.SELF)
    assert len(masking.chacha20_words(key, 2**36 - 3, 3)) == 3
    with pytest.raises(ValueError, match=r"`offset` is 68719476735 with 2 words; expected words in \[0, 2\^36\)"):
        masking.chacha20_words(key, 2**36 - 1, 2)
    with pytest.raises(ValueError, match="`key` has 32 bytes; expected 44"):
        masking.chacha20_words(b"k" * 32, 0, 1)


def test_streams_of_other_rounds_purposes_and_seeds_are_others():
    made = {
        masking.chacha20_words(masking.stream_key(seed, round_number, purpose), 0, 4).tobytes()
        for seed in (b"a" * 32, b"b" * 32)
        for round_number in (0, 1, 2**64 - 1)
        for purpose in (masking.PAIR, masking.SELF)
    }
    assert len(made) == 12


def test_both_sides_derive_the_same_keys_and_every_purpose_has_its_own():
    pa, pb = REAL.public(ALICE), REAL.public(BOB)
    pair = {
        (r, me): keys.pair_seed(REAL, *who, round_number=r, me=me, other=3 - me)
        for r in (0, 1)
        for me, who in ((1, (ALICE, pb)), (2, (BOB, pa)))
    }
    assert pair[0, 1] == pair[0, 2] != pair[1, 1] == pair[1, 2]
    channel = {
        (sender, me): keys.channel_key(REAL, *who, round_number=0, sender=sender, receiver=3 - sender, me=me)
        for sender in (1, 2)
        for me, who in ((1, (ALICE, pb)), (2, (BOB, pa)))
    }
    assert channel[1, 1] == channel[1, 2] != channel[2, 1] == channel[2, 2]
    assert len({pair[0, 1], pair[1, 1], channel[1, 1], channel[2, 1]}) == 4
    own = {keys.self_seed(REAL, b"s" * 32, round_number=r, owner=u) for r in (0, 1) for u in (0, 1)}
    assert len(own) == 4
    assert len({keys.commitment(r, u, b"s" * 32) for r in (0, 1) for u in (0, 1)}) == 4


def test_a_key_of_low_order_is_refused_by_name():
    for me, other in ((1, 9), (9, 1)):
        with pytest.raises(errors.BadKey, match=f"with the key of client {other}") as caught:
            keys.pair_seed(REAL, ALICE, bytes(32), round_number=0, me=me, other=other)
        assert caught.value.offender == other
    with pytest.raises(errors.BadKey) as caught:
        keys.channel_key(REAL, ALICE, bytes(32), round_number=0, sender=5, receiver=6, me=6)
    assert caught.value.offender == 5


def test_signatures_are_checked_by_name():
    public = REAL.identity(b"i" * 32)
    good = REAL.sign(b"i" * 32, b"words")
    keys.verify(REAL, public, b"words", good, signer=4)
    for signature, message in ((good, b"other"), (bytes(64), b"words"), (good[:63], b"words")):
        with pytest.raises(errors.BadSignature, match="a signature of client 4 does not verify") as caught:
            keys.verify(REAL, public, message, signature, signer=4)
        assert caught.value.offender == 4


def test_boxes_differ_each_time_and_open_under_their_header_only():
    boxes = [
        keys.seal(REAL, b"k" * 32, b"text", b"head", random) for random in (lambda n: b"a" * n, lambda n: b"b" * n)
    ]
    assert boxes[0] != boxes[1]
    assert [keys.unseal(REAL, b"k" * 32, box, b"head", sender=1) for box in boxes] == [b"text", b"text"]
    for key, header in ((b"q" * 32, b"head"), (b"k" * 32, b"other")):
        with pytest.raises(errors.BadCiphertext, match="under the name of client 1 do not open"):
            keys.unseal(REAL, key, boxes[0], header, sender=1)


def test_a_draw_below_a_bound_is_fair():
    draw = keys.below(np.random.default_rng(0).bytes)
    counts = np.bincount([draw(7) for _ in range(7000)], minlength=7)
    assert len(counts) == 7
    assert abs(counts - 1000).max() < 150  # 5 standard deviations: a false alarm once in 10^5 seeds; this one is fixed


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"num_clients": 1}, ValueError, r"`num_clients` is 1; expected one in \[2,"),
        ({"num_clients": 2.0}, TypeError, "`num_clients` is 2.0; expected an int"),
        ({"length": 0}, ValueError, "`length` is 0"),
        ({"length": True}, TypeError, "`length` is True; expected an int"),
        ({"neighbors": 3}, ValueError, r"`neighbors` is 3 for 20 clients; expected an even number in \[2, 19\)"),
        ({"neighbors": 20}, ValueError, "`neighbors` is 20"),
        ({"neighbors": 4.0}, TypeError, "`neighbors` is 4.0"),
        ({"colluders": 20}, ValueError, r"`colluders` is 20; expected one in \[0, 19\]"),
        ({"threshold": 21}, ValueError, r"`threshold` is 21; expected one in \[1, 20\]"),
        ({"threshold": 3, "colluders": 3}, ValueError, "Expected t > c = 3, so at least 4"),
        ({"threshold": 10, "server": "lying"}, ValueError, r"Expected 2 t > N \+ c = 20, so at least 11"),
        ({"threshold": 12, "colluders": 4, "server": "lying"}, ValueError, r"2 t > N \+ c = 24, so at least 13"),
        (
            {"neighbors": 4, "colluders": 5, "server": "lying"},
            ValueError,
            r"`colluders` is 5; expected one in \[0, 4\]",
        ),
        ({"server": "honest"}, ValueError, "`server` is 'honest'; expected 'semi-honest' or 'lying'"),
        ({"min_survivors": 21}, ValueError, "`min_survivors` is 21, more than the 20 clients"),
        ({"min_survivors": 1}, ValueError, "`min_survivors` is 1 with 0 colluders .* Expected at least 2"),
        ({"min_survivors": 4, "colluders": 3}, ValueError, "`min_survivors` is 4 with 3 colluders"),
        ({"cohort_colluders": 1, "colluders": 2}, ValueError, r"`cohort_colluders` is 1; expected one in \[2, 20\]"),
        ({"num_clients": 5}, ValueError, "more than the 5 clients of a round .left out, it is max"),
    ],
)
def test_parameters_that_break_a_rule_are_refused(changes, error, text):
    with pytest.raises(error, match=text):
        secagg.parameters(**{"num_clients": 20, "length": 5, **changes})


def test_the_threshold_that_is_taken_when_left_out_is_the_smallest_that_keeps_the_rules():
    for n in range(8, 14):
        for c in range(4):
            semi = secagg.parameters(num_clients=n, length=1, colluders=c).threshold
            lying = secagg.parameters(num_clients=n, length=1, colluders=c, server="lying").threshold
            assert semi == max(n // 2 + 1, c + 1)
            assert 2 * lying > n + c >= 2 * (lying - 1)


def test_a_quorum_allows_one_story():
    p = secagg.parameters(num_clients=60, length=1, neighbors=10, colluders=3, server="lying")
    assert (p.cohort_colluders, p.min_survivors) == (17, 19)  # 3 of 11, of 60
    for n in range(20, 61):
        assert 2 * p.quorum(n) > n + p.cohort_colluders


def test_the_folder_needs_neither_jax_nor_the_rest_of_the_library():
    # Two empty packages stand in for the library's own, which load JAX.
    program = f"""
import sys, types
for name, folder in (("fedjaxlite", "fedjaxlite"), ("fedjaxlite.privacy", "privacy")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [{str(ROOT)!r} + "/" + folder]
import numpy as np
from fedjaxlite.privacy import secagg
from fedjaxlite.privacy.secagg import demo, transport
assert not {{"jax", "cryptography", "optax"}} & set(sys.modules), sorted(sys.modules)
p = secagg.parameters(num_clients=3, length=2, min_survivors=2)
print(secagg.run_in_memory({{u: np.full(2, u, np.uint32) for u in range(3)}}, p).result.total)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[3 3]"


def test_without_cryptography_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fedjaxlite\[privacy\]'"):
        keys.real()
