# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Privacy: accounting and audit
#
# What a private run guarantees is computed from the program that runs: aggregator, sampler and rounds. You will ask for
# its epsilon and a page that says what it means, calibrate noise to a budget, stop a run at it, see that samplers do
# not count alike, measure accuracy against epsilon, and finally attack the guarantee with canaries, on a correct
# program and on one with a bug. It takes about a minute on two CPU cores and needs the extra "privacy". MNIST is used
# where it is prepared (`FEDJAXLITE_DATA`), the digits of scikit-learn otherwise.

# %%
# # %pip install "fedjaxlite[privacy]"  # in a clone of the repository: %pip install "..[privacy]"

# %%
# %matplotlib inline
import os

import jax
import numpy as np
import optax
from matplotlib.figure import Figure

import fedjaxlite as fl
from fedjaxlite import algorithms, privacy
from fedjaxlite.reproduce import seeds

try:
    fl.use_cpu_cores()  # on a CPU every core becomes a device; this comes before anything else in JAX
except RuntimeError:
    print("JAX has started in this kernel already: restart it to train on every core.")
platform = jax.default_backend()
print(f"fedjaxlite {fl.__version__}, jax {jax.__version__}: {jax.devices()}")
print("This runs on the CPU." if platform == "cpu" else f"This runs on an accelerator ({platform.upper()}).")

# %%
SMALL = bool(os.environ.get("FEDJAXLITE_SMALL"))  # the repository's tests run every notebook in seconds
NUM_CLIENTS, COHORT, HIDDEN, NUM_ROUNDS = (60, 10, 4, 4) if SMALL else (1000, 100, 32, 40)
NUM_SEEDS, EPSILONS, CANARIES = (2, (0.5, np.inf), 40) if SMALL else (3, (0.5, 1.0, 2.0, 4.0, 8.0, np.inf), 600)
BUDGET = 0.5 if SMALL else 2.0
NUM_EXAMPLES = 20 * NUM_CLIENTS
DELTA = 1e-4 if NUM_CLIENTS > 100 else 1e-3  # below one over the number of clients
try:
    arrays, test = fl.datasets.load("digits" if SMALL else "mnist")
except FileNotFoundError:
    arrays, test = fl.datasets.load("digits")
    NUM_CLIENTS, COHORT, DELTA = 200, 20, 1e-3
arrays = {name: array[:NUM_EXAMPLES] for name, array in arrays.items()}
train = fl.datasets.federate(arrays, fl.partition.dirichlet(NUM_CLIENTS, alpha=1.0, min_size=1, seed=0))
print(train)

# %% [markdown]
# ## A private run
#
# Two arguments make a run private. The aggregator clips every client's update to a norm and adds noise to the sum, over
# a *fixed* denominator (the number of clients that came is itself private). The sampler draws every client
# independently with one rate, which is what amplification by sampling is about.

# %%
model = fl.models.mlp(features=(HIDDEN, 10), input_shape=test["x"].shape[1:])
algorithm = algorithms.fed_avg(fl.losses.cross_entropy(model), client_optimizer=optax.sgd(0.1), batch_size=10)
rate = COHORT / NUM_CLIENTS
capacity = fl.sampling.poisson_capacity(NUM_CLIENTS, rate, 1e-12)  # too few in one round of 10^12
poisson = fl.sampling.poisson(rate, capacity)


def private(noise_multiplier, sampler=poisson):
    chain = fl.chain(fl.mean(over=COHORT), privacy.gaussian(clip_norm=0.3, noise_multiplier=noise_multiplier))
    return fl.rounds(algorithm, sampler=sampler, aggregator=chain, execution=seeds.ONE)


run = private(1.0)
state = run.init(model.init(jax.random.key(0)), train, key=jax.random.key(1))
print("epsilon", round(privacy.epsilon(run, train, num_rounds=NUM_ROUNDS, delta=DELTA), 3))

# %%
print(privacy.report(run, train, num_rounds=NUM_ROUNDS, delta=DELTA, state=state))

# %% [markdown]
# What has no guarantee is refused when the run is built, and the message says why:

# %%
try:
    weighted = fl.chain(fl.weighted_mean(), privacy.gaussian(clip_norm=0.3, noise_multiplier=1.0))
    bad = fl.rounds(algorithm, sampler=poisson, aggregator=weighted)
    bad.init(model.init(jax.random.key(0)), train, key=jax.random.key(1))
except ValueError as error:
    print(error)

# %% [markdown]
# ## From a budget to noise, and a run that stops
#
# `calibrate` finds the least noise for a budget; `running_epsilon` writes what has been spent into the records, and
# `stop_at_epsilon` ends a run before the round that would pass a budget, also after a resume. Here it is given three
# quarters of it.

# %%
noise = privacy.calibrate(private, train, epsilon=BUDGET, delta=DELTA, num_rounds=NUM_ROUNDS)
print(f"noise multiplier for epsilon {BUDGET:g} over {NUM_ROUNDS} rounds: {noise:.3f}")
watching = [
    privacy.running_epsilon(delta=DELTA, every=2 if SMALL else 5),
    privacy.stop_at_epsilon(epsilon=0.75 * BUDGET, delta=DELTA),
]
run = private(noise)
state = run.init(model.init(jax.random.key(0)), train, key=jax.random.key(1))
history = fl.train(run, state, train, num_rounds=NUM_ROUNDS, observers=watching, progress=False)
print(f"ended in round {history.records[-1]['round']} of {NUM_ROUNDS}: {history.stopped}")

