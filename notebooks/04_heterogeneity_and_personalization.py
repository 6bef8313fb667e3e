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
# # Unlike clients, and models of their own
#
# Clients are never alike. You will see ways in which they differ, drawn; what that does to federated averaging; two
# corrections of it (FedProx, SCAFFOLD), each at the best of several learning rates and with seeds run side by side; and
# then the other answer, a model for every client, judged by the whole distribution over clients rather than by its
# mean. It takes about a minute and a half on two CPU cores and uses the digits of scikit-learn.

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
from fedjaxlite import algorithms
from fedjaxlite.reproduce import seeds
from fedjaxlite.reproduce.papers.karimireddy2020 import similar

try:
    fl.use_cpu_cores()  # on a CPU every core becomes a device; this comes before anything else in JAX
except RuntimeError:
    print("JAX has started in this kernel already: restart it to train on every core.")
platform = jax.default_backend()
print(f"fedjaxlite {fl.__version__}, jax {jax.__version__}: {jax.devices()}")
print("This runs on the CPU." if platform == "cpu" else f"This runs on an accelerator ({platform.upper()}).")

# %%
SMALL = bool(os.environ.get("FEDJAXLITE_SMALL"))  # the repository's tests run every notebook in seconds
NUM_CLIENTS, NUM_ROUNDS, NUM_SEEDS, RATES = (10, 3, 2, (0.3,)) if SMALL else (50, 60, 5, (0.3, 1.0, 3.0))
NUM_PEOPLE, HIDDEN, PERSONAL_ROUNDS = (9, 8, 2) if SMALL else (30, 32, 30)

# %% [markdown]
# ## Ways to differ
#
# Bubbles are counts of labels, client by class. The same examples, dealt in four ways: at random; in mixes from a
# Dirichlet distribution; sorted by label and cut into two shards a client, as in McMahan et al. (2017); alike in labels
# but not in size. Total variation is the share of a client's labels that would have to change to make its mix that of
# all clients together.

# %%
arrays, test = fl.datasets.load("digits")
partitions = {
    "iid": fl.partition.iid(20, seed=0),
    "dirichlet, alpha = 0.1": fl.partition.dirichlet(20, alpha=0.1, seed=0),
    "two shards a client": fl.partition.label_shards(20, shards_per_client=2, seed=0),
    "sizes": fl.partition.quantity(20, seed=0),
}
figure = Figure(figsize=(11, 7.5), layout="constrained")
for axes, (name, partition) in zip(figure.subplots(2, 2).flat, partitions.items(), strict=True):
    population = fl.datasets.federate(arrays, partition)
    fl.plots.partition(population, axes=axes)
    measured = fl.heterogeneity(population)
    unlike = f"total variation {measured.total_variation_mean:.2f}, Gini of sizes {measured.size_gini:.2f}"
    axes.set_title(f"{name}: {unlike}", fontsize=10)
figure

# %% [markdown]
# ## Drift
#
# A client that trains for long on its own data walks towards its own optimum, and the mean of such walks is not a walk
# towards everybody's. FedProx holds clients back by a pull towards the shared model; SCAFFOLD has clients keep a
# *control variate*, an estimate of how their gradient differs from everybody's, and corrects every local step by it (at
# the price of twice the traffic).
#
# `seeds.player` runs several seeds of one run as one vmapped program, and takes learning rates as traced numbers, so
# that all rates share one compilation. Each method is shown at its best rate by mean accuracy over all rounds; the
# bands are 95 % intervals over seeds.

# %%
logistic = fl.models.logistic(num_classes=10, input_shape=(8, 8, 1))
loss_fn = fl.losses.cross_entropy(logistic)
local = {"batch_size": 6, "epochs": 5}
methods = {
    "FedAvg": lambda rate: algorithms.fed_avg(loss_fn, client_optimizer=optax.sgd(rate), **local),
    "FedProx, mu = 0.1": lambda rate: algorithms.fed_prox(loss_fn, mu=0.1, client_optimizer=optax.sgd(rate), **local),
    "SCAFFOLD": lambda rate: algorithms.scaffold(loss_fn, num_clients=NUM_CLIENTS, client_lr=rate, **local),
}


