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
# What a method costs on real devices is seconds, not rounds: some are fifty times as slow as others, and most are idle,
# charging and on free wireless at night alone. You will draw such devices, see for whom a server waits, and ask of six
# servers how long they take to an accuracy: one that waits for all, over-selection, a deadline, FedBuff, FedAsync and
# Oort. Then the same again where slow devices have data of their own, which turns the order over. All seconds are
# virtual: a clock inside of the compiled rounds, and nothing sleeps. It takes about two minutes on two CPU cores and
# uses the digits of scikit-learn.

# %%
# # %pip install "fedjaxlite[privacy]"  # in a clone of the repository: %pip install "..[privacy]"

# %%
# %matplotlib inline
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
NUM_CLIENTS, HIDDEN, NUM_SEEDS = (20, 8, 2) if SMALL else (100, 32, 5)
COHORT, ASKED, AT_WORK = (4, 5, 8) if SMALL else (10, 13, 30)
DEADLINE, HORIZON, TARGET = 20.0, 2000.0, 0.85

# %% [markdown]
# ## Who is slow
#
# `drawn_devices` draws a speed, a network and a latency for each client, all lognormal: most are near the median, and
# the tail is long. A client's round is its latency, the download, so many local steps, and the upload; how many steps
# follows from its data. Here clients have from one to a hundred examples, so that the slow ones are those with a slow
# device, or with much data.

# %%
arrays, test = fl.datasets.load("digits")
train = fl.datasets.federate(arrays, fl.partition.quantity(NUM_CLIENTS, seed=0))
sizes = np.asarray(train.num_examples)
devices = fl.systems.drawn_devices(jax.random.key(0), NUM_CLIENTS, seconds_per_step=1.0, step_spread=1.0)
local = {"batch_size": 4, "epochs": 2}
steps = local["epochs"] * np.ceil(sizes / local["batch_size"]).astype(np.int32)
model = fl.models.mlp(features=(HIDDEN, 10), input_shape=(8, 8, 1))
num_bytes = 4 * fl.models.num_params(model.init(jax.random.key(0)))
takes = np.asarray(fl.systems.seconds_of(devices, np.arange(NUM_CLIENTS), steps, num_bytes, num_bytes))
training = np.asarray(devices.seconds_per_step) * steps
print("seconds of a client: " + ", ".join(f"{q:.0%} in {np.quantile(takes, q):.3g}" for q in (0.25, 0.5, 0.75, 0.9, 1)))
print(f"of that, training in all: {training.sum() / takes.sum():.1%} (this model is small, so bytes cost little)")

# %%
figure = Figure(figsize=(7, 3.6), layout="constrained")
axes = figure.subplots()
axes.loglog(sizes, takes, "k.")
axes.axhline(DEADLINE, color="tab:red", linestyle="--", label=f"a deadline of {DEADLINE:g} s")
axes.set(xlabel="examples of a client", ylabel="virtual seconds of its round")
axes.grid(color="0.92")
axes.legend(frameon=False)
figure

# %%
in_time = takes <= DEADLINE
held = sizes[in_time].sum() / sizes.sum()
print(f"done in {DEADLINE:g} s: {in_time.mean():.0%} of the clients, who hold {held:.0%} of the examples")

# %% [markdown]
# A deadline does not leave out just anybody. Slowness belongs to the client: those above the line are late in every
# round, and their data are never seen.
#
# ## Who is there
#
# `drawn_availability` draws when devices are there: eight hours on most nights, by time zone and habit.

# %%
trace = fl.systems.drawn_availability(jax.random.key(1), NUM_CLIENTS)
hours = np.arange(0, 7 * 24, 0.5)
ids = jnp.arange(NUM_CLIENTS)
there = jax.jit(jax.vmap(lambda hour: fl.systems.is_there(trace, ids, 3600 * hour)))(jnp.float32(hours))
figure = Figure(figsize=(9, 2.6), layout="constrained")
axes = figure.subplots()
axes.plot(hours, np.asarray(there).mean(axis=1), "k-")
axes.set(xlabel="hours since the first midnight", ylabel="share of the clients", ylim=(0, 1))
axes.set_xticks(range(0, 7 * 24 + 1, 24))
axes.grid(color="0.92")
figure

