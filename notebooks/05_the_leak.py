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
# # The leak, and what closes it
#
# Federated learning keeps data on the device and sends *updates*. You will put images together again from what one
# client sends; then hide every single message behind masks, of which the sum is bit for bit what it was; then see that
# the sum itself still leaks, and what noise does about that. It takes about a minute on two CPU cores; MNIST is used
# where it is prepared (`FEDJAXLITE_DATA`), the digits of scikit-learn otherwise. Run it against your own model before
# somebody else does.

# %%
# # %pip install "fedjaxlite[privacy]"  # in a clone of the repository: %pip install "..[privacy]"

# %%
# %matplotlib inline
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import fedjaxlite as fl
from fedjaxlite import algorithms, privacy
from fedjaxlite.privacy import attacks
from fedjaxlite.reproduce.studies.leak_views import as_floats, smooth_cnn, through

try:
    fl.use_cpu_cores()  # on a CPU every core becomes a device; this comes before anything else in JAX
except RuntimeError:
    print("JAX has started in this kernel already: restart it to train on every core.")
platform = jax.default_backend()
print(f"fedjaxlite {fl.__version__}, jax {jax.__version__}: {jax.devices()}")
print("This runs on the CPU." if platform == "cpu" else f"This runs on an accelerator ({platform.upper()}).")

# %%
SMALL = bool(os.environ.get("FEDJAXLITE_SMALL"))  # the repository's tests run every notebook in seconds
COHORT, SEARCHED, STEPS, HIDDEN = (4, 1, 3, 16) if SMALL else (8, 3, 150, 64)
try:
    _, test = fl.datasets.load("digits" if SMALL else "mnist")
except FileNotFoundError:
    _, test = fl.datasets.load("digits")
x, y = jnp.asarray(test["x"][:COHORT]), jnp.asarray(test["y"][:COHORT])
shape = x.shape[1:]
print(f"{COHORT} images of shape {shape}, one for each client")


# %% [markdown]
# ## One client, one image: no search needed
#
# The gradient of a linear layer `z = x W + b` is `dW = x (dL/dz)` and `db = dL/dz`: each column of `dW` is the input,
# times a number that is in `db`. Divide, and there is the image. This stays exact over any number of local steps on one
# image, whatever the learning rate and the clip norm. Here each client trains for five epochs and sends its delta.


# %%
def scored(found, originals):
    """The reconstructions cut to [0, 1], with their PSNR in dB for a caption."""
    found = np.clip(np.asarray(found).reshape(originals.shape), 0, 1)
    values = [float(attacks.psnr(a, b)) for a, b in zip(found, originals, strict=True)]
    return found, ["exact" if value > 60 else f"{value:.0f} dB" for value in values]


mlp = fl.models.mlp(features=(HIDDEN, 10), input_shape=shape)
loss_fn, params = attacks.soft_cross_entropy(mlp), mlp.init(jax.random.key(0))
client = attacks.local_update(loss_fn, learning_rate=0.1, epochs=5, batch_size=1)
updates = jax.jit(jax.vmap(client, in_axes=(None, 0, 0)))(params, x[:, None], y[:, None])
layer = updates["dense_0"]
pictures, captions = {"held by the client": x}, {}
pictures["from its update"], captions["from its update"] = scored(
    jax.vmap(attacks.invert_linear)(layer["kernel"], layer["bias"]), x
)
fl.plots.reconstructions(pictures, captions=captions)

# %% [markdown]
# The label is no secret either: under cross entropy only its own entry of the last bias goes up.

# %%
guesses = jax.vmap(attacks.idlg_label)(updates["dense_1"]["kernel"])
print("labels", np.asarray(y), "| guessed from the update", np.asarray(guesses))

# %% [markdown]
# ## A client with several images, and a convolutional network
#
# More images in a batch mix, though not well: a ReLU unit that only one of them switches on gives that one away. Every
# unit is a candidate; `match` pairs candidates with originals for scoring. And where no layer gives the input away in
# closed form, a search finds data whose update *looks like* the one that was seen: deep leakage from gradients (DLG,
# Zhu et al. 2019), on a small smooth CNN.

# %%
batch = attacks.gradient_update(loss_fn)(params, x, y)["dense_0"]
candidates = np.asarray(attacks.linear_candidates(batch["kernel"], batch["bias"]).inputs).reshape(-1, *shape)
pairs = attacks.match(np.clip(candidates, 0, 1), x)
rows, texts = {"held by one client": x}, {}
rows["from its one update"], texts["from its one update"] = scored(candidates[pairs.rows], x)
fl.plots.reconstructions(rows, captions=texts, title=f"{COHORT} images in one batch")

# %%
cnn = smooth_cnn(shape)
weights = cnn.init(jax.random.key(1))
update_fn = attacks.gradient_update(attacks.soft_cross_entropy(cnn))
search = attacks.dlg(update_fn, shape=(1, *shape), steps=STEPS)
keys = jax.random.split(jax.random.key(2), SEARCHED)


def attack(victim):
    image, label, key = victim
    target = update_fn(weights, image[None], label[None])
    return search(weights, target, key, label[None]).x[0]


found = jax.jit(lambda victims: jax.lax.map(attack, victims))((x[:SEARCHED], y[:SEARCHED], keys))
rows, texts = {"held by the client": x[:SEARCHED]}, {}
rows["found by search"], texts["found by search"] = scored(found, x[:SEARCHED])
fl.plots.reconstructions(rows, captions=texts)

