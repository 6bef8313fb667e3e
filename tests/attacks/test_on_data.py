"""Attacks on data: whose batches change and how, in any algorithm, and that a program without them is the same."""

from functools import lru_cache
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms, attacks

SIZES = (5, 3, 8, 1, 6, 4)
CLASSES = 4


@lru_cache
def people(sizes: tuple[int, ...] = SIZES) -> fl.Population:
    """Clients with features of their own and labels of four classes."""
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    x = rng.normal(size=(len(owner), 3)).astype(np.float32)
    return fl.Population.from_arrays({"x": x, "y": rng.integers(0, CLASSES, len(owner))}, client_ids=owner)


def watcher(batch_size: int = 8, **options: Any) -> fl.Algorithm:
    """An algorithm whose clients send their first batch."""

    def client_update(shared: Any, own: Any, data: fl.ClientData, key: Any) -> fl.ClientOutput:
        batches = data.batches(batch_size=batch_size, epochs=1, **{"shuffle": False, **options})
        return fl.ClientOutput(batches.batch(jnp.int32(0))[0], client_state=own)

    return fl.Algorithm(lambda params: params, client_update, lambda state, aggregate, key: state, name="watcher")


def seen(algorithm: fl.Algorithm, client: int, seed: int = 0, data: fl.Population | None = None) -> dict[str, Any]:
    """A client's first batch as its program sees it, real rows only."""
    view = fl.client_view(people() if data is None else data, client, key=jax.random.key(seed))
    batch = algorithm.client_update({}, (), view, jax.random.key(seed)).update
    return {name: np.asarray(array)[np.asarray(batch["mask"])] for name, array in batch.items()}


def loss(params: Any, batch: Any, key: Any) -> jax.Array:
    """Cross entropy of a linear model, `[B]`."""
    logits = batch["x"] @ params["w"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])


def params() -> dict[str, jax.Array]:
    return {"w": jnp.zeros((3, CLASSES))}


def averaging() -> fl.Algorithm:
    return algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1), batch_size=4, epochs=1)


def flipped_population() -> fl.Population:
    """The population whose clients 1 and 4 have flipped labels themselves."""
    data = people()
    owner = np.repeat(np.arange(len(SIZES)), SIZES)
    labels = np.where(np.isin(owner, (1, 4)), CLASSES - 1 - data.features["y"], data.features["y"])
    return fl.Population.from_arrays({"x": data.features["x"], "y": labels}, client_ids=owner)


class TestChange:
    def test_a_change_reaches_batches_in_every_way_they_are_drawn(self) -> None:
        view = fl.client_view(people(), 2, key=jax.random.key(3))
        double = view.with_change(lambda batch, examples, key: {**batch, "x": 2 * batch["x"]})
        plain, changed = (each.batches(batch_size=3, epochs=1) for each in (view, double))
        add = lambda total, batch, mask, key: total + jnp.where(mask[:, None], batch["x"], 0.0).sum(0)  # noqa: E731
        total, doubled = jax.jit(lambda: [each.scan(add, jnp.zeros(3)) for each in (plain, changed)])()
        assert np.allclose(doubled, 2 * total, atol=1e-6)
        assert np.allclose(total, people().client(2)["x"].sum(0), atol=1e-5)
        assert (changed.batch(1)[0]["x"] == 2 * plain.batch(1)[0]["x"]).all()
        assert (changed.batch(1)[0]["y"] == plain.batch(1)[0]["y"]).all()

    def test_it_knows_which_examples_it_has(self) -> None:
        told = lambda batch, examples, key: {**batch, "x": batch["x"] * 0 + examples[:, None].astype(jnp.float32)}  # noqa: E731
        view = fl.client_view(people(), 2, key=jax.random.key(3))
        x, plain = (v.batches(batch_size=8, epochs=1).batch(0)[0]["x"] for v in (view.with_change(told), view))
        assert (people().client(2)["x"][np.asarray(x[:, 0], int)] == plain).all()

    def test_the_first_of_two_changes_comes_first_and_keys_differ(self) -> None:
        keys = []

        def change(factor: float, term: float) -> Any:
            def changed(batch: Any, examples: Any, key: Any) -> Any:
                keys.append(tuple(jax.random.key_data(key).tolist()))
                return {**batch, "x": factor * batch["x"] + term}

            return changed

        view = fl.client_view(people(), 0, key=jax.random.key(0))
        twice = view.with_change(change(1.0, 1.0)).with_change(change(2.0, 0.0))
        twice = twice.batches(batch_size=5, epochs=1, shuffle=False)
        x = [twice.batch(step)[0]["x"] for step in (0, 1)]
        assert np.allclose(x[0], 2 * (people().client(0)["x"] + 1), atol=1e-6)
        assert len(set(keys)) == 4  # of each change and each step another

    def test_another_population_is_not_changed(self) -> None:
        view = fl.client_view(people(), 0, key=jax.random.key(0)).with_change(lambda batch, examples, key: {})
        assert view.of(people()).batches(batch_size=5, epochs=1).batch(0)[0]["x"].shape == (5, 3)

    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            (lambda b, e, k: {"x": b["x"]}, TypeError, r"is a dict of \['x'\]; expected a dict of \['x', 'y'\]"),
            (lambda b, e, k: b["x"], TypeError, r"is a \w+; expected a dict of \['x', 'y'\]"),
            (lambda b, e, k: {**b, "x": b["x"][:2]}, ValueError, r"the shape \[2, 3\] at 'x'; expected 5 rows"),
            (lambda batch: batch, TypeError, r"`change`.*a function of \(batch, examples, key\)"),
        ],
    )
    def test_what_it_may_return(self, change: Any, error: type[Exception], words: str) -> None:
        view = fl.client_view(people(), 0, key=jax.random.key(0))
        with pytest.raises(error, match=words):
            view.with_change(change).batches(batch_size=5, epochs=1).batch(0)