# %% [markdown]
# `timed` puts a sampler on the clock, and waits for clients that are not there. A sampler on a clock has a memory,
# which goes on from round to round, and can be looked at without training anybody. Here the server closes a round with
# the tenth message, and asks more or fewer clients for it, whoever they are.


# %%
def steps_of(examples, work):
    """Local steps, of clients that do all of their work."""
    return local["epochs"] * -(-examples // local["batch_size"])


setting = fl.sampling.Setting(NUM_CLIENTS, train.num_examples, num_bytes, num_bytes, steps_of, num_bytes)


def rounds_of_a_week(asked, most=5 if SMALL else 4000):
    """Hours at which rounds were closed."""
    sampler = fl.systems.timed(fl.sampling.uniform(asked), devices, reports=COHORT, availability=trace)

    def one(state, number):
        _, state = sampler.memory.sample(state, jax.random.key(2), number, train)
        now = sampler.memory.tell(state)["simulated_seconds"]
        return state, (now.whole + now.part) / 3600

    closed = np.asarray(jax.lax.scan(one, sampler.memory.init(setting), jnp.arange(most))[1])
    return closed[closed <= 7 * 24]


figure = Figure(figsize=(9, 3), layout="constrained")
axes = figure.subplots()
for asked, line in {ASKED: "k:"}.items() if SMALL else {13: "k:", 20: "k--", 25: "k-"}.items():
    closed = rounds_of_a_week(asked)
    so_far = range(1, len(closed) + 1)
    axes.step([0, *closed, 7 * 24], [0, *so_far, len(closed)], line, where="post", label=f"asks {asked}")
    print(f"asks {asked}, takes the first {COHORT}: {len(closed)} rounds in a week")
axes.set(xlabel="hours since the first midnight", ylabel="rounds so far", yscale="symlog")
axes.set_xticks(range(0, 7 * 24 + 1, 24))
axes.grid(color="0.92")
axes.legend(frameon=False)
figure

# %% [markdown]
# With 13 the server waits for somebody's night, and does a round a day. With 25, ten of them are mostly at hand at
# night, and a round takes seconds; but a single unlucky draw is enough to wait for the next night.
#
# ## Six servers, and a seventh
#
# Now the race. It is night, and everybody is there: what is compared is what to do about the slow. All servers train by
# the same local steps.
#
# - *Waiting for all* of 10, and *over-selection*: 13 are asked, and the first 10 count.
# - *A deadline*: 13 are asked, and who is late does not count. With *partial work*, a client that is late sends what it
#   has done.
# - *Oort* asks 13 too, those with large losses that were fast when they took part; the first 10 count.
# - *FedBuff* keeps 30 clients at work, and steps with every tenth message. *FedAsync* steps with every message, and
#   mixes the client's model into its own. A message counts less the older the model that its client began from.
#
# An asynchronous server is a sampler as well, so that each of them is one line:

# %%
waits = lambda sampler, **how: fl.systems.timed(sampler, devices, **how)  # noqa: E731
learned = lambda key, number, cohort, population: jnp.asarray(takes)[cohort.ids]  # noqa: E731
kept_busy = {
    "service": fl.systems.service.on_devices(devices),
    "staleness": fl.systems.staleness.polynomial(0.5),
}
anybody = fl.sampling.uniform(ASKED)
utility = fl.sampling.oort(ASKED, latency=learned, preferred_seconds=float(np.median(takes)))
servers = {  # how; clients asked, steps of the server, steps between measurements; the server's rate
    "waits for all": (waits(fl.sampling.uniform(COHORT)), COHORT, 40, 1, 1.0),
    "over-selection": (waits(anybody, reports=COHORT), ASKED, 130, 2, 1.0),
    "deadline": (waits(anybody, deadline=DEADLINE), ASKED, 110, 2, 1.0),
    "deadline, partial work": (waits(anybody, deadline=DEADLINE, partial_work=True), ASKED, 110, 2, 1.0),
    "Oort": (waits(utility, reports=COHORT), ASKED, 300, 2, 1.0),
    "FedBuff": (fl.systems.fed_buff(COHORT, concurrency=AT_WORK, **kept_busy), COHORT, 800, 5, 1.0),
    "FedAsync": (fl.systems.fed_async(AT_WORK, **kept_busy), 1, 8000, 50, 0.3),
}
if SMALL:
    servers = {name: (*servers[name][:2], 4, 2, 1.0) for name in ("over-selection", "FedBuff")}

# %% [markdown]
# All seeds of a server run as one program. A measurement is the accuracy, that on two of the digits, and the clock.

# %%
loss_fn = fl.losses.cross_entropy(model)
images, labels = jnp.asarray(test["x"]), jnp.asarray(test["y"])


def measure(params, info):
    right = jnp.argmax(model.apply(params, images, train=False), -1) == labels
    two = labels >= 8
    now = info.sampler["simulated_seconds"]
    shares = [jnp.mean(right.astype(jnp.float32)), jnp.sum(right & two) / jnp.sum(two)]
    return *shares, now.whole + now.part


def player_of(sampler, num_rounds, every, rate):
    algorithm = algorithms.fed_avg(loss_fn, client_optimizer=optax.sgd(0.05), server_optimizer=optax.sgd(rate), **local)
    run = fl.rounds(algorithm, sampler=sampler, aggregator=fl.weighted_mean(), execution=seeds.ONE)
    return seeds.player(lambda _: run, model.init, num_rounds=num_rounds, every=every, measure=measure)


players = {name: player_of(sampler, *how) for name, (sampler, _, *how) in servers.items()}


def race(population):
    """Records of each server, of each seed."""
    runs = {}
    for name, play in players.items():
        _, asked, _, every, _ = servers[name]
        accuracy, two, now = (np.asarray(told) for told in play(0.0, population, NUM_SEEDS)[1])
        runs[name] = [
            [
                {
                    "round": (at + 1) * every,
                    "asked": (at + 1) * every * asked,
                    "simulated_seconds": float(now[seed, at]),
                    "test_accuracy": float(accuracy[seed, at]),
                    "accuracy_on_8_and_9": float(two[seed, at]),
                }
                for at in range(now.shape[1])
            ]
            for seed in range(NUM_SEEDS)
        ]
    return runs


def first_at_target(records):
    return next((record for record in records if record["test_accuracy"] >= TARGET), None)


def by_the_end(records, metric):
    """The last measurement before the horizon."""
    return [record[metric] for record in records if record["simulated_seconds"] <= HORIZON or record is records[0]][-1]


def table(runs):
    heads = f"seconds to {TARGET:.0%}", "asked by then", f"% at {HORIZON:g} s", "% of 8 and 9"
    print(f"{'':28}" + "".join(f"{head:>16}" for head in heads))
    for name, of_seeds in runs.items():
        found = [record for record in map(first_at_target, of_seeds) if record]
        cells = [f"{len(found)} of {NUM_SEEDS} seeds" if found else "not reached", ""]
        if len(found) == NUM_SEEDS:
            cells = [str(seeds.interval([record[of] for record in found])) for of in ("simulated_seconds", "asked")]
        for metric in ("test_accuracy", "accuracy_on_8_and_9"):
            cells.append(str(seeds.interval([100 * by_the_end(records, metric) for records in of_seeds])))
        print(f"{name:28}" + "".join(f"{cell:>16}" for cell in cells))


def drawn(runs):
    figure = fl.plots.curves(runs, over="simulated_seconds")
    figure.set_size_inches(9, 4.2)
    figure.axes[0].set(xscale="log", xlim=(10, HORIZON), ylim=(0, 1), xlabel="virtual seconds")
    figure.axes[0].axhline(TARGET, color="0.6", linewidth=0.8)
    return figure


# %% [markdown]
# ## Speed that has nothing to do with the digits
#
# First, each client has all digits alike, and slow clients differ from others by how much they have.

# %%
alike = race(train)
table(alike)

# %%
drawn(alike)


# %%
def seconds_to_target(runs, name):
    return np.mean([record["simulated_seconds"] if record else np.nan for record in map(first_at_target, runs[name])])


first, *others = alike
for name in others:
    sooner = seconds_to_target(alike, first) / seconds_to_target(alike, name)
    print(f"{name}: {TARGET:.0%} {sooner:.1f} times as soon as '{first}'")

# %% [markdown]
# The tail is what costs: ten clients take as long as the slowest of them. Three clients more than needed make it about
# three times shorter, and a deadline nearly as much; Oort, which learns who is slow, gains little over asking anybody.
# FedBuff is by far the soonest, since nobody waits for anybody. The price is work: it asks more of the clients than
# those that wait, and keeps 30 of them busy at all times. (FedAsync asks the most: its steps are of one message.) Once
# there is time, the ways differ less, and partial work is about as good as FedBuff.
#
# The intervals are over seeds of the model, of cohorts and of what clients draw. Devices and data are one draw, and no
# rate was searched: FedAsync's .3 is a guess.
#
# ## Slow devices with digits of their own
#
# Devices of one kind may have owners of one kind, and data of one kind. Below, each client has as many examples as
# before, and the slower it is, the larger are its digits, with much overlap. The share of each digit that lies with
# clients who are late for the deadline:

# %%
rng = np.random.default_rng(0)
by_label = np.argsort(arrays["y"] + 2.0 * rng.normal(size=len(arrays["y"])), kind="stable")
by_speed = np.argsort(takes)
owner = np.empty(len(by_label), int)
owner[by_label] = np.repeat(by_speed, sizes[by_speed])  # as many examples each as before
tied = fl.Population.from_arrays(arrays, client_ids=owner, order=range(NUM_CLIENTS))
late = ~in_time[owner]
print(" | ".join(f"{digit}: {late[np.asarray(arrays['y']) == digit].mean():.0%}" for digit in range(10)))

# %%
apart = race(tied)
table(apart)

# %%
drawn(apart)

# %% [markdown]
# Now time is not all that there is. The deadline, over-selection and Oort save time by leaving out the slow, and do not
# learn what these know: most of 8 and 9 are wrong, and the accuracy levels off. Waiting for all brings them in, late,
# and with ups and downs from round to round. Partial work repairs the deadline, and costs no time: a slow client sends
# fewer steps, but of its own digits.
#
# FedBuff is soon again, and takes everybody's message in the end. FedAsync should do so as well, and hardly learns 8
# and 9 within this time. Its weights are why: it steps with every message, so that one from a slow client is hundreds
# of steps old when it comes, and `polynomial(0.5)` leaves less than a tenth of it. The same without weights by age:

# %%
if not SMALL:
    all_alike = fl.systems.fed_async(AT_WORK, service=kept_busy["service"])
    name = "FedAsync, age does not count"
    servers[name] = (all_alike, *servers["FedAsync"][1:])
    players = {name: player_of(all_alike, *servers[name][2:])}
    apart |= race(tied)
table({name: runs for name, runs in apart.items() if name.startswith("Fed")})

# %% [markdown]
# What is right for a model that grows old, counting old updates less, is wrong for clients who are slow and unlike the
# others. Which of the two matters more is a question to the data, and the reason why a table of seconds should say who
# was slow.
#
# ## Where to go next
#
# - [A clock](../docs/clock.md): how the clock works, what cannot be meant, options of the command line
# - [Time to accuracy](../docs/reproductions.md#time-to-accuracy-clock): MNIST with 1,000 clients, by one command
# - [Dropouts, stragglers, a day](../docs/how_to/availability.md): the same by rounds, without a clock
# - [Unlike clients, and models of their own](04_heterogeneity_and_personalization.ipynb)
