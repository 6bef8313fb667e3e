"""Programs of small compositions, and a round of devices beside the round that is simulated."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms, compression, models, privacy
from fedjaxlite.deploy.device import program as device
from fedjaxlite.deploy.program.client_program import ClientProgram, client_program
from fedjaxlite.deploy.server.halves import first_state, halves_of, key_of

SIZES = (25, 12, 40)
N = len(SIZES)
KEY, NOISE = 7, 8

CHAINS: dict[str, Callable[[], fl.Aggregator]] = {
    "mean": fl.weighted_mean,
    "quantize": lambda: fl.chain(fl.mean(), fl.clip_by_global_norm(1.0), fl.quantize(bits=16)),
    "mask": lambda: fl.chain(
        fl.weighted_mean(weight_cap=64), fl.clip_by_value(0.5), fl.quantize(bits=14), privacy.mask(min_survivors=2)
    ),
    "feedback": lambda: fl.chain(fl.weighted_mean(), compression.error_feedback(compression.top_k(fraction=0.1))),
}
METHODS: dict[str, Callable[[Any], fl.Algorithm]] = {
    "fed_avg": lambda loss: algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1), batch_size=10, epochs=2),
    "scaffold": lambda loss: algorithms.scaffold(loss, client_lr=0.1, num_clients=N, batch_size=10, epochs=1),
    "ditto": lambda loss: algorithms.ditto(
        loss, client_optimizer=optax.sgd(0.1), personal_optimizer=optax.sgd(0.1), lam=0.5, batch_size=10, epochs=1
    ),
}
MODELS: dict[str, Callable[[], fl.models.Model]] = {
    "logistic": lambda: models.logistic(num_classes=10, input_shape=(8, 8, 1)),
    "2nn": models.mlp,
}


@lru_cache(maxsize=1)
def people() -> fl.Population:
    """The first digits, at three clients."""
    train, _ = fl.datasets.load("digits")
    total = sum(SIZES)
    return fl.Population.from_arrays({n: a[:total] for n, a in train.items()}, np.repeat(np.arange(N), SIZES))


@lru_cache(maxsize=4)
def model_of(name: str) -> tuple[fl.models.Model, Any]:
    model = MODELS[name]()
    return model, model.init(jax.random.key(3))


@lru_cache(maxsize=16)
def composed(model: str, method: str, chain: str, lanes: int = 1) -> fl.Rounds:
    loss = fl.losses.cross_entropy(model_of(model)[0])
    everyone, one = fl.sampling.full(N), fl.Execution(lanes=lanes, devices=1)
    return fl.rounds(METHODS[method](loss), sampler=everyone, aggregator=CHAINS[chain](), execution=one)


@lru_cache(maxsize=16)
def program_of(model: str, method: str, chain: str) -> ClientProgram:
    return client_program(composed(model, method, chain), model_of(model)[1], people())


def simulated(rounds: fl.Rounds, params: Any, num_rounds: int = 2) -> fl.RoundState:
    state = rounds.init(params, people(), key=jax.random.key(KEY), noise_key=jax.random.key(NOISE))
    for _ in range(num_rounds):
        state, _ = rounds.step(state, people())
    return state


Runner = Callable[[list[Any], list[Any] | None, dict[str, Any], int, Any, int], tuple[list[Any], list[Any]]]


def here(program: ClientProgram) -> Runner:
    """The program in this process."""

    def run(download: Any, state: Any, features: Any, num: int, key: Any, client: int) -> tuple[list[Any], list[Any]]:
        result = device.run(program.loaded, download, state, features, num, key, client=client)
        assert result.finite
        assert set(result.info) == set(program.manifest["info"])
        return result.message, result.state

    return run


def deployed(program: ClientProgram, params: Any, run: Runner, num_rounds: int = 2) -> tuple[fl.RoundState, list[Any]]:
    """A run whose clients are programs, and what the clients keep after it."""
    template = program.template
    server = halves_of(template)
    state = first_state(template, params, key=jax.random.key(KEY), noise_key=jax.random.key(NOISE))
    kept: list[Any] = [None] * N
    for _ in range(num_rounds):
        opened, total, words = server.begin(state), server.nothing(), 0
        download = [np.asarray(leaf) for leaf in opened.download]
        for client in np.argsort(SIZES)[::-1].tolist():  # as one lane does: floats are added in its order
            key = np.uint32(key_of(opened, client))
            own = {name: np.asarray(array) for name, array in people().client(client).items()}
            message, kept[client] = run(download, kept[client], own, SIZES[client], key, client)
            if template.masked:
                words = words + message[0]
            else:
                part, fine = server.read(state, message, client)
                assert bool(fine)
                total = server.add(total, part, client)
        if template.masked:
            total = server.of_sum(words)
        state, _ = server.close(state, total, np.arange(N, dtype=np.int32), np.ones(N, bool))
    return state, kept


def difference(one: Any, other: Any) -> float:
    """The largest difference between two trees."""
    wide = lambda leaf: np.asarray(leaf).astype(np.float64)  # noqa: E731
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max((float(np.max(np.abs(wide(a) - wide(b)), initial=0.0)) for a, b in pairs), default=0.0)
