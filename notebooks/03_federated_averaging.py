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
# # Federated averaging, step by step
#
# You will draw the seven steps of federated learning, call each of them by hand, and see that `rounds.step` computes
# the same. Then the three knobs of [McMahan et al. (2017)](https://arxiv.org/abs/1602.05629): the fraction of clients
# C, the local epochs E and the batch size B, and how many rounds they save. Takes about a minute on two CPU cores.
# MNIST is used where it is [prepared](../README.md#command-line) (`FEDJAXLITE_DATA`), the digits of scikit-learn
# otherwise.

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
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

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
NUM_CLIENTS, HIDDEN, NUM_ROUNDS = (8, 16, 3) if SMALL else (100, 64, 30)
NUM_EXAMPLES = 400 if SMALL else 10_000 if platform == "cpu" else 60_000

# %% [markdown]
# ## The seven steps


# %%
def draw_steps() -> Figure:
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 10), ylim=(0, 5))
    axes.axis("off")

    def box(x, y, wide, high, text, color):
        style = {"boxstyle": "round,pad=0.05", "facecolor": color, "edgecolor": "black"}
        axes.add_patch(FancyBboxPatch((x, y), wide, high, **style))
        axes.text(x + wide / 2, y + high / 2, text, ha="center", va="center", fontsize=9)

    def arrow(start, end, **style):
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=14, color="black", **style))

    box(
        2.6,
        3.7,
        4.8,
        1.0,
        "server:  1 a generic model\n2 selects clients that are idle, charging and on Wi-Fi",
        "#dbe9f6",
    )
    for place, name in enumerate(("client 17", "client 42", "client 80")):
        left = 0.4 + 3.4 * place
        box(left, 0.3, 2.4, 1.0, f"{name}\n4 trains on its own data", "#e8f3dc")
        arrow((4.1 + 0.6 * place, 3.6), (left + 0.9, 1.42))
        arrow((left + 1.6, 1.42), (4.7 + 0.6 * place, 3.6), linestyle="--")
    axes.text(0.3, 2.6, "3 download\nthe model", fontsize=9)
    axes.text(8.4, 2.6, "5 a summary of changes,\n   encoded (dashed)", fontsize=9)
    axes.text(7.6, 4.1, "6 averages, takes a step", fontsize=9)
    arrow((2.5, 4.0), (2.5, 4.5), connectionstyle="arc3,rad=-2.4")
    axes.text(0.35, 4.15, "7 again and again", fontsize=9)
    return figure


draw_steps()

# %% [markdown]
# ## Data and the run
#
# The pathological split of the paper: examples sorted by label, cut into shards, two shards for each client. Most
# clients hold two digits.


# %%
def load(partition):
    try:
        name = "digits" if SMALL else "mnist"
        arrays, test = fl.datasets.load(name)
    except FileNotFoundError:
        name = "digits"
        arrays, test = fl.datasets.load(name)
    return name, fl.datasets.federate({k: v[:NUM_EXAMPLES] for k, v in arrays.items()}, partition), test


name, train, test = load(fl.partition.label_shards(NUM_CLIENTS, shards_per_client=2, seed=0))
shape = test["x"].shape[1:]
model = fl.models.mlp(features=(HIDDEN, 10), input_shape=shape)
loss_fn = fl.losses.cross_entropy(model)
algorithm = algorithms.fed_avg(loss_fn, client_optimizer=optax.sgd(0.1), batch_size=10, epochs=1)
sampler, aggregator = fl.sampling.uniform(3), fl.weighted_mean()
rounds = fl.rounds(algorithm, sampler=sampler, aggregator=aggregator)
print(name, train)

# %% [markdown]
# ## Each step by hand
#
# An algorithm is functions, and so are a sampler and an aggregator: they can be called.
#
# **1, a generic model.** The server starts from a model. A state holds it, the round number and the run's keys.

# %%
params = model.init(jax.random.key(0))
state = rounds.init(params, train, key=jax.random.key(1))
server = algorithm.init(params)
print("round", int(state.round), "| parameters", fl.models.num_params(params))

# %% [markdown]
# **2, selection.** The sampler draws a cohort from the sampling key and the round's number. It has slots for who was
# `selected`, and says who `reported` and how much of the work each got done (here everyone, and all).

# %%
cohort = sampler.sample(state.keys.sample, state.round, train)
print("ids", cohort.ids, "| reported", cohort.reported, "| share of the work", cohort.work)

# %% [markdown]
# **3, download.** What a client gets is what the algorithm broadcasts: for federated averaging the parameters, and none
# of the server optimizer's state.

# %%
shared = (algorithm.broadcast or algorithm.params)(server)
print("bytes down:", sum(leaf.nbytes for leaf in jax.tree.leaves(shared)))
print("as `rounds` derives it:", rounds.traffic(params, train))

# %% [markdown]
# **4, local training.** `client_update` gets a client's view of its own examples: its rows in the packed arrays, and a
# key that is a function of the run's key, the round and the client's id, and of nothing else. Its output is a *delta*,
# server minus client, and a weight.

# %%
round_key = jax.random.fold_in(state.keys.client, state.round)


@jax.jit
def client_update(shared, client):
    data = fl.client_view(train, client, key=jax.random.fold_in(round_key, client))
    return algorithm.client_update(shared, (), data, None)


outputs = [client_update(shared, client) for client in cohort.ids]
for client, output in zip(cohort.ids, outputs, strict=True):
    delta, loss = float(fl.global_norm(output.update)), float(output.info["loss"])
    print(f"client {client}: weight {output.weight}, length of the delta {delta:.3f}, mean loss {loss:.3f}")

