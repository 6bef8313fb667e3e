"""What the server sees tells the sum and nothing else: exactly at modulus 4, by statistics at 2^32."""

import itertools
from collections import Counter

import numpy as np
import pytest
import secagg_stand_ins
from scipy import stats

from fedjaxlite.privacy import secagg
from fedjaxlite.privacy.secagg import masking, messages

CLIENTS = (0, 1, 2)
PAIRS = ((0, 1), (0, 2), (1, 2))
# A random function from the 6 seeds to Z_4, in all its 4^6 = 4096 forms: coordinate j of a mask is its word in form j.
# Reducing words mod 4 is a homomorphism of Z_2^32, so what is seen mod 4 is the protocol over Z_4.
FORMS = np.stack(np.unravel_index(np.arange(4**6), (4,) * 6)).astype(np.uint32)
SELF = {u: bytes([u]) * 32 for u in CLIENTS}
PAIR = {pair: bytes([10 + i]) * 32 for i, pair in enumerate(PAIRS)}
SEEDS = [*SELF.values(), *PAIR.values()]


def enumerated(key: bytes, offset: int, n: int) -> np.ndarray:
    return FORMS[SEEDS.index(key[:32])][offset : offset + n]


def sent(u: int, x: int, without: tuple[bytes, ...] = ()) -> np.ndarray:
    """What client u sends for the value x, in every form of the random function, mod 4."""

    def words(key: bytes, offset: int, n: int) -> np.ndarray:
        return np.zeros(n, np.uint32) if key[:32] in without else enumerated(key, offset, n)

    others = {v: PAIR[min(u, v), max(u, v)] for v in CLIENTS if v != u}
    vector = np.full(FORMS.shape[1], x, np.uint32)
    return masking.masked(vector, SELF[u], others, me=u, round_number=0, prg=words) % 4


def multiset(*seen: np.ndarray) -> Counter:
    return Counter(np.ravel_multi_index(tuple(seen), (4,) * len(seen)).tolist())


def views_by_sum(view, of: tuple[int, ...] = CLIENTS):
    """{sum over the clients in `of`: the multisets of views, one for each choice of values}."""
    groups = {}
    for values in itertools.product(range(4), repeat=3):
        groups.setdefault(sum(values[u] for u in of) % 4, []).append(view(values))
    return groups


def everybody_stays(values, without: tuple[bytes, ...] = ()) -> Counter:
    """Three masked values, and the three own masks that are opened."""
    own = [FORMS[SEEDS.index(SELF[u])] for u in CLIENTS]
    return multiset(*(sent(u, values[u], without) for u in CLIENTS), *own)


def the_last_one_is_late(values) -> Counter:
    """Client 2 counts as dropped out: its pair masks are opened, its own is not, and its masked value comes late."""
    opened = [FORMS[SEEDS.index(key)] for key in (SELF[0], SELF[1], PAIR[0, 2], PAIR[1, 2])]
    return multiset(*(sent(u, values[u]) for u in CLIENTS), *opened)


def test_the_view_depends_on_the_sum_alone_when_everybody_stays():
    groups = views_by_sum(everybody_stays)
    assert all(view == group[0] for group in groups.values() for view in group)
    distinct = [group[0] for group in groups.values()]
    assert all(a != b for a, b in itertools.combinations(distinct, 2))  # and on the sum it does depend


def test_the_view_depends_on_the_sum_of_survivors_alone_when_one_is_late():
    groups = views_by_sum(the_last_one_is_late, of=(0, 1))
    assert all(view == group[0] for group in groups.values() for view in group)
    assert len({tuple(sorted(group[0].items())) for group in groups.values()}) == 4


@pytest.mark.parametrize("pair", PAIRS)
def test_one_pair_mask_less_still_hides_everybody_since_a_path_is_left(pair):
    groups = views_by_sum(lambda values: everybody_stays(values, (PAIR[pair],)))
    assert all(view == group[0] for group in groups.values() for view in group)


@pytest.mark.parametrize("pairs", list(itertools.combinations(PAIRS, 2)))
def test_the_view_tells_more_when_the_pair_masks_of_a_client_are_dropped(pairs):
    groups = views_by_sum(lambda values: everybody_stays(values, tuple(PAIR[pair] for pair in pairs)))
    assert all(any(view != group[0] for view in group) for group in groups.values())