class TestLabelFlip:
    def test_labels_of_bad_clients_turn_around_and_nothing_else(self) -> None:
        attacked = attacks.label_flip(watcher(), [1, 4], num_classes=CLASSES)
        for client in range(len(SIZES)):
            own, clean = seen(attacked, client), seen(watcher(), client)
            assert (own["x"] == clean["x"]).all()
            bad = client in (1, 4)
            assert (own["y"] == (CLASSES - 1 - clean["y"] if bad else clean["y"])).all()

    def test_a_mapping_names_the_classes(self) -> None:
        attacked = attacks.label_flip(watcher(), jnp.arange(6) == 2, num_classes=CLASSES, mapping={0: 3, 2: 1})
        own, clean = seen(attacked, 2)["y"], seen(watcher(), 2)["y"]
        assert own.tolist() == [{0: 3, 1: 1, 2: 1, 3: 3}[label] for label in clean.tolist()]

    def test_labels_that_are_no_class_stay(self) -> None:
        data = fl.Population.from_arrays({"y": np.int32([0, -1, 7, 3])}, client_ids=[0, 0, 0, 0])
        own = seen(attacks.label_flip(watcher(), [0], num_classes=CLASSES), 0, data=data)
        assert own["y"].tolist() == [3, -1, 7, 0]

    @pytest.mark.parametrize("fraction", [0.2, 0.5, 1.0])
    def test_the_share_is_exact_and_the_same_in_every_round(self, fraction: float) -> None:
        attacked = attacks.label_flip(watcher(), range(6), num_classes=CLASSES, fraction=fraction)
        for client, size in enumerate(SIZES):
            rounds = [seen(attacked, client, seed)["y"] != seen(watcher(), client, seed)["y"] for seed in range(3)]
            assert all((each == rounds[0]).all() for each in rounds)
            assert rounds[0].sum() == np.ceil(np.float64(fraction) * size - 1e-9)  # no class of four maps to itself

    def test_a_traced_share_is_the_same(self) -> None:
        def labels(fraction: Any) -> Any:
            attacked = attacks.label_flip(watcher(), [2], num_classes=CLASSES, fraction=fraction)
            return attacked.client_update({}, (), fl.client_view(people(), 2, key=jax.random.key(0)), None).update["y"]

        assert (jax.jit(labels)(0.5) == labels(0.5)).all()

    def test_a_round_is_that_of_a_population_with_flipped_labels(self) -> None:
        attacked, lanes = attacks.label_flip(averaging(), [1, 4], num_classes=CLASSES), fl.Execution(lanes=4, devices=1)
        found = helpers.one_run(attacked, people(), params(), num_rounds=2, execution=lanes)[1]
        run, expected, _ = helpers.one_run(averaging(), flipped_population(), params(), num_rounds=2, execution=lanes)
        assert np.allclose(found.server_state.params["w"], expected.server_state.params["w"], atol=1e-6)
        state = run.init(params(), people(), key=jax.random.key(0))
        for _ in range(2):
            state, _ = run.step(state, people())
        assert not np.allclose(state.server_state.params["w"], expected.server_state.params["w"], atol=1e-3)

    @pytest.mark.parametrize("name", ["scaffold", pytest.param("ditto", marks=pytest.mark.slow)])
    def test_states_and_full_gradients_get_it_too(self, name: str) -> None:
        def make() -> fl.Algorithm:
            if name == "scaffold":
                return algorithms.scaffold(loss, num_clients=6, client_lr=0.1, option=1, batch_size=4)
            return algorithms.ditto(loss, client_optimizer=optax.sgd(0.1), lam=0.1, batch_size=4, epochs=1)

        attacked = attacks.label_flip(make(), [1, 4], num_classes=CLASSES)
        runs = [
            helpers.one_run(algorithm, data, params(), aggregator=fl.mean())[1]
            for algorithm, data in ((attacked, people()), (make(), flipped_population()))
        ]
        for own, other in zip(*(jax.tree.leaves((run.server_state, run.clients)) for run in runs), strict=True):
            assert np.allclose(own, other, atol=1e-6)

    def test_nobody_bad_is_the_algorithm_itself(self) -> None:
        honest = averaging()
        for bad in ([], jnp.zeros(6, bool), attacks.pool([])):
            assert attacks.label_flip(honest, bad, num_classes=CLASSES) is honest

    def test_by_chance_about_the_rate_are_bad(self) -> None:
        attacked = attacks.label_flip(watcher(), attacks.share(0.5), num_classes=CLASSES)
        clean = watcher()

        @jax.jit
        @jax.vmap
        def flipped(seed: Any) -> Any:
            view, key = fl.client_view(people(), 3, key=jax.random.key(seed)), jax.random.key(seed)
            own, other = (each.client_update({}, (), view, key).update for each in (attacked, clean))
            return ((own["y"] != other["y"]) & other["mask"]).any()

        assert 8 <= int(flipped(jnp.arange(40)).sum()) <= 32  # fails by chance once in 20,000

    def test_what_it_says_of_itself(self) -> None:
        attacked = attacks.label_flip(averaging(), jnp.arange(6) < 2, num_classes=CLASSES)
        assert attacked.name == "label_flip(fed_avg)"
        told = {"num_classes": CLASSES, "mapping": None, "fraction": 1.0, "bad": [0, 1]}
        assert attacked.hparams["label_flip"] == told
        assert attacked.hparams["batch_size"] == 4

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"algorithm": 3}, "`algorithm` is 3; expected an Algorithm"),
            ({"bad": [0, 0]}, "`bad` holds a client twice"),
            ({"fraction": 0.0}, r"`fraction` is 0.0; expected a number in \(0, 1\]"),
            ({"num_classes": 0}, "`num_classes` is 0"),
            ({"mapping": {1: 9}}, "`mapping` has 1: 9; expected classes below num_classes, 4"),
            ({"mapping": 3}, "`mapping` is 3; expected classes by class"),
            ({"y": 1}, "`y` is 1; expected a str"),
        ],
    )
    def test_bad_arguments(self, given: dict[str, Any], words: str) -> None:
        with pytest.raises((TypeError, ValueError), match=words):
            attacks.label_flip(**{"algorithm": averaging(), "bad": [0], "num_classes": CLASSES, **given})

    @pytest.mark.parametrize(
        ("name", "words"),
        [("label", r"no feature 'label', only \['x', 'y'\]; name it by `y`"), ("x", "the labels 'x' are float32")],
    )
    def test_data_that_do_not_fit(self, name: str, words: str) -> None:
        with pytest.raises((TypeError, ValueError), match=words):
            seen(attacks.label_flip(watcher(), [0], num_classes=CLASSES, y=name), 0)
