"""The two halves of a deployed round, in one process, against the round that is simulated."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_deployments
from small_deployments import PARAMS, chosen, method, people_of

import fedjaxlite as fl
from fedjaxlite import privacy
from fedjaxlite.deploy.program.client_half import client_half
from fedjaxlite.deploy.program.leaves import leaves_of
from fedjaxlite.deploy.program.template import DataSpec, template_of
from fedjaxlite.deploy.server.halves import first_client_state, first_state, halves_of, key_of

SIZES = (5, 2, 7, 3, 4, 6, 1, 5)
N = len(SIZES)


CHAINS = small_deployments.CHAINS | {
    "feedback": lambda: fl.chain(fl.weighted_mean(), fl.compression.error_feedback(fl.compression.top_k(fraction=0.5))),
    "rotated": lambda: fl.chain(fl.mean(), fl.clip_by_global_norm(2.0), fl.compression.quic_fl(bits=4)),
    "adaptive": lambda: fl.chain(fl.mean(over=4), privacy.adaptive_gaussian(noise_multiplier=0.3)),
}


def deployed(rounds: fl.Rounds, cohorts: list[list[int]]) -> Any:
    """A run in which every client is called on its own padded buffer, and the server adds messages in any order."""
    data = people_of(SIZES)
    spec = DataSpec({"x": jax.ShapeDtypeStruct((3,), np.float32), "y": jax.ShapeDtypeStruct((), np.float32)}, N, 7)
    template = template_of(rounds, PARAMS, spec)
    state, server = (
        first_state(template, PARAMS, key=jax.random.key(7), noise_key=jax.random.key(8)),
        halves_of(template),
    )
    half, kept = jax.jit(client_half(template)), {u: first_client_state(template, PARAMS) for u in range(N)}
    num = len(jax.tree.leaves(template.message)) if not template.masked else 1
    for cohort in cohorts:
        opened, total = server.begin(state), server.nothing()
        present = np.zeros(rounds.sampler.capacity, bool)
        ids = np.zeros(rounds.sampler.capacity, np.int32)
        for u in reversed(cohort):
            own = data.client(u)
            buffer = [np.full((7, *own[name].shape[1:]), np.nan, np.float32) for name in ("x", "y")]
            for place, name in zip(buffer, ("x", "y"), strict=True):
                place[: SIZES[u]] = own[name]
            key = np.uint32(key_of(opened, u))
            numbers = (np.int32(SIZES[u]), key, np.int32(u), np.zeros(2, np.uint32))
            out = half(*opened.download, *kept[u], *buffer, *numbers)
            sent, new, finite = out[:num], out[num : num + len(kept[u])], out[num + len(kept[u])]
            assert bool(finite)
            kept[u] = [np.asarray(leaf) for leaf in new]
            row = cohort.index(u)
            ids[row], present[row] = u, True
            if template.masked:
                total = jax.tree.map(jnp.add, total, server.of_sum(sent[0]))
                continue
            part, fine = server.read(state, [np.asarray(leaf) for leaf in sent], u)
            assert bool(fine)
            total = server.add(total, part, row)
        state, _ = server.close(state, total, ids, present)
    return state, kept, template


COHORTS = [[0, 2, 4, 7], [1, 2, 3, 6], [0, 1, 2, 7]]


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *(("fed_avg", codec) for codec in ("mean", "quantize", "mask", "median")),
        *(pytest.param("fed_avg", codec, marks=pytest.mark.slow) for codec in ("feedback", "rotated", "adaptive")),
        ("scaffold", "mean"),
        pytest.param("scaffold", "median", marks=pytest.mark.slow),
    ],
)
def test_a_deployed_run_is_the_simulated_run(name: str, codec: str) -> None:
    parts = {"aggregator": CHAINS[codec](), "execution": fl.Execution(lanes=1, devices=1)}
    state, kept, template = deployed(fl.rounds(method(name, N), sampler=fl.sampling.uniform(4), **parts), COHORTS)
    rounds = fl.rounds(method(name, N), sampler=chosen(COHORTS, 4), **parts)
    want = rounds.init(PARAMS, people_of(SIZES), key=jax.random.key(7), noise_key=jax.random.key(8))
    for _ in COHORTS:
        want, _ = rounds.step(want, people_of(SIZES))
    exact = codec in ("quantize", "mask", "rotated")
    tolerance: dict[str, Any] = {"rtol": 0, "atol": 0 if exact else 1e-6}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), state.params, want.params)
    rows = jax.tree.leaves((want.clients.algorithm, want.clients.codec))
    for u in range(N):
        for leaf, all_ in zip(kept[u], rows, strict=True):
            np.testing.assert_allclose(leaf, all_[u], rtol=0, atol=1e-6)


def test_a_weight_above_the_cap_is_not_added() -> None:
    rounds = fl.rounds(method("fed_avg", N), sampler=fl.sampling.uniform(2), aggregator=fl.weighted_mean(weight_cap=8))
    template = template_of(rounds, PARAMS, people_of(SIZES))
    state, server = first_state(template, PARAMS, key=jax.random.key(0)), halves_of(template)
    leaves = [np.zeros(leaf.shape, leaf.dtype) for leaf in leaves_of(template.message)]
    for weight, fine in ((8, True), (9, False), (-1, False), (np.nan, False)):
        sent = [np.full_like(leaf, weight) if leaf.shape == () and place else leaf for place, leaf in enumerate(leaves)]
        assert bool(server.read(state, sent, 0)[1]) is fine


@pytest.mark.parametrize(
    ("sampler", "text"),
    [
        (fl.sampling.with_dropout(fl.sampling.uniform(2), 0.1), "simulates dropout, and devices leave"),
        (fl.sampling.with_stragglers(fl.sampling.uniform(2), 0.5, 0.1), "simulates stragglers, and devices leave"),
        (fl.systems.fed_async(2, service=fl.systems.service.constant(1.0)), "it is a simulation of devices"),
    ],
    ids=["dropout", "stragglers", "clock"],
)
def test_what_simulates_devices_is_not_deployed(sampler: fl.Sampler, text: str) -> None:
    rounds = fl.rounds(method("fed_avg", N), sampler=sampler, aggregator=fl.weighted_mean())
    with pytest.raises(ValueError, match=text):
        template_of(rounds, PARAMS, people_of(SIZES))
    with pytest.raises(ValueError, match=text):
        fl.deploy.Server(rounds, PARAMS, people_of(SIZES), key=jax.random.key(0), num_rounds=1)
