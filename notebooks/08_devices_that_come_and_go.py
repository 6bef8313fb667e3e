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
# # Devices that come and go
#
# Real clients train when they are idle, charging and on free wireless: mostly at night, not all alike, and some are
# gone before they report. You will draw a population's day, see who takes part, and measure what it does to a model:
# the clock that shows in accuracy when habits and data go together, the bias of a deadline against clients with much
# data, and what partial work and over-selection buy. It takes about a minute on two CPU cores and uses the digits of
# scikit-learn.

# %%
# # %pip install "fedjaxlite[privacy]"  # in a clone of the repository: %pip install "..[privacy]"

# %%
# %matplotlib inline
import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import fedjaxlite as fl
from fedjaxlite import algorithms
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
NUM_CLIENTS, COHORT, HIDDEN, NUM_SEEDS = (30, 4, 8, 2) if SMALL else (200, 10, 32, 3)
ROUNDS_PER_DAY, NUM_DAYS = (6, 1) if SMALL else (24, 4)
NUM_ROUNDS = ROUNDS_PER_DAY * NUM_DAYS

# %% [markdown]
# ## A day
#
# `diurnal` is a simulated trace: each client has a time zone and habits, and is available in a round when three
# conditions hold at once. Nothing is stored; whether a client is available is a function of the seed, its id and the
# round. (A table of measurements is a trace too: `fl.sampling.recorded`.)

# %%
trace = fl.sampling.diurnal(seed=0, rounds_per_day=ROUNDS_PER_DAY, zone_spread=9.0)
hours = jnp.arange(NUM_ROUNDS)
conditions = jax.jit(jax.vmap(lambda hour: trace.conditions(hour, NUM_CLIENTS)))(hours)
available = np.asarray(jax.jit(jax.vmap(lambda hour: trace.available(hour, NUM_CLIENTS)))(hours))

# %%
figure = Figure(figsize=(11, 3.2), layout="constrained")
axes = figure.subplots()
for (name, held), style in zip(conditions.items(), ("--", "-.", ":"), strict=True):
    axes.plot(24 * hours / ROUNDS_PER_DAY, np.asarray(held).mean(axis=1), style, label=name)
axes.plot(24 * hours / ROUNDS_PER_DAY, available.mean(axis=1), "k-", linewidth=2, label="all three")
axes.set(xlabel="hours since the first midnight", ylabel="share of the clients", ylim=(0, 1))
axes.set_xticks(range(0, 24 * NUM_DAYS + 1, 12))
axes.grid(color="0.92")
axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
figure

# %% [markdown]
# ## Who takes part
#
# A sampler draws among those who are available. The server wants a number of reports; it selects 30 % more clients, of
# whom some drop out, and closes the round when enough have reported. Everything is part of the compiled round, so a
# cohort can also be looked at without training anybody: here all rounds at once, under `vmap`.

# %%
arrays, test = fl.datasets.load("digits")
by_hour = available.reshape(NUM_DAYS, ROUNDS_PER_DAY, NUM_CLIENTS).mean(axis=0)
angle = np.exp(2j * np.pi * np.arange(ROUNDS_PER_DAY) / ROUNDS_PER_DAY)
habit = np.angle(angle @ by_hour)  # the middle of the hours at which a client is there, round the clock
train = fl.datasets.federate(arrays, fl.partition.iid(NUM_CLIENTS, seed=0))
sampler = fl.sampling.available(COHORT, trace, over_selection=1.3, dropout=0.1)
draw = jax.jit(jax.vmap(lambda number: sampler.sample(jax.random.key(2), number, train)))
cohorts = draw(jnp.arange(NUM_ROUNDS))
selected, reported = np.asarray(cohorts.selected).sum(1), np.asarray(cohorts.reported).sum(1)
print(f"selected {selected.mean():.1f} a round, reported {reported.mean():.1f}; wanted {COHORT}")
print("rounds with fewer reports than wanted:", int((reported < COHORT).sum()), "of", NUM_ROUNDS)

# %%
fl.plots.participation(cohorts, NUM_CLIENTS)

# %% [markdown]
# ## When habits and data go together
#
# If who is awake has nothing to do with what they hold, a day changes little. But people in one time zone may have one
# kind of data. Below, clients sorted by the hours of their availability get digits sorted by label: each part of the
# day belongs to some classes. The same clients and data are trained with a sampler that may take anybody at any time,
# and with the trace.