# %% [markdown]
# ## Secure aggregation: the server sees a sum
#
# Clients agree on masks that cancel in the sum. What a client sends is then a string of random bits, and the server
# learns the sum and nothing else. In a chain it is the last codec: quantize to integers, multiply by the weight, add
# the masks mod 2^32. `through` sends the updates of above (each as one long vector) through a chain as a round would,
# and returns each message and what the server decodes.

# %%
clip = fl.clip_by_global_norm(8.0)
masked_chain = fl.chain(fl.mean(over=COHORT), clip, privacy.secure_sum(bits=16))
plain_chain = fl.chain(fl.mean(over=COHORT), clip, fl.quantize(bits=16))
vectors = jax.vmap(lambda update: ravel_pytree(update)[0])(updates)
unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], updates))[1]
send = jax.jit(lambda vectors, key: (through(masked_chain, vectors, key), through(plain_chain, vectors, key)))
(masked, masked_mean), (quantized, plain_mean) = send(vectors, jax.random.key(3))
same = bool((masked_mean == plain_mean).all())
print("what the server decodes, with and without masks, in every bit the same:", same)

# %%
figure = Figure(figsize=(11, 3), layout="constrained")
for axes, (title, sent) in zip(figure.subplots(1, 2), (("without masks", quantized), ("masked", masked)), strict=True):
    words = np.asarray(sent[0]).view(np.int32)
    axes.hist(words, bins=np.linspace(-(2**31), 2**31, 33), color="0.5", edgecolor="black")
    axes.set(title=f"the words of one message, {title}", xlabel="value, as a signed integer", ylabel="words")
figure

# %% [markdown]
# A masked message is uniform over all words: the same attack on it returns noise, and would whatever the image was.

# %%
hidden = jax.vmap(lambda words: unravel(as_floats(words)))(masked)["dense_0"]
pictures["from a masked message"], captions["from a masked message"] = scored(
    jax.vmap(attacks.invert_linear)(hidden["kernel"], hidden["bias"]), x
)
fl.plots.reconstructions(pictures, captions=captions)

# %% [markdown]
# In a run it is one argument, and costs no accuracy: the trained models are equal bit for bit. (`masking="algebraic"`
# leaves out what cancels and gives the same bits faster.)

# %%
train, _ = fl.datasets.load("digits", partition=fl.partition.iid(40, seed=0))
small = fl.models.logistic(num_classes=10, input_shape=(8, 8, 1))
algorithm = algorithms.fed_avg(fl.losses.cross_entropy(small), client_optimizer=optax.sgd(0.1), batch_size=10)
trained = {}
for name, chain in {"masked": masked_chain, "plain": plain_chain}.items():
    rounds = fl.rounds(algorithm, sampler=fl.sampling.uniform(COHORT), aggregator=chain)
    state = rounds.init(small.init(jax.random.key(0)), train, key=jax.random.key(1))
    trained[name] = rounds.steps(state, train, 3)[0].params
equal = jax.tree.map(lambda a, b: bool((a == b).all()), trained["masked"], trained["plain"])
print("models after three rounds, with and without masks, in every bit the same:", all(jax.tree.leaves(equal)))

# %% [markdown]
# ## The sum still leaks; noise bounds it
#
# Masks hide *who* sent what, not what is in the sum. The sum of a small cohort is attacked like the update of one
# client with as many images. Differential privacy bounds what any attack can learn of one client: clip every update,
# add noise to the sum (`privacy.gaussian`; `privacy.skellam` lets clients add it below the masks, so that nobody ever
# sees the sum without it). The rows below differ in the noise multiplier z alone.

# %%
rows, texts = {"held by the clients": x}, {}


def attack_sum(name, mean):
    """The candidates of the summed first layer, matched with the originals."""
    inputs = attacks.linear_candidates(mean["dense_0"]["kernel"], mean["dense_0"]["bias"]).inputs
    candidates = np.clip(np.asarray(inputs).reshape(-1, *shape), 0, 1)
    rows[name], texts[name] = scored(candidates[attacks.match(candidates, x).rows], x)


attack_sum("from the secure sum", unravel(masked_mean))
for z in (0.01, 0.1, 1.0):
    noised = fl.chain(fl.mean(over=COHORT), privacy.gaussian(clip_norm=1.0, noise_multiplier=z))
    attack_sum(f"sum with noise, z = {z:g}", unravel(through(noised, vectors, jax.random.key(4))[1]))
fl.plots.reconstructions(rows, captions=texts)

# %% [markdown]
# What z means is a matter of accounting, not of pictures: an attack that fails shows nothing, a bound holds for all of
# them. The epsilon of one such sum, at delta = 1e-5:

# %%
for z in (0.01, 0.1, 1.0, 4.0):
    print(f"z = {z:<5g} epsilon = {privacy.gaussian_epsilon(noise_multiplier=z, delta=1e-5):.3g}")

# %% [markdown]
# ## What remains
#
# - A round's sum of very few clients: the protocol refuses it below a threshold (`min_survivors`).
# - Differences between rounds: the sum with a client and the sum without it. Only noise bounds those.
# - What the finished model knows of its training data: noise again, over all rounds. The next notebook adds them up.
# - Here the simulator holds all keys. The protocol between processes, with real keys and clients that die midway, is
# `privacy.secagg`; `python -m fedjaxlite.privacy.secagg.demo` runs it.
#
# ## Where to go next
#
# - [Privacy accounting and audit](06_privacy_accounting_and_audit.ipynb)
# - [Privacy](../docs/privacy.md): all mechanisms, who has to be trusted, and these attacks with intervals
