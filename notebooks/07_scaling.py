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
# # Scaling: lanes, devices, memory, disks, dispatches, seeds
#
# A round is one XLA program, and `fl.Execution` says on what it runs. You will measure, on the machine in front of you,
# what lanes and devices do to the time of a round, that they do not change its numbers, that memory does not grow with
# the cohort, that data and client states may lie on a disk, what it saves to dispatch many rounds at once, and what
# several seeds cost side by side. It takes about a minute on two CPU cores. The figures are of the machine named below,
# and of whatever else it was doing: run it on yours.

# %%
# # %pip install "fedjaxlite[privacy]"  # in a clone of the repository: %pip install "..[privacy]"

# %%
# %matplotlib inline
import os
import shutil
import tempfile
import time
from pathlib import Path

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
if SMALL:
    NUM_CLIENTS, COHORT, HIDDEN = 32, 8, 8
    LANES, COHORTS, SEEDS = (1, 2), (4, 16), (1, 2)
elif platform == "cpu":
    NUM_CLIENTS, COHORT, HIDDEN = 2000, 100, 64
    LANES, COHORTS, SEEDS = (1, 2, 4, 8), (16, 128, 1024), (1, 8)
else:
    NUM_CLIENTS, COHORT, HIDDEN = 5000, 1024, 64
    LANES, COHORTS, SEEDS = (1, 4, 16, 64, 256), (64, 512, 4096), (1, 8, 32)

# %% [markdown]
# ## Many ragged clients, without padding
#
# Clients have lognormal sizes, from a few examples to hundreds. A population packs them one after the other: nothing is
# padded to the largest client, in memory or in time.

# %%
rng = np.random.default_rng(0)
sizes = np.clip(rng.lognormal(3.0, 1.0, NUM_CLIENTS), 2, 300).astype(int)
owners = np.repeat(np.arange(NUM_CLIENTS), sizes)
features = {"x": rng.random((sizes.sum(), 64), np.float32), "y": rng.integers(0, 10, sizes.sum())}
train = fl.Population.from_arrays(features, client_ids=owners)
packed = sum(array.nbytes for array in train.features.values())
padded = packed * train.max_size * NUM_CLIENTS // sizes.sum()
print(train)
print(f"packed {packed / 1e6:.1f} MB; padded to the largest client it would be {padded / 1e6:.1f} MB")

# %% [markdown]
# ## Lanes and devices
#
# A lane is one client in a `vmap`; L lanes train L clients side by side on one device. Clients are sorted by their
# work, so that those side by side take about as long. Devices share the work between them, and their sums are added
# once a round.

# %%
model = fl.models.mlp(features=(HIDDEN, 10), input_shape=(64,))
algorithm = algorithms.fed_avg(fl.losses.cross_entropy(model), client_optimizer=optax.sgd(0.05), batch_size=10)
params = model.init(jax.random.key(0))


def composed(cohort=COHORT, **execution):
    sampler = fl.sampling.uniform(cohort)
    return fl.rounds(algorithm, sampler=sampler, aggregator=fl.weighted_mean(), execution=fl.Execution(**execution))


def started(rounds):
    return rounds.init(params, train, key=jax.random.key(1))


def seconds(function, *args):
    """The fastest of a few calls, after one that compiles; others on the machine only ever make it slower."""
    jax.block_until_ready(function(*args))
    times = []
    for _ in range(2 if SMALL else 5):
        began = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - began)
    return min(times)


num_devices = len(jax.devices())
devices_tried = (1,) if num_devices == 1 else (1, num_devices)
measured, models = {}, {}
for devices in devices_tried:
    for lanes in LANES:
        rounds = composed(lanes=lanes, devices=devices)
        measured[devices, lanes] = COHORT / seconds(rounds.step, started(rounds), train)
        models[devices, lanes] = jax.device_get(rounds.step(started(rounds), train)[0].params)

# %%
figure = Figure(figsize=(7, 3.6), layout="constrained")
axes = figure.subplots()
for devices, style in zip(devices_tried, ("o-", "s--"), strict=False):
    axes.plot(
        LANES, [measured[devices, lanes] for lanes in LANES], style, label=f"{devices} device{'s' * (devices > 1)}"
    )
axes.set_xscale("log", base=2)
axes.set_xticks(LANES, [str(lanes) for lanes in LANES])
axes.set(xlabel="lanes on each device", ylabel="clients trained in a second", ylim=(0, None))
axes.grid(color="0.92")
axes.legend(frameon=False)
figure

# %% [markdown]
# What lanes and devices gain is in the figure and not in this text: it depends on the machine, on the model, and on
# what else runs there (two devices on a CPU are its cores, which others may be using). On a CPU a few lanes are all
# that can help; an accelerator, of which one small client leaves nearly everything idle, is tried with up to 256 here.
# Hence `lanes` has a default by platform and sizes, and `fl.plan` measures.
#
# The numbers of the training do not depend on any of this, beyond the rounding of sums in another order:

# %%
reference = models[devices_tried[0], LANES[0]]
largest = 0.0
for other in models.values():
    apart = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), reference, other)
    largest = max(largest, *jax.tree.leaves(apart))
print(f"largest difference between {len(models)} layouts after a round: {largest:.1e}")

# %% [markdown]
# ## What will it cost? `fl.plan`
#
# Before a long run: bytes and steps by arithmetic, time and lanes by a short probe. Nothing of the probe goes into the
# run.

# %%
print(fl.plan(composed(), params, train, num_rounds=1000, lanes_options=LANES, budget_seconds=10))

# %% [markdown]
# With a target the plan is for an accelerator that is not here. The very program of a round is compiled for it and not
# run: the plan tells whether it fits, what it does in a round, and the least time that this can take. It needs the
# target's compiler, and says so where it is not installed.

