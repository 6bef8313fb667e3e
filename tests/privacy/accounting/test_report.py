"""The page on a run's guarantee: every claim of it, and every warning."""

import math

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.privacy.accounting import epsilon, report
from fedjaxlite.privacy.central.adaptive_clip import adaptive_gaussian
from fedjaxlite.privacy.central.gaussian import gaussian
from fedjaxlite.privacy.central.laplace import laplace
from fedjaxlite.privacy.correlated.codecs import tree_gaussian
from fedjaxlite.privacy.distributed.discrete_accounting import skellam_rdp
from fedjaxlite.privacy.local.local_dp import local_gaussian, local_laplace
from fedjaxlite.privacy.mechanisms import Mechanism

N, DELTA = 100, 1e-5
POISSON = fl.sampling.poisson(0.1, capacity=40)


def run(codec, sampler=POISSON) -> fl.Rounds:
    over = sampler.accounting.expected_size(N)
    return fl.rounds(
        helpers.sender(helpers.first_value),
        sampler=sampler,
        aggregator=fl.chain(fl.mean(over=over), codec),
        execution=helpers.ONE,
    )


def page(codec, sampler=POISSON, num_rounds=50, delta=DELTA, **options) -> str:
    """The report as text, with line breaks taken out."""
    return " ".join(str(report(run(codec, sampler), N, num_rounds=num_rounds, delta=delta, **options)).split())


def noised(noise=1.0, **options) -> fl.Aggregator:
    return gaussian(clip_norm=1.0, noise_multiplier=noise, **options)


def test_the_page_of_a_sampled_gaussian() -> None:
    found = report(run(noised()), N, num_rounds=50, delta=DELTA)
    text = str(found)
    assert found.guarantee.epsilon == epsilon(run(noised()), N, num_rounds=50, delta=DELTA)
    assert text.startswith(f"Differential privacy of 50 rounds\n  epsilon      {found.guarantee.epsilon:.4g} at delta")
    assert max(len(line) for line in text.splitlines()) <= 100
    assert found.warnings == ()
    text = " ".join(text.split())
    for claim in (
        f"{found.guarantee.eps_pld:.4g} by privacy loss distributions",
        f"{found.guarantee.eps_rdp:.4g} by Rényi divergences, orders 1.1 to 1024, dp-accounting's grid, conversion of",
        "unit One client",
        "Neighbors (add_or_remove): one client is added or removed.",
        "gaussian, noise multiplier 1 over the sensitivity to one client added, all releases of a round together.",
        "poisson(0.1) of 100 clients. Amplification by Poisson sampling at rate 0.1 is counted.",
        "of delta, which is included.",
        "trust The server is trusted",
        "From the operating system's entropy, unless `init` was given a noise_key: pass state= to know.",
        "released The model after every round",
        "not released Metrics of local training",
        "simulation only",
        "Evaluations on the clients' own data likewise.",
        "Drawn in float32: close to the distribution that is accounted for",
    ):
        assert claim in text, claim


def test_the_page_of_a_fixed_cohort() -> None:
    text = page(noised(4.0), fl.sampling.uniform(10))
    assert "Neighbors (replace_one): one client is replaced by any other." in text
    assert "Amplification by sampling 10 of 100 without replacement is counted in the Rényi figure" in text
    assert "exact curve of a Gaussian, without amplification" in text
    assert "noise multiplier 4 over the sensitivity to one client added" in text
    assert "; 2 where the sum can change by two clips." in text


def test_the_page_of_a_sampler_without_a_theorem() -> None:
    text = page(noised(4.0), fl.sampling.cyclic(10, 10))
    assert "No theorem of amplification by sampling is used: a client counts in 5 of 50 rounds" in text
    assert "one client's contributions become nothing, while everyone takes part in the same rounds" in text
    assert "Each round draws from one of 10 fixed groups; no amplification is claimed." in text


def test_the_pages_of_other_mechanisms() -> None:
    tree = page(tree_gaussian(clip_norm=1.0, noise_multiplier=7.0, num_rounds=50), fl.sampling.cyclic(10, 10))
    assert "correlated over the rounds: all are one release of noise multiplier" in tree
    assert "laplace, noise multiplier 2" in page(laplace(clip_norm=1.0, noise_multiplier=2.0))
    own = page(local_gaussian(clip_norm=1.0, epsilon=0.5, delta=1e-6))
    assert "local gaussian: a client's report in one round has epsilon 0.5, delta 1e-06." in own
    assert "float32" in own
    pure = page(local_laplace(clip_norm=1.0, epsilon=0.5))
    assert "optimal composition of local randomizers" in pure

    def init(wire):
        options = {"rdp": skellam_rdp(l2=20.0, l1=400.0, variance=400.0)}
        return (), wire._replace(mechanisms=(Mechanism("skellam", (), "Nobody.", options=options),), noised=True)

    discrete = page(fl.Aggregator(init), fl.sampling.uniform(10))
    assert "Neighbors (zero_out)" in discrete
    assert "replace" not in discrete
    assert "skellam: integer noise, accounted for by its own Rényi divergences" in discrete
    assert "integer orders 2 to 1024" in discrete
    assert "float32" not in discrete


@pytest.mark.parametrize(
    ("noise_key", "claim"),
    [
        (None, "noise From the operating system's entropy. Checkpoints hold the noise key"),
        (jax.random.key(3), "noise Reproducible, not private: the noise key was given"),
    ],
)
def test_the_page_says_where_the_noise_comes_from(noise_key, claim) -> None:
    people = helpers.one_value_each(np.zeros(N))
    rounds = run(adaptive_gaussian(noise_multiplier=0.5))
    state = rounds.init(jnp.float32(0), people, key=jax.random.key(0), noise_key=noise_key)
    found = report(rounds, people, num_rounds=5, delta=DELTA, state=state)
    text = " ".join(str(found).split())
    assert claim in text
    assert found.secret == (noise_key is None)
    assert "metrics (adaptive_gaussian_clip_norm, adaptive_gaussian_unclipped_fraction)" in text
    void = "WARNING the noise is reproducible, so the guarantee is void against anyone who knows the noise key."
    assert (void in text) == (noise_key is not None)


def test_the_page_of_no_privacy() -> None:
    found = report(run(noised(0.0)), N, num_rounds=5, delta=DELTA)
    text = " ".join(str(found).split())
    assert found.guarantee.epsilon == math.inf
    assert "epsilon infinite at delta 1e-05" in text
    assert "gaussian without noise, or without a bound on what it hides: no privacy." in text
    assert "WARNING epsilon is infinite: this run protects nobody." in text


def test_the_page_of_an_imagined_cohort() -> None:
    codec = noised(1.0, noise_cohort_size=1000)
    found = report(run(codec), 10**6, num_rounds=50, delta=1e-7)
    text = " ".join(str(found).split())
    assert "Differential privacy of 50 rounds (extrapolated)" in text
    assert (
        "sampling 1000 clients in a round of 1000000, imagined. Amplification by Poisson sampling at rate 0.001" in text
    )
    assert (
        "WARNING extrapolated: the guarantee is that of an imagined run with 1000 clients in a round of 1000000" in text
    )


def test_a_delta_that_is_too_large_is_on_the_page_and_warned_of() -> None:
    with pytest.warns(UserWarning, match="`delta` is 0.02 for 100 clients"):
        text = page(noised(), delta=0.02)
    assert "WARNING delta 0.02 is at least one over the number of clients (0.01)" in text