def test_the_view_tells_more_when_an_own_mask_is_dropped():
    def view(values):
        opened = [FORMS[SEEDS.index(key)] for key in (SELF[0], SELF[1], PAIR[0, 2], PAIR[1, 2])]
        return multiset(sent(0, values[0]), sent(1, values[1]), sent(2, values[2], (SELF[2],)), *opened)

    groups = views_by_sum(view, of=(0, 1))
    assert any(one != group[0] for group in groups.values() for one in group)


def test_the_protocol_gives_the_exact_sum_for_every_form_of_the_masks():
    seen: list[bytes] = []

    def prg(key: bytes, offset: int, n: int) -> np.ndarray:
        if key not in seen:
            seen.append(key)
        return FORMS[seen.index(key)][offset : offset + n]

    p = secagg.parameters(num_clients=3, length=FORMS.shape[1], min_survivors=2)
    vectors = {u: np.full(FORMS.shape[1], u + 1, np.uint32) for u in CLIENTS}
    primitives = secagg_stand_ins.OPEN._replace(prg=prg)
    result = secagg.run_in_memory(vectors, p, leaves={2: "mask"}, primitives=primitives).result
    assert (result.total == 3).all()
    assert len(seen) == 5  # two own masks, three pairs: the third client made none


# Statistics at 2^32: 2^20 words each, real masks with fixed seeds, so the outcome is the same in every run; a test that
# were run on fresh seeds would raise a false alarm once in 10^6 times for each p-value.
WORDS = 2**20
ALARM = 1e-6
TOP = np.full(WORDS, 2**32 - 1, np.uint32)
ZERO = np.zeros(WORDS, np.uint32)


def masked(vector: np.ndarray, round_number: int, prg=masking.chacha20_words) -> np.ndarray:
    pairs = {v: bytes([v]) * 32 for v in (1, 2, 3)}
    return masking.masked(vector, b"\xaa" * 32, pairs, me=0, round_number=round_number, prg=prg)


def bytes_p_value(words: np.ndarray) -> float:
    """Chi-square of the byte values against uniform ones."""
    return stats.chisquare(np.bincount(words.view(np.uint8), minlength=256)).pvalue


def lines_p_value(a: np.ndarray, b: np.ndarray) -> float:
    """Whether two vectors are correlated."""
    return stats.pearsonr(a.astype(np.float64), b.astype(np.float64)).pvalue


@pytest.mark.parametrize("vector", [ZERO, TOP], ids=["zero", "top"])
def test_masked_words_look_uniform_whatever_is_under_them(vector):
    assert bytes_p_value(masked(vector, round_number=1)) > ALARM


def test_masked_words_look_alike_whatever_is_under_them():
    assert stats.ks_2samp(masked(ZERO, round_number=1), masked(TOP, round_number=2)).pvalue > ALARM


def test_masked_words_are_not_correlated_with_what_is_under_them():
    vector = np.arange(WORDS, dtype=np.uint32) << np.uint32(12)
    assert lines_p_value(masked(vector, round_number=1), vector) > ALARM
    assert lines_p_value(vector + masked(ZERO, round_number=1) // 64, vector) < ALARM  # a mask of too few bits is found


def test_two_rounds_share_no_mask():
    assert bytes_p_value(masked(ZERO, round_number=1) - masked(ZERO, round_number=2)) > ALARM


def test_a_mask_that_is_used_again_is_found():
    def reused(key: bytes, offset: int, n: int) -> np.ndarray:
        return masking.chacha20_words(key[:32] + bytes(12), offset, n)  # forgets the round

    assert bytes_p_value(masked(ZERO, 1, reused) - masked(ZERO, 2, reused)) < ALARM


def test_a_generator_that_never_gives_the_top_value_is_found():
    def short(key: bytes, offset: int, n: int) -> np.ndarray:
        draws = np.random.default_rng(int.from_bytes(key))
        return draws.integers(0, 255, 4 * n, np.uint8).view(np.uint32)

    alone = masking.masked(ZERO, b"s" * 32, {}, me=0, round_number=1, prg=short)
    assert bytes_p_value(alone) < ALARM


def test_the_masked_message_holds_a_vector_and_nothing_else():
    assert messages.MaskedInput._fields == ("round", "sender", "vector")