# %%
shares = np.argsort(np.argsort(habit))  # a client's place in the order of habits
in_order = np.argsort(arrays["y"], kind="stable")
owner = np.empty(len(in_order), int)
place_of = np.argsort(shares)
owner[in_order] = place_of[np.arange(len(in_order)) * NUM_CLIENTS // len(in_order)]
zoned = fl.Population.from_arrays(arrays, client_ids=owner, order=range(NUM_CLIENTS))
model = fl.models.mlp(features=(HIDDEN, 10), input_shape=(8, 8, 1))
loss_fn = fl.losses.cross_entropy(model)
local = {"client_optimizer": optax.sgd(0.05), "batch_size": 4, "epochs": 2}
algorithm = algorithms.fed_avg(loss_fn, **local)


def accuracies(sampler, population, algorithm=algorithm):
    """Test accuracy after every round, for every seed: `[S, T]`."""
    run = fl.rounds(algorithm, sampler=sampler, aggregator=fl.weighted_mean(), execution=seeds.ONE)
    play = seeds.player(lambda _: run, model.init, num_rounds=NUM_ROUNDS, measure=seeds.accuracy_of(model, test))
    return np.asarray(play(0.0, population, NUM_SEEDS)[1])


at_any_time, in_its_hours = fl.sampling.uniform(COHORT), fl.sampling.available(COHORT, trace)
curves = {
    "anybody at any time": accuracies(at_any_time, zoned),
    "only who is available": accuracies(in_its_hours, zoned),
    "available, data alike": accuracies(in_its_hours, train),
}
figure = fl.plots.curves(curves)
figure.axes[0].set(xlabel=f"round ({ROUNDS_PER_DAY} a day)", ylim=(0, 1))
figure

# %% [markdown]
# With data that go by the clock the model learns the classes of the hour and loses those of the other side of the day;
# where habits and data are independent, the same trace does no such harm. What a single evaluation says then depends on
# the hour at which it is made.
#
# ## Stragglers: waiting, cutting off, or taking partial work
#
# A round that waits for everybody takes as long as its slowest client. A deadline cuts late clients off, and those are
# not random ones: here the time of a client grows with its data, and some devices are always slow.

# %%
ragged = fl.datasets.federate(arrays, fl.partition.quantity(NUM_CLIENTS, seed=0))
latency = fl.sampling.lognormal_latency(seconds_per_example=1.0, overhead=5.0)
deadline = 15.0
hurried = fl.sampling.with_deadline(fl.sampling.uniform(COHORT), deadline=deadline, latency=latency)


def drawn_by(sampler):
    cohorts = jax.vmap(lambda number: sampler.sample(jax.random.key(4), number, ragged))(jnp.arange(300))
    sizes = np.asarray(ragged.num_examples)[np.asarray(cohorts.ids)]
    return cohorts, sizes, np.asarray(cohorts.reported)


cohorts, sizes, in_time = drawn_by(hurried)
print(f"deadline {deadline:g} s: {in_time.mean():.0%} of the clients report")
print(
    f"examples of a client: {sizes.mean():.1f} among the selected, {sizes[in_time].mean():.1f} among those who report"
)
edges = np.unique(np.quantile(sizes, np.linspace(0, 1, 7)))
middle = [sizes[(sizes >= a) & (sizes <= b)].mean() for a, b in itertools.pairwise(edges)]
share = [in_time[(sizes >= a) & (sizes <= b)].mean() for a, b in itertools.pairwise(edges)]
figure = Figure(figsize=(6, 3), layout="constrained")
axes = figure.subplots()
axes.plot(middle, share, "ko-")
axes.set(xlabel="examples of a client", ylabel="share that reports in time", ylim=(0, 1))
axes.grid(color="0.92")
figure

# %% [markdown]
# Over-selection shortens a round without a fixed deadline: ask 13 for 10 reports and take the first 10. How long rounds
# take, by the same latencies:


# %%
def round_seconds(asked, wanted):
    """Seconds until the last report that is waited for, over many rounds."""
    everyone = fl.sampling.uniform(asked)

    def one(number):
        cohort = everyone.sample(jax.random.key(5), number, ragged)
        return jnp.sort(latency(jax.random.key(5), number, cohort, ragged))[wanted - 1]

    return np.asarray(jax.vmap(one)(jnp.arange(300)))


for asked in (COHORT, int(np.ceil(1.3 * COHORT))):
    taken = round_seconds(asked, COHORT)
    print(
        f"ask {asked}, take {COHORT}: median {np.median(taken):5.1f} s, slowest tenth {np.quantile(taken, 0.9):5.1f} s"
    )

# %% [markdown]
# Slow clients need not be dropped: `with_stragglers` gives each a share of its work, and local training stops after so
# many steps. Federated averaging that drops nine tenths of its clients, against the same that takes what they have got
# done, on the synthetic data of [Li et al. (2020)](https://arxiv.org/abs/1812.06127), where clients differ much:

# %%
devices, held_out = fl.datasets.load("synthetic", alpha=1.0, beta=1.0, num_clients=30, seed=0)
logistic = fl.models.logistic(num_classes=10, input_shape=(60,))
slow = algorithms.fed_avg(
    fl.losses.cross_entropy(logistic), client_optimizer=optax.sgd(0.01), batch_size=10, epochs=1 if SMALL else 10
)
ten = fl.sampling.uniform(COHORT)
participation = {
    "everybody in full": ten,
    "90 % are slow and dropped": fl.sampling.with_dropout(ten, 0.9),
    "90 % are slow, partial work": fl.sampling.with_stragglers(ten, fraction=0.9, min_work=0.0),
}
pooled = held_out.features if isinstance(held_out, fl.Population) else held_out
curves = {}
for name, sampler in participation.items():
    run = fl.rounds(slow, sampler=sampler, aggregator=fl.weighted_mean(), execution=seeds.ONE)
    measure = seeds.accuracy_of(logistic, pooled)
    play = seeds.player(lambda _, run=run: run, logistic.init, num_rounds=2 if SMALL else 40, measure=measure)
    curves[name] = np.asarray(play(0.0, devices, NUM_SEEDS)[1])
figure = fl.plots.curves(curves)
figure.axes[0].set(ylim=(0, 1))
figure

# %% [markdown]
# Partial work is nearly as good as full work here, and dropping is what costs: a few clients a round are few, and which
# few changes from round to round.
#
# ## Where to go next
#
# - [Unlike clients, and models of their own](04_heterogeneity_and_personalization.ipynb)
# - [Algorithms](../docs/algorithms.md#fedprox-with-stragglers-li2020): stragglers and FedProx, with five seeds
# - [Privacy](../docs/privacy.md#how-epsilon-is-computed): why a trace gives no amplification by sampling