# %%
fl.plots.epsilon({"this run": history.records}, budget=0.75 * BUDGET)

# %% [markdown]
# ## Samplers do not count alike
#
# The same noise, the same number of clients a round, and other promises about who they are. Poisson sampling is
# amplified by a theorem. A cohort of fixed size has another notion of neighbors (one client replaced), under which the
# sum moves twice as far. If cohorts take turns, no sampling is assumed and each client counts once in a cycle. If
# anyone may always be there (devices that come when they are free), all rounds count.

# %%
groups = NUM_CLIENTS // COHORT
trace = np.ones((1, NUM_CLIENTS), bool)
samplers = {
    "poisson": poisson,
    "uniform, fixed size": fl.sampling.uniform(COHORT),
    "cyclic, taking turns": fl.sampling.cyclic(COHORT, groups),
    "available, no promise": fl.sampling.available(COHORT, trace),
}
for name, sampler in samplers.items():
    page = privacy.report(private(noise, sampler), train, num_rounds=NUM_ROUNDS, delta=DELTA)
    print(f"{name:<22} epsilon {page.guarantee.epsilon:>6.2f}   {page.relation}")

# %% [markdown]
# ## Accuracy against epsilon
#
# Noise is calibrated for the whole run, at each budget. The noise multiplier is a traced number here, so one compiled
# program serves all budgets, with its seeds side by side. Bands are 95 % intervals over seeds.

# %%
play = seeds.player(
    private, model.init, num_rounds=NUM_ROUNDS, measure=seeds.accuracy_of(model, test), every=NUM_ROUNDS
)
accuracies = []
for epsilon in EPSILONS:
    needed = 0.0
    if np.isfinite(epsilon):
        needed = privacy.calibrate(private, train, epsilon=epsilon, delta=DELTA, num_rounds=NUM_ROUNDS)
    accuracies.append(np.asarray(play(needed, train, NUM_SEEDS)[1])[:, -1])
fl.plots.accuracy_against_epsilon({"DP-FedAvg": np.stack(accuracies, axis=1)}, EPSILONS)

# %% [markdown]
# How far the left end falls depends on how many clients there are: the noise of a mean is divided by the cohort, and
# amplification needs a small share of a large population. That is why deployed systems draw thousands of clients out of
# millions, and why `noise_cohort_size` lets a simulation of few clients carry the noise of many (its reports say
# *extrapolated*).
#
# ## Audit
#
# An attack can show that a guarantee does *not* hold. Canaries are clients that send a known random direction, or
# nothing, by a fair coin; from what the server decodes, an auditor guesses the coins, and the number of right guesses
# bounds epsilon from below with 95 % confidence. First a correct program, then one in which the noise was forgotten,
# while everything that the program says of itself stayed as it was.

# %%
rng = np.random.default_rng(0)
canaries = fl.Population.from_arrays(
    {"x": rng.random((CANARIES, 64), np.float32), "y": rng.integers(0, 10, CANARIES)}, client_ids=np.arange(CANARIES)
)
wide = fl.models.mlp(features=(128, 10), input_shape=(64,))  # room for directions that are nearly orthogonal
plain = algorithms.fed_avg(fl.losses.cross_entropy(wide), client_optimizer=optax.sgd(0.01), batch_size=1)
audited = privacy.audit.with_canaries(plain, num_canaries=CANARIES, first_client=0, scale=10.0, key=jax.random.key(2))
right = privacy.gaussian(clip_norm=1.0, noise_multiplier=4.0)
silent = privacy.gaussian(clip_norm=1.0, noise_multiplier=0.0)
programs = {"correct": right, "noise forgotten": right._replace(decode=silent.decode)}
scores = {}
for name, codec in programs.items():
    chain = fl.chain(fl.mean(over=CANARIES), codec)
    run = fl.rounds(audited, sampler=fl.sampling.full(CANARIES), aggregator=chain, execution=seeds.ONE)
    state = run.init(wide.init(jax.random.key(0)), canaries, key=jax.random.key(3))
    found = run.steps(state, canaries, 4)[0].server_state
    scores[name] = np.asarray(found.scores), np.asarray(found.included)
    claimed = privacy.epsilon(run, canaries, num_rounds=4, delta=1e-5)
    measured = privacy.audit.epsilon_one_run(*scores[name], delta=1e-5)
    verdict = "below its claim" if measured <= claimed else "above its claim: broken"
    print(f"{name:<16} claimed {claimed:.2f}   measured, at least {measured:.2f}   {verdict}")

# %%
figure = Figure(figsize=(13, 3), layout="constrained")
for axes, (name, (values, included)) in zip(figure.subplots(1, 2), scores.items(), strict=True):
    bins = np.linspace(values.min(), values.max(), 40)
    axes.hist(values[included], bins=bins, alpha=0.6, hatch="//", edgecolor="black", label="canary sent its direction")
    axes.hist(values[~included], bins=bins, alpha=0.6, color="0.6", edgecolor="black", label="canary sent nothing")
    axes.set(title=name, xlabel="score of a canary", ylabel="canaries")
figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside right upper")
figure

# %% [markdown]
# A bound below the claim is what a correct program gives, and proves nothing; a bound above the claim is a bug, with 95
# % confidence. The attack uses one direction per client and is weaker than the worst case, so a wide gap is normal.
#
# ## Where to go next
#
# - [Privacy](../docs/privacy.md): DP-FTRL without sampling, noise from the clients, what is refused, more audits
# - [What updates give away](05_the_leak.ipynb)
# - `fedjaxlite run --clip-norm 0.3 --epsilon 8` does the calibration on the command line
