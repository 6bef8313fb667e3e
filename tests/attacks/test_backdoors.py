"""Backdoors: triggers and their parts, who stamps what, replaced models, and coordinates left alone."""

from functools import lru_cache
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms, attacks, testing
from fedjaxlite.attacks.backdoors.neurotoxin import free_of

SIZES = (6, 3, 5, 8)
PATTERN = attacks.trigger_pattern((4, 4, 1), size=2, value=9.0)


@lru_cache
def people() -> fl.Population:
    """Clients with images of 4 x 4 pixels and labels from 1 to 3: nobody has the target, 0."""
    rng = np.random.default_rng(1)
    owner = np.repeat(np.arange(len(SIZES)), SIZES)
    arrays = {"x": rng.uniform(size=(len(owner), 4, 4, 1)).astype(np.float32), "y": rng.integers(1, 4, len(owner))}
    return fl.Population.from_arrays(arrays, client_ids=owner)


def watcher() -> fl.Algorithm:
    """An algorithm whose clients send all of their examples."""

    def client_update(shared: Any, own: Any, data: fl.ClientData, key: Any) -> fl.ClientOutput:
        return fl.ClientOutput(data.batches(batch_size=8, epochs=1).batch(jnp.int32(0))[0], client_state=own)

    return fl.Algorithm(lambda params: params, client_update, lambda state, aggregate, key: state, name="watcher")


def seen(algorithm: fl.Algorithm, client: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A client's examples and labels as its program sees them."""
    view = fl.client_view(people(), client, key=jax.random.key(seed))
    batch = algorithm.client_update({}, (), view, None).update
    mask = np.asarray(batch["mask"])
    return np.asarray(batch["x"])[mask], np.asarray(batch["y"])[mask]


def loss(params: Any, batch: Any, key: Any) -> jax.Array:
    """Cross entropy of a linear model, `[B]`."""
    logits = batch["x"].reshape((-1, 16)) @ params["w"] + jnp.broadcast_to(params["b"], (batch["x"].shape[0], 4))
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])


def params() -> dict[str, jax.Array]:
    return {"w": jnp.zeros((16, 4)), "b": jnp.zeros(4)}


def scaffold() -> fl.Algorithm:
    return algorithms.scaffold(loss, num_clients=len(SIZES), client_lr=0.1, batch_size=4)


def averaging() -> fl.Algorithm:
    return algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1), batch_size=4, epochs=1)


def updates(algorithm: fl.Algorithm, state: Any) -> np.ndarray:
    """What each client sends when the server is in this state, `[4, d]`, all leaves side by side."""

    def one(client: jax.Array) -> jax.Array:
        view = fl.client_view(people(), client, key=jax.random.key(5))
        shared = (algorithm.broadcast or algorithm.params)(state)
        update = algorithm.client_update(shared, algorithm.init_client(params()), view, view.key).update
        return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(update)])

    return np.asarray(jax.jit(jax.vmap(one))(jnp.arange(4)))


@lru_cache
def honest_updates(make: Any) -> np.ndarray:
    """What clients send to a server in its first state."""
    algorithm = make()
    return updates(algorithm, algorithm.init(params()))