# %% [markdown]
# **5, a summary of changes.** The aggregator encodes a client's output into a message. A weighted mean sends
# the delta and its weight; a chain of codecs could clip, quantize, compress, add noise or mask here.

# %%
chain = fl.chain(aggregator)
codec_state, wire = chain.init(fl.wire_of(outputs[0].update, capacity=3))


def encode(output, client):
    about = fl.ClientInfo(client, jnp.float32(1), jax.random.key(0), jnp.bool_(True))
    message = fl.Message(output.update, jnp.asarray(output.weight, jnp.float32), {})
    return chain.encode(codec_state, ((),), message, about)[0], about


messages = [encode(output, client) for output, client in zip(outputs, cohort.ids, strict=True)]
print("what travels:", jax.tree.map(lambda leaf: leaf.shape, messages[0][0].value), "and a weight")

# %% [markdown]
# **6, aggregation.** The server reads each message, which here means: delta times weight. It sums what it read, decodes
# the sum into a mean, and takes a step along it.

# %%
summands = [chain.read(codec_state, message, about) for message, about in messages]
total = jax.tree.map(lambda *leaves: sum(leaves), *summands)
aggregate, _ = chain.decode(codec_state, total, jax.random.key(0))
by_hand = algorithm.server_update(server, aggregate._replace(num_clients=jnp.int32(3)), jax.random.key(0))
print("clients in the sum: 3 | total weight", float(aggregate.weight))

# %% [markdown]
# **7, again and again.** That is a round. `rounds.step` is these functions in one XLA program, with clients in lanes
# and on devices; the models agree up to the rounding of floats, whose sums come in another order.

# %%
state, info = rounds.step(state, train)
differences = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), by_hand.params, state.params)
moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), params, state.params)
largest, move = max(jax.tree.leaves(differences)), max(jax.tree.leaves(moved))
print(f"largest difference {largest:.1e}, where the round moved the model by {move:.1e}")
print("the same, up to rounding:", largest < 1e-3 * move)

# %% [markdown]
# ## What E, B and C buy
#
# Rounds are what is dear in federated learning: a phone is rarely free, and its uplink is slow. The paper's question is
# how many rounds are left if clients compute more in each. FedSGD is the baseline, one full-batch step a round; more
# epochs E and smaller batches B are more local steps. All runs below start from the same model, with one learning rate
# for each B that was chosen by hand. The first four are on clients that are alike, where local work helps most; the
# other three on the clients from above.

# %%
accuracy = seeds.accuracy_of(model, test)


def curve(people, client_fraction, epochs, batch_size):
    """Test accuracy after every round, for a fraction C of clients, E and B."""
    rate = 0.1 if batch_size else 0.5
    algorithm = algorithms.fed_avg(loss_fn, client_optimizer=optax.sgd(rate), batch_size=batch_size, epochs=epochs)
    sampler = fl.sampling.uniform(max(1, round(client_fraction * NUM_CLIENTS)))
    run = fl.rounds(algorithm, sampler=sampler, aggregator=fl.weighted_mean())
    state, accuracies = run.init(params, people, key=jax.random.key(1)), []
    for _ in range(NUM_ROUNDS):
        state, _ = run.step(state, people)
        accuracies.append(float(accuracy(state.params)))
    return np.asarray(accuracies)


_, alike, _ = load(fl.partition.iid(NUM_CLIENTS, seed=0))
by_work = {
    "FedSGD: E = 1, B = all": curve(alike, 0.1, 1, None),
    "E = 5, B = all": curve(alike, 0.1, 5, None),
    "E = 1, B = 10": curve(alike, 0.1, 1, 10),
    "E = 5, B = 10": curve(alike, 0.1, 5, 10),
}
by_fraction = {f"C = {c:g}": curve(train, c, 1, 10) for c in (0.02, 0.1, 0.5)}

# %%
figure = Figure(figsize=(13, 4), layout="constrained")
left, right = figure.subplots(1, 2)
fl.plots.curves({label: values[None] for label, values in by_work.items()}, axes=left)
fl.plots.curves({label: values[None] for label, values in by_fraction.items()}, axes=right)
left.set_title("more local work (C = 0.1, examples dealt at random)")
right.set_title("more clients a round (E = 1, B = 10, two digits a client)")
figure

# %%
target = 0.2 if SMALL else 0.8
print(f"rounds to a test accuracy of {target:.0%} (nan: not in {NUM_ROUNDS} rounds)")
for label, values in {**by_work, **by_fraction}.items():
    print(f"  {label:<24} {seeds.rounds_to(values, target):>5.0f}")

# %% [markdown]
# Local work saves rounds: more epochs do, and on MNIST smaller batches as well, and both together most of all (clients
# of the digits have too few images for batches of ten to be many steps). More clients a round save rounds too, and make
# the curve smoother, but not in proportion: half of all clients send five times as many updates a round as a tenth of
# them, and do not need a fifth of the rounds. What more local work costs where clients are unlike is the subject of the
# next notebook.
#
# ## Where to go next
#
# - [Unlike clients, and models of their own](04_heterogeneity_and_personalization.ipynb)
# - [Algorithms](../docs/algorithms.md): what each sends and keeps
# - [Privacy](../docs/privacy.md): other aggregators in the place of the mean
# - `fedjaxlite run --dataset mnist ...` trains the paper's 2NN to its target: see the [README](../README.md)