def play_of(make):
    """Plays the seeds of one method: `play(rate, population, num_seeds)`."""

    def rounds(rate):
        sampler = fl.sampling.uniform(NUM_CLIENTS // 5)
        return fl.rounds(make(rate), sampler=sampler, aggregator=fl.weighted_mean(), execution=seeds.ONE)

    accuracy = seeds.accuracy_of(logistic, test)
    return seeds.player(rounds, logistic.init, num_rounds=NUM_ROUNDS, measure=accuracy)


plays = {name: play_of(make) for name, make in methods.items()}
found = {}
for share in (1.0, 0.0):
    population = fl.datasets.federate(arrays, similar(NUM_CLIENTS, share))
    for name, play in plays.items():
        curves = {rate: np.asarray(play(rate, population, NUM_SEEDS)[1]) for rate in RATES}
        best = max(curves, key=lambda rate, curves=curves: curves[rate].mean())
        found[share, name] = f"{name} (rate {best:g})", curves[best]

# %%
figure = Figure(figsize=(13, 4), layout="constrained")
for axes, (share, title) in zip(
    figure.subplots(1, 2), ((1.0, "clients alike"), (0.0, "clients sorted by label")), strict=True
):
    fl.plots.curves(dict(found[share, name] for name in methods), axes=axes)
    axes.set(title=title, ylim=(0.4, 1))
figure

# %% [markdown]
# With clients that are alike the three hardly differ: there is no drift to correct. Sorted by label, federated
# averaging is slower, and its accuracy jumps with who was drawn; the control variates take most of that away. The
# proximal term does not help here.
#
# ## A model for every client
#
# If clients differ in *what the right answer is*, no shared model serves them all. Here each client has some of the
# digits, turned by an angle of its own, and is tested on held-out images of its own. Training alone is what federation
# has to beat; one shared model is what personal models have to beat.

# %%
rotated = fl.partition.feature_rotation(fl.partition.dirichlet(NUM_PEOPLE, alpha=0.5, seed=0))
everyone = fl.datasets.federate(arrays, rotated)
people, newcomers = fl.partition.holdout_clients(everyone, fraction=1 / 3, seed=0)  # for the end of this page
train, held_out = fl.partition.train_test_split(people, test_fraction=0.3, seed=0)
mlp = fl.models.mlp(features=(HIDDEN, 10), input_shape=(8, 8, 1))
loss_fn, params = fl.losses.cross_entropy(mlp), mlp.init(jax.random.key(0))
local = {"client_optimizer": optax.sgd(0.05), "batch_size": 10, "epochs": 5}
fed_avg = algorithms.fed_avg(loss_fn, **local)
personal = {
    "FedAvg": fed_avg,
    "FedAvg, fine-tuned": algorithms.fine_tuned(fed_avg, loss_fn, **local),
    "Ditto": algorithms.ditto(loss_fn, lam=0.1, **local),
    "FedPer (own last layer)": algorithms.fed_per(loss_fn, personal=algorithms.last_layer(mlp), **local),
    "alone": algorithms.fed_per(loss_fn, personal=lambda path, leaf: path != ("dense_1", "bias"), **local),
}

# %% [markdown]
# (Training alone is spelled here as FedPer in which everything is personal but the ten numbers of the last bias, since
# a federation in which nothing is shared would be refused.) Personal models live in the client states of the run's
# state; `evaluate_clients(..., rounds=...)` tests every client with its own.

# %%
reports, sizes, models = {}, {}, {}
for name, algorithm in personal.items():
    rounds = fl.rounds(algorithm, sampler=fl.sampling.uniform(train.num_clients // 2), aggregator=fl.weighted_mean())
    state = rounds.init(params, train, key=jax.random.key(1))
    sizes[name] = rounds.traffic(params, train).up
    state, _ = rounds.steps(state, train, PERSONAL_ROUNDS)
    reports[name] = fl.evaluate_clients(mlp, held_out, rounds=rounds)(state)
    models[name] = rounds.params(state)
print(f"{'':<24} {'mean':>6} {'worst tenth':>12} {'bytes up':>9}")
for name, report in reports.items():
    summary = report.summary()
    mean, worst = summary["accuracy_mean"], summary["accuracy_worst10"]
    print(f"{name:<24} {mean:>6.3f} {worst:>12.3f} {sizes[name]:>9,}")

# %%
fl.plots.clients(reports)

# %% [markdown]
# On average over clients the shared model is the worst of them. How much the others gain over training alone, and
# whether those who are served worst gain too, is in the table and at the left end of the figure; it is one seed of a
# small problem. Five seeds with intervals are on the page of
# [algorithms](../docs/algorithms.md#personal-models-personalization).
#
# ## Clients who come later
#
# A client that was never in the federation has no personal model yet. It can take the shared one and train it on its
# own data. A third of the clients were held out above: here they are, before and after five epochs of their own.

# %%
own_train, own_test = fl.partition.train_test_split(newcomers, test_fraction=0.3, seed=0)
tune = fl.evaluate_personalized(mlp, own_train, own_test, client_optimizer=optax.sgd(0.05), batch_size=10, epochs=5)
before, after = tune(models["FedAvg"])
fl.plots.clients({"the shared model": before, "tuned": after})

# %% [markdown]
# ## Where to go next
#
# - [Algorithms](../docs/algorithms.md): what each method sends and keeps, and the claims of the papers run again
# - [What a client's update gives away](05_the_leak.ipynb)
# - [Devices that come and go](08_devices_that_come_and_go.ipynb): unlike clients who are also not there alike