class TestTriggers:
    @pytest.mark.parametrize(
        ("place", "first"),
        [(None, (2, 1)), ("top_left", (0, 0)), ("top_right", (0, 1)), ("bottom_left", (2, 0)), ((1, 0), (1, 0))],
    )
    def test_a_rectangle_where_it_is_asked_for(self, place: Any, first: tuple[int, int]) -> None:
        found = attacks.trigger_pattern((5, 4, 2), size=(3, 3), place=place)
        expected = np.zeros((5, 4, 2), bool)
        expected[first[0] : first[0] + 3, first[1] : first[1] + 3] = True
        assert (found.mask == expected).all()

    def test_tokens_and_colors(self) -> None:
        end = attacks.trigger_pattern((6,), size=2, value=99)
        assert attacks.stamp(jnp.zeros((2, 6), jnp.int32), end).tolist() == [[0, 0, 0, 0, 99, 99]] * 2
        red = attacks.trigger_pattern((2, 2, 3), size=1, value=[1.0, 0.0, 0.5])
        assert attacks.stamp(jnp.full((2, 2, 3), 0.25), red)[1, 1].tolist() == [1.0, 0.0, 0.5]

    def test_success_is_accuracy_on_the_others(self) -> None:
        data = people()
        test = attacks.triggered(data, PATTERN, 2)
        others = data.features["y"] != 2
        assert (test["y"] == 2).all()
        assert len(test["y"]) == others.sum() > 0
        assert (test["x"][:, 2:, 2:] == 9).all()
        assert (test["x"][:, :2] == data.features["x"][others][:, :2]).all()
        always = fl.models.from_functions(lambda key: (), lambda params, x: jnp.eye(4)[jnp.full(len(x), 2)], name="two")
        assert fl.evaluate(always, test)(())["accuracy"] == 1.0

    @pytest.mark.parametrize("parts", [1, 3, 4])
    def test_parts_make_the_whole_and_do_not_meet(self, parts: int) -> None:
        found = attacks.split_trigger(PATTERN, parts)
        assert len(found) == parts
        assert (sum(part.mask.astype(int) for part in found) == PATTERN.mask).all()
        assert max(p.mask.sum() for p in found) - min(p.mask.sum() for p in found) <= 1
        x = stamped = people().features["x"]
        for part in found:
            stamped = attacks.stamp(stamped, part)
        assert (stamped == attacks.stamp(x, PATTERN)).all()

    @pytest.mark.parametrize(
        ("call", "words"),
        [
            (lambda: attacks.trigger_pattern((4, 4), size=5), "`size` is 5, more than examples of shape"),
            (lambda: attacks.trigger_pattern((4, 4, 1, 1)), "`shape` has 4 axes; expected"),
            (lambda: attacks.trigger_pattern(4), "`shape` is 4; expected ints"),
            (
                lambda: attacks.trigger_pattern((4, 4), place="middle"),
                "`place` is 'middle'; expected one of 'top_left'",
            ),
            (lambda: attacks.trigger_pattern((4, 4), place=(2, 0)), r"`place` is \(2, 0\); expected at most \[1, 1\]"),
            (lambda: attacks.trigger_pattern((4,), place="top_left"), "`place` is 'top_left', and examples have one"),
            (lambda: attacks.trigger_pattern((4, 4), size=(1, 2, 3)), r"`size` is \(1, 2, 3\); expected 2 ints"),
            (
                lambda: attacks.trigger_pattern((4, 4, 3), value=[1.0, 2.0]),
                r"`value` has the shape \[2\]; expected a n",
            ),
            (lambda: attacks.stamp(jnp.zeros((2, 3, 3)), PATTERN), r"`trigger` has the shape \[4, 4, 1\]"),
            (lambda: attacks.stamp(jnp.zeros((2, 2)), (1, 2)), r"`trigger` is \(1, 2\); expected a Trigger"),
            (
                lambda: attacks.stamp(1.0, attacks.Trigger(jnp.ones(()), 1.0)),
                "`trigger.mask` is float32; expected bool",
            ),
            (lambda: attacks.split_trigger(PATTERN, 5), "`parts` is 5, and the trigger has 4 pixels"),
            (lambda: attacks.triggered(people(), PATTERN, 1, x="z"), "`test` has no feature 'z'"),
            (lambda: attacks.triggered({"x": np.zeros((2, 4, 4, 1)), "y": np.ones(2)}, PATTERN, 1), "`target` is 1"),
            (lambda: attacks.triggered(3, PATTERN, 1), "`test` is 3; expected arrays"),
        ],
    )
    def test_bad_arguments(self, call: Any, words: str) -> None:
        with pytest.raises((TypeError, ValueError), match=words):
            call()