# %%
for target in ("h100", "tpu-v5e-8"):
    try:
        print(fl.plan(composed(), params, train, num_rounds=1000, target=target), end="\n\n")
    except ModuleNotFoundError as lacking:
        print(lacking)

# %% [markdown]
# ## Memory
#
# Updates are added up as clients finish, so there is never an array of all of them. XLA's own analysis of the compiled
# round: temporary memory for cohorts of growing size, and for a robust aggregator (the median) that needs every update
# apart.


# %%
def median(values, weights, present):
    """The median over the clients that are present, entry by entry."""
    there = lambda leaf: jnp.where(present.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, jnp.nan)  # noqa: E731
    return jax.tree.map(lambda leaf: jnp.nanmedian(there(leaf), axis=0), values)


def temporary_megabytes(cohort, aggregator):
    execution, sampler = fl.Execution(lanes=2, devices=1), fl.sampling.uniform(cohort)
    rounds = fl.rounds(algorithm, sampler=sampler, aggregator=aggregator, execution=execution)
    analysis = rounds.lower(started(rounds), train).compile().memory_analysis()
    return getattr(analysis, "temp_size_in_bytes", np.nan) / 1e6  # not every backend tells


memory = {
    "mean": [temporary_megabytes(cohort, fl.weighted_mean()) for cohort in COHORTS],
    "median": [temporary_megabytes(cohort, fl.chain(fl.mean(), fl.stack(median))) for cohort in COHORTS],
}
print("MB of temporary memory for cohorts of", COHORTS)
for name, megabytes in memory.items():
    print(f"  {name:<8}", [round(value, 3) for value in megabytes])

# %% [markdown]
# ## Data and client states larger than memory
#
# A population may lie on a disk: `fl.Population.write` streams clients into a folder, `open` maps it without reading
# it. `fl.train` takes it as any other, and gathers the next cohorts beside the round that runs. What clients keep
# between their rounds (here SCAFFOLD's control variates) may lie in a folder too: the rows of those that were trained,
# and a journal by which a run that was killed goes back to its last checkpoint. Of the others nothing is stored.

# %%
place = Path(tempfile.mkdtemp(prefix="fedjaxlite-"))
on_disk = fl.Population.write(place / "people", (train.client(i) for i in range(train.num_clients)))
print(f"{on_disk.num_clients} clients, {sum(on_disk.num_examples)} examples in a folder")

variates = algorithms.scaffold(
    fl.losses.cross_entropy(model), num_clients=NUM_CLIENTS, client_lr=0.05, batch_size=10, epochs=1
)


def trained(population, client_states):
    execution = fl.Execution(lanes=2, devices=1, client_states=client_states)
    rounds = fl.rounds(
        variates, sampler=fl.sampling.uniform(COHORT), aggregator=fl.weighted_mean(), execution=execution
    )
    state = rounds.init(params, population, key=jax.random.key(2))
    history = fl.train(rounds, state, population, num_rounds=5 if SMALL else 30, progress=False)
    return jax.device_get(rounds.params(history.state))


kept, streamed = trained(train, "device"), trained(on_disk, place / "states")
same = all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(streamed), strict=True))
states = sum(file.stat().st_blocks * 512 for file in (place / "states").rglob("*") if file.is_file())
whole = NUM_CLIENTS * sum(leaf.nbytes for leaf in jax.tree.leaves(params))
print(f"the same model, to the last bit: {same}")
print(f"client states: {states / 1e6:.1f} MB in the folder, {whole / 1e6:.1f} MB as a bank of all clients")
shutil.rmtree(place)

# %% [markdown]
# ## Many rounds in one dispatch
#
# `rounds.steps` puts a whole stretch of rounds, sampling included, into one program: Python, dispatch and transfers are
# paid for once. It matters where rounds are short, as here with two clients.

# %%
stretch = 4 if SMALL else 50
few = composed(cohort=2, devices=1)


def one_by_one(state):
    for _ in range(stretch):
        state, _ = few.step(state, train)
    return state


apart = seconds(one_by_one, started(few)) / stretch
together = seconds(lambda state: few.steps(state, train, stretch)[0], started(few)) / stretch
print(f"a round of 2 clients: {1e3 * apart:.2f} ms alone, {1e3 * together:.2f} ms as one of {stretch} in a dispatch")

# %% [markdown]
# ## Seeds side by side
#
# Rounds are pure functions, so they can be vmapped: over seeds, and over learning rates and other numbers, which reach
# the program as traced values. `seeds.player` is that in a few lines, and is what the tables in the documentation are
# made with.


# %%
def make(rate):
    tuned = algorithms.fed_avg(fl.losses.cross_entropy(model), client_optimizer=optax.sgd(rate), batch_size=10)
    return fl.rounds(tuned, sampler=fl.sampling.uniform(8), aggregator=fl.weighted_mean(), execution=seeds.ONE)


play = seeds.player(make, model.init, num_rounds=5)
for count in SEEDS:
    spent = seconds(lambda count=count: play(0.05, train, count)[0].params)
    print(f"{count:>3} seeds: {1e3 * spent / count:7.2f} ms a seed for five rounds")

# %% [markdown]
# Whether seeds side by side are cheaper than one after the other depends on what the device has left over: see the last
# table. They always share one compilation, which for small studies is most of the time.
#
# ## Where to go next
#
# - [Execution](../docs/execution.md): waves, lanes, devices, several processes, what is guaranteed
# - [Performance](../docs/performance.md): measured against raw JAX, with machines and versions
# - [Large models](../docs/large_models.md): when one client alone fills the device