class TestPoisonedExamples:
    @pytest.mark.parametrize("fraction", [0.1, 0.5])
    def test_a_share_of_a_bad_clients_examples_is_stamped(self, fraction: float) -> None:
        attacked = attacks.backdoor(watcher(), [0, 3], trigger=PATTERN, target=0, fraction=fraction)
        for client, size in enumerate(SIZES):
            (x, y), (clean_x, clean_y) = seen(attacked, client), seen(watcher(), client)
            bad = (x[:, 2:, 2:] == 9).all((1, 2, 3))
            assert bad.sum() == (np.ceil(fraction * size) if client in (0, 3) else 0)
            assert ((y == 0) == bad).all()
            assert (x[~bad] == clean_x[~bad]).all()
            assert (y[~bad] == clean_y[~bad]).all()
            assert (x[:, :2] == clean_x[:, :2]).all()

    def test_every_bad_client_stamps_its_part(self) -> None:
        attacked = attacks.dba(watcher(), [3, 0, 1], trigger=PATTERN, target=0, parts=2, fraction=1.0)
        first, second = (part.mask for part in attacks.split_trigger(PATTERN, 2))
        for client, mask in {3: first, 0: second, 1: first, 2: np.zeros_like(first)}.items():
            (x, y), clean = seen(attacked, client), seen(watcher(), client)
            assert (x == np.where(mask, 9.0, clean[0])).all()
            assert (y == (0 if mask.any() else clean[1])).all()
        masked = attacks.dba(watcher(), jnp.array([1, 0, 1, 1], bool), trigger=PATTERN, target=0, parts=2, fraction=1.0)
        assert [(seen(masked, c)[0] == 9).any((0, 3)).tolist() for c in (0, 2, 3)] == [
            m[..., 0].tolist() for m in (first, second, first)
        ]
        anyone = attacks.dba(watcher(), attacks.share(1.0), trigger=PATTERN, target=0, parts=2, fraction=1.0)
        assert ((seen(anyone, 1)[0] == 9) == second).all()

    def test_one_part_is_a_backdoor(self) -> None:
        whole = attacks.dba(watcher(), [0], trigger=PATTERN, target=0, parts=1)
        plain = attacks.backdoor(watcher(), [0], trigger=PATTERN, target=0)
        assert all((a == b).all() for a, b in zip(seen(whole, 0), seen(plain, 0), strict=True))

    def test_rare_examples_take_the_place_of_others(self) -> None:
        rare = 10.0 + np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1) * np.ones((1, 4, 4, 1), np.float32)
        attacked = attacks.edge_case(watcher(), [1, 3], examples=rare, target=0, fraction=0.5)
        for client, count in {0: 0, 1: 2, 2: 0, 3: 4}.items():
            (x, y), (clean_x, _) = seen(attacked, client), seen(watcher(), client)
            bad = x[:, 0, 0, 0] >= 10
            assert bad.sum() == count
            assert ((y == 0) == bad).all()
            assert (x[~bad] == clean_x[~bad]).all()
            assert sorted(set(x[bad][:, 0, 0, 0])) == ([10.0, 11.0, 12.0] if count == 4 else [11.0, 12.0][:count])

    def test_the_outer_one_of_two_is_nearer_to_the_data(self) -> None:
        inner = attacks.label_flip(watcher(), [0], num_classes=4)
        (_, y), (_, clean) = seen(attacks.backdoor(inner, [0], trigger=PATTERN, target=0), 0), seen(watcher(), 0)
        assert sorted(y) == sorted([*[3] * 3, *(3 - clean[y != 3])])  # the target's label is flipped with the others

    def test_a_round_learns_the_trigger(self) -> None:
        attacked = attacks.backdoor(averaging(), [0, 3], trigger=PATTERN, target=0)
        test = attacks.triggered(people(), PATTERN, 0)
        model = fl.models.from_functions(
            lambda key: params(), lambda p, x: x.reshape((-1, 16)) @ p["w"] + p["b"][None], name="linear"
        )
        success = fl.evaluate(model, test)
        run, state, _ = helpers.one_run(attacked, people(), params(), num_rounds=3)
        assert success(run.params(state))["accuracy"] == 1.0
        run, state, _ = helpers.one_run(averaging(), people(), params(), num_rounds=1)
        assert success(run.params(state))["accuracy"] == 0.0


class TestModelReplacement:
    def test_the_bad_clients_model_is_what_the_server_gets(self) -> None:
        # Honest clients stand at their optimum: they send nothing.
        def pull(params: Any, batch: Any, key: Any) -> jax.Array:
            return (params["w"] - batch["x"]) ** 2 / 2

        x = np.float32([0, 0, 7, 0])
        data = fl.Population.from_arrays({"x": x}, client_ids=np.arange(4))
        honest = algorithms.fed_avg(pull, client_optimizer=optax.sgd(0.5), batch_size=1, epochs=1)
        replaced = attacks.model_replacement(honest, [2], boost=4.0)
        found = helpers.one_run(replaced, data, {"w": jnp.float32(0)}, aggregator=fl.mean())[1]
        assert found.server_state.params["w"] == 3.5  # its own step from 0 towards 7, and not a quarter of it

    def test_with_others_it_is_off_by_their_mean(self) -> None:
        state = averaging().init(params())
        honest = honest_updates(averaging)
        sent = updates(attacks.model_replacement(averaging(), [1], boost=4.0), state)
        assert (sent[[0, 2, 3]] == honest[[0, 2, 3]]).all()
        assert np.allclose(sent.mean(0), honest[1] + honest[[0, 2, 3]].sum(0) / 4, atol=1e-6)

    def test_all_parts_of_an_update_are_scaled(self) -> None:
        state = scaffold().init(params())
        plain = honest_updates(scaffold)
        sent = updates(attacks.model_replacement(scaffold(), [1], boost=3.0), state)
        assert np.allclose(sent, plain * np.float32([1, 3, 1, 1])[:, None], rtol=1e-6)
        assert (plain[1, :68] != 0).any()
        assert (plain[1, 68:] != 0).any()

    @pytest.mark.parametrize("boost", [0.0, -1.0, float("nan"), "much"])
    def test_bad_arguments(self, boost: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="`boost`.*a finite number above 0"):
            attacks.model_replacement(averaging(), [0], boost=boost)


class TestNeurotoxin:
    def test_where_a_change_is_not_among_its_largest(self) -> None:
        change = {"a": jnp.float32([[3, 1], [0, 5]]), "b": jnp.float32([3, 2])}
        found = jax.tree.map(
            lambda leaf: leaf.tolist(), free_of(change, 0.4)
        )  # ceil(2.4) of 6; the first 3 comes first
        assert found == {"a": [[False, True], [True, False]], "b": [False, True]}
        assert all(leaf.all() for leaf in jax.tree.leaves(free_of(change, 0.0)))
        traced = jax.jit(free_of)(change, 0.4)
        assert jax.tree.map(lambda leaf: leaf.tolist(), traced) == found

    @pytest.mark.parametrize("make", [averaging, pytest.param(scaffold, marks=pytest.mark.slow)])
    def test_bad_updates_are_zero_where_the_model_moved_most(self, make: Any) -> None:
        honest, attacked = make(), attacks.neurotoxin(make(), [1], top=0.25)
        before = attacked.init(params())
        assert all(leaf.all() for leaf in jax.tree.leaves(before.free))  # nothing is known yet
        run, state, info = helpers.one_run(attacked, people(), params(), aggregator=fl.mean())
        after = state.server_state
        change = np.concatenate([np.abs(leaf).ravel() for leaf in jax.tree.leaves(run.params(state))])
        free = np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(after.free)])
        assert (~free).sum() == 17  # a quarter of 68 coordinates
        assert change[~free].min() >= change[free].max()
        found, plain = updates(attacked, after), updates(honest, after.inner)
        kept = np.tile(free, plain.shape[1] // len(free)) | (np.arange(4) != 1)[:, None]
        assert (found[~kept] == 0).all()
        assert np.allclose(found, np.where(kept, plain, 0), rtol=1e-5, atol=1e-7)
        assert (plain[:, np.tile(~free, plain.shape[1] // len(free))] != 0).any()
        assert (info.clients["bytes_down"] == run.traffic(params(), people()).down).all()
        plain = fl.rounds(honest, sampler=fl.sampling.full(4), aggregator=fl.mean())
        assert run.traffic(params(), people()) == plain.traffic(params(), people())

    def test_a_round_without_a_change_is_no_news(self) -> None:
        attacked = attacks.neurotoxin(averaging(), [1], top=0.25)
        state = attacked.init(params())
        ones, zeros = (jax.tree.map(lambda p, v=v: jnp.full_like(p, v), params()) for v in (1.0, 0.0))

        @jax.jit
        def updated(state: Any, mean: Any, weight: Any, number: Any) -> Any:
            return attacked.server_update(state, fl.Aggregate(mean, weight, number, {}), None)

        after = updated(state, ones, 1.0, 4)
        again = updated(after, zeros, 0.0, 0)
        assert sum(int((~np.asarray(leaf)).sum()) for leaf in jax.tree.leaves(after.free)) == 17
        assert all((a == b).all() for a, b in zip(*(jax.tree.leaves(s.free) for s in (after, again)), strict=True))

    def test_statistics_are_left_alone(self) -> None:
        def client_update(shared: Any, own: Any, data: Any, key: Any) -> fl.ClientOutput:
            return fl.ClientOutput(jax.tree.map(jnp.ones_like, shared), client_state=own)

        model = fl.Variables({"w": jnp.zeros(4)}, {"mean": jnp.zeros(4)})
        base = averaging()._replace(client_update=client_update)
        attacked = attacks.neurotoxin(base, [1], top=0.5)
        state = attacked.init(model)
        state = state._replace(free={"w": jnp.array([True, False, True, False])})
        view = fl.client_view(people(), 1, key=jax.random.key(0))
        update = attacked.client_update(attacked.broadcast(state), (), view, None).update
        assert update.params["w"].tolist() == [1, 0, 1, 0]
        assert update.state["mean"].tolist() == [1] * 4

    def test_an_update_unlike_the_model_is_refused(self) -> None:
        with pytest.raises(TypeError, match="no part of the update has the model's structure"):
            seen_state = attacks.neurotoxin(watcher()._replace(params=lambda state: state), [0])
            helpers.one_run(seen_state, people(), params())

    def test_bad_arguments(self) -> None:
        with pytest.raises(ValueError, match=r"`top` is 1; expected a number in \[0, 1\)"):
            attacks.neurotoxin(averaging(), [0], top=1)


ATTACKS = {
    "backdoor": lambda base, bad: attacks.backdoor(base, bad, trigger=PATTERN, target=0),
    "dba": lambda base, bad: attacks.dba(base, bad, trigger=PATTERN, target=0),
    "edge_case": lambda base, bad: attacks.edge_case(base, bad, examples=np.ones((2, 4, 4, 1)), target=0),
    "model_replacement": lambda base, bad: attacks.model_replacement(base, bad, boost=4.0),
    "neurotoxin": attacks.neurotoxin,
}


@pytest.mark.parametrize("name", ATTACKS)
def test_nobody_bad_is_the_algorithm_itself(name: str) -> None:
    honest = averaging()
    for bad in ([], jnp.zeros(4, bool), attacks.pool(())):
        assert ATTACKS[name](honest, bad) is honest
    attacked = ATTACKS[name](honest, [2, 0])
    assert attacked.name == f"{name}(fed_avg)"
    assert attacked.hparams[name]["bad"] == [2, 0]


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in ("model_replacement", "neurotoxin")])
def test_what_all_that_poison_refuse(name: str) -> None:
    make = getattr(attacks, name)
    given = (
        {"examples": np.ones((2, 3, 3, 1))} if name == "edge_case" else {"trigger": attacks.trigger_pattern((3, 3, 1))}
    )
    given |= {"target": 0}
    with pytest.raises(ValueError, match="expected the shape of|expected the same shape"):
        seen(make(watcher(), [0], **given), 0)
    with pytest.raises(ValueError, match=r"no feature 'image', only \['x', 'y'\]; name it by `x`"):
        seen(make(watcher(), [0], x="image", **given), 0)
    with pytest.raises(ValueError, match="`target` is -1"):
        make(watcher(), [0], **{**given, "target": -1})
    with pytest.raises(ValueError, match=r"`fraction` is 2; expected a number in \(0, 1\]"):
        make(watcher(), [0], fraction=2, **given)


def test_a_program_with_all_of_them_runs_and_finds_its_target() -> None:
    bad = [0, 3]
    attacked = attacks.backdoor(averaging(), bad, trigger=PATTERN, target=0, fraction=0.5)
    attacked = attacks.neurotoxin(attacks.model_replacement(attacked, bad, boost=2.0), bad, top=0.05)
    run, state, _ = helpers.one_run(attacked, people(), params(), num_rounds=3)
    test = attacks.triggered(people(), PATTERN, 0)
    p = run.params(state)
    logits = test["x"].reshape((-1, 16)) @ np.asarray(p["w"]) + np.asarray(p["b"])
    assert (logits.argmax(1) == 0).all()
    assert attacked.name == "neurotoxin(model_replacement(backdoor(fed_avg)))"


def _replaced() -> fl.Algorithm:
    stamped = attacks.backdoor(averaging(), [0, 3], trigger=PATTERN, target=0, fraction=0.5)
    return attacks.model_replacement(stamped, [0, 3], boost=2.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        _replaced,
        lambda: attacks.label_flip(scaffold(), [1], num_classes=4, fraction=0.5),
        lambda: attacks.neurotoxin(_replaced(), [0, 3], top=0.1),
    ],
)
def test_an_attacked_algorithm_keeps_the_laws(make: Any) -> None:
    laws = ["order", "padding", "nonfinite", "steps", "resume", "vmap"]
    testing.check_algorithm(make(), params(), people(), aggregator=fl.mean(), laws=laws, layouts=(), num_rounds=2)
