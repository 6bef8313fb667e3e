"""A client's view of its data: batches, shuffles, stragglers, and loops in lanes of ragged clients."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import fedjaxlite as fl
from fedjaxlite.data.client_view import Wave
from fedjaxlite.shuffle import shuffled

PEOPLE = helpers.one_value_each([0.0] * 4, sizes=[3, 1, 8, 5])


def view(client: int, *, work: float = 1.0, population: fl.Population = PEOPLE, key: int = 0) -> fl.ClientData:
    """One client alone in its wave, outside of any round."""
    offsets = np.asarray(population.offsets)
    offset, n = jnp.int32(offsets[client]), jnp.int32(offsets[client + 1] - offsets[client])
    rows = np.arange(offsets[-1], dtype=np.int32)
    share = jnp.float32(work)
    wave = Wave(jnp.int32([client]), n.reshape((1,)), share.reshape((1,)), population.max_size)
    features = {**population.features, "row": rows}
    features = {name: jnp.asarray(value) for name, value in features.items()}
    return fl.ClientData(features, offset, n, jnp.int32(client), share, jax.random.key(key), wave)


def test_a_view_made_by_hand_is_that_of_a_round() -> None:
    """Same examples, same order, same draws as `client_update` sees; and no client beyond the last."""
    run = fl.rounds(helpers.fed_avg(0.02), sampler=fl.sampling.full(5), aggregator=fl.weighted_mean())
    people = helpers.regression((4, 9, 1, 6, 2))
    params = {"w": jnp.ones(3), "b": jnp.float32(0)}
    state = run.init(params, people, key=jax.random.key(3))
    after, _ = run.step(state, people)
    total, weight = jax.tree.map(jnp.zeros_like, params), 0.0

    @jax.jit
    def sent(client):
        key = jax.random.fold_in(jax.random.fold_in(state.keys.client, 0), client)
        return run.algorithm.client_update(params, (), fl.client_view(people, client, key=key), key)

    for client in range(5):
        output = sent(client)
        share = jnp.asarray(output.weight, jnp.float32)
        total, weight = jax.tree.map(lambda t, d, w=share: t + w * d, total, output.update), weight + float(share)
    by_hand = jax.tree.map(lambda p, t: p - t / weight, params, total)
    assert helpers.max_difference(by_hand, after.params) < 1e-6
    with pytest.raises(IndexError, match="`client` is 5; expected 0 to 4"):
        fl.client_view(people, 5, key=jax.random.key(0))


def rows_of(batches: fl.Batches) -> list[list[int]]:
    """The rows of every batch, padding left out."""
    found = []
    for step in range(int(batches.num_steps)):
        batch, mask = batches.batch(jnp.int32(step))
        found.append(np.asarray(batch["row"])[np.asarray(mask)].tolist())
    return found


class TestBatches:
    def test_the_stored_order_in_batches_with_a_partial_last_one(self) -> None:
        batches = view(2).batches(batch_size=3, epochs=2, shuffle=False)
        assert rows_of(batches) == [[4, 5, 6], [7, 8, 9], [10, 11]] * 2
        assert (int(batches.num_steps), int(batches.steps_per_epoch)) == (6, 3)

    def test_an_epoch_uses_every_example_once_and_in_another_order(self) -> None:
        batches = view(2).batches(batch_size=3, epochs=3)
        found = rows_of(batches)
        assert [len(rows) for rows in found] == [3, 3, 2] * 3
        epochs = [sum(found[i : i + 3], []) for i in (0, 3, 6)]
        assert all(sorted(epoch) == list(range(4, 12)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 3

    def test_steps_may_end_within_an_epoch_or_pass_it(self) -> None:
        assert rows_of(view(0).batches(batch_size=2, steps=3, shuffle=False)) == [[0, 1], [2], [0, 1]]

    def test_padding_repeats_rows_of_the_same_client(self) -> None:
        batch, mask = view(0).batches(batch_size=7, epochs=1, shuffle=False).batch(jnp.int32(0))
        assert batch["row"].tolist() == [0, 1, 2, 0, 1, 2, 0]
        assert mask.tolist() == batch["mask"].tolist() == [True] * 3 + [False] * 4
        batch, mask = view(0).batches(batch_size=4, epochs=1).batch(jnp.int32(5))  # a step beyond the last
        assert not mask.any()
        assert set(batch["row"].tolist()) <= {0, 1, 2}

    def test_another_stream_and_another_key_give_another_order(self) -> None:
        plain = rows_of(view(2).batches(batch_size=4, epochs=1))
        assert plain == rows_of(view(2).batches(batch_size=4, epochs=1))
        assert plain != rows_of(view(2).batches(batch_size=4, epochs=1, stream=1))
        assert plain != rows_of(view(2, key=1).batches(batch_size=4, epochs=1))
        in_twos = rows_of(view(2).batches(batch_size=2, epochs=1))
        assert sum(in_twos, []) == sum(plain, [])  # the order does not depend on the batch size

    def test_where_one_batch_holds_the_largest_client_the_order_is_kept(self) -> None:
        assert rows_of(view(2).batches(batch_size=8, epochs=2)) == [[4, 5, 6, 7, 8, 9, 10, 11]] * 2

    @pytest.mark.parametrize(("work", "steps"), [(1.0, 10), (0.5, 5), (0.51, 6), (0.2, 2), (1e-3, 1), (0.7, 7)])
    def test_a_straggler_stops_early_and_does_at_least_one_step(self, work: float, steps: int) -> None:
        batches = view(3, work=work).batches(batch_size=1, epochs=2)
        assert int(batches.num_steps) == steps
        assert int(view(3, work=work).with_work(1.0).batches(batch_size=1, epochs=2).num_steps) == 10

    def test_the_same_client_in_another_population(self) -> None:
        test = helpers.one_value_each([7.0, 8.0, 9.0, 6.0], sizes=[2, 2, 2, 9])
        own = view(2).of(test)
        assert (int(own.num_examples), int(own.wave.num_examples[0]), own.wave.max_size) == (2, 2, 9)
        assert own.batches(batch_size=2, epochs=1).batch(jnp.int32(0))[0]["x"].tolist() == [9.0, 9.0]

    def test_wrong_arguments(self) -> None:
        with pytest.raises(ValueError, match=r"`batch_size` is 0; expected an int of at least 1.*local_sgd"):
            view(0).batches(batch_size=0, epochs=1)
        with pytest.raises(TypeError, match=r"`batch_size` is 2.0; expected an int"):
            view(0).batches(batch_size=2.0, epochs=1)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"`epochs` is 1 and `steps` is 2; expected exactly one of them"):
            view(0).batches(batch_size=1, epochs=1, steps=2)
        with pytest.raises(ValueError, match=r"`epochs` is None and `steps` is None; expected exactly one of them"):
            view(0).batches(batch_size=1)
        with pytest.raises(ValueError, match=r"`steps` is 0; expected an int of at least 1"):
            view(0).batches(batch_size=1, steps=0)


class TestLoops:
    def test_scan_gives_step_batch_mask_and_a_key_of_its_own(self) -> None:
        def step(carry: Any, batch: Any, mask: Any, key: Any) -> Any:
            total, keys, n = carry
            return total + jnp.where(mask, batch["row"], 0).sum(), keys.at[n].set(jax.random.bits(key)), n + 1

        start = (jnp.int32(0), jnp.zeros((8,), jnp.uint32), jnp.int32(0))
        total, keys, n = view(2).batches(batch_size=3, epochs=2).scan(step, start)
        assert (int(total), int(n)) == (2 * sum(range(4, 12)), 6)
        assert len(set(keys[:6].tolist())) == 6

    def test_repeat_counts_and_leaves_out_clients_without_examples(self) -> None:
        count = lambda data, steps: int(fl.repeat(data, steps, lambda i, c: c + i + 1, jnp.int32(0)))  # noqa: E731
        assert count(view(0), 4) == 10
        assert count(view(0, work=0.5), 4) == 3
        empty = fl.Population.from_clients([{"x": np.float32([1])}, {"x": np.zeros(0, np.float32)}], allow_empty=True)
        assert count(view(1, population=empty), 4) == 0

    def test_a_carry_that_changes_is_refused(self) -> None:
        batches = view(0).batches(batch_size=1, epochs=1)
        with pytest.raises(
            ValueError, match=r"the carry that a local step returned has float32\[\] at the root, where"
        ):
            batches.scan(lambda c, batch, mask, key: c.astype(jnp.float32), jnp.int32(0))
        with pytest.raises(ValueError, match=r"has an extra leaf at \['b'\]"):
            batches.scan(lambda c, batch, mask, key: {**c, "b": c["a"]}, {"a": jnp.int32(0)})

    def test_ragged_lanes_do_their_own_steps_and_use_every_example_once_an_epoch(self) -> None:
        """Counted inside a pass over several lanes: rows used, and steps that changed the carry."""
        population = helpers.regression()
        rows = np.arange(len(population.features["y"]), dtype=np.int32)
        population = fl.Population({**population.features, "row": rows}, population.offsets, population.max_size)

        def client_fn(shared: Any, data: fl.ClientData) -> fl.ClientOutput:
            def step(carry: Any, batch: Any, mask: Any, key: Any) -> Any:
                used, steps = carry
                return used.at[batch["row"]].add(mask.astype(jnp.float32)), steps + 1

            start = (jnp.zeros(rows.shape), jnp.int32(0))
            used, steps = data.batches(batch_size=8, epochs=3).scan(step, start)
            return fl.ClientOutput(used, info={"steps": steps})

        everyone = fl.sampling.full(12).sample(None, 0, population)
        execution = fl.Execution(lanes=5, devices=1)
        call = fl.federated_sum(client_fn, aggregator=fl.mean(over=1), execution=execution)
        aggregate, info = call((), population, everyone, key=jax.random.key(0))
        assert np.asarray(aggregate.value).tolist() == [3.0] * len(rows)
        assert info.clients["steps"].tolist() == [3 * -(-n // 8) for n in helpers.RAGGED]


# Each test below refuses a right shuffle with probability 1e-7, all of them together with less than 1e-5. Seeds are
# fixed, so that they fail always or never.
CUTOFF = 1e-7


def seeds(count: int, key: int) -> jax.Array:
    return jax.random.bits(jax.random.key(key), (count, 2), jnp.uint32)


@jax.jit
def many(seeds: jax.Array, epoch: jax.Array, positions: jax.Array, n: jax.Array) -> jax.Array:
    """`[number of seeds, number of positions]`: where each seed's permutation sends some positions."""
    return jax.vmap(lambda seed: shuffled(seed, epoch, positions, n))(seeds)


def at(seeds: jax.Array, positions: Any, n: int, epoch: int = 0) -> np.ndarray:
    return np.asarray(many(seeds, jnp.int32(epoch), jnp.asarray(positions, jnp.int32), jnp.int32(n)))


def assert_uniform(counts: np.ndarray, cells: int) -> None:
    """Chi-square of counts over equally likely cells."""
    expected = counts.sum() / cells
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert stats.chi2.sf(statistic, cells - 1) > CUTOFF
    assert stats.chi2.cdf(statistic, cells - 1) > CUTOFF  # nor more even than chance


class TestShuffles:
    @pytest.mark.parametrize("n", [1, 2, 3, 10, 97, 1000])
    def test_a_shuffle_is_a_permutation(self, n: int) -> None:
        drawn = at(seeds(20, n), np.arange(n), n)
        assert (np.sort(drawn, axis=1) == np.arange(n)).all()

    @pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
    def test_all_permutations_are_equally_likely(self, n: int) -> None:
        cells = int(np.prod(np.arange(1, n + 1)))
        drawn = at(seeds(100 * cells, n), np.arange(n), n)
        code = (drawn * n ** np.arange(n)).sum(1)
        _, counts = np.unique(code, return_counts=True)
        assert len(counts) == cells
        assert_uniform(counts, cells)

    @pytest.mark.parametrize("n", [50, 1000])
    def test_every_position_goes_everywhere_alike(self, n: int) -> None:
        positions = np.unique(np.linspace(0, n - 1, 20).astype(int))
        drawn = at(seeds(20 * n, n), positions, n)
        statistic = 0.0
        for column in drawn.T:
            statistic += ((np.bincount(column, minlength=n) - 20) ** 2 / 20).sum()
        # Positions share one permutation, so columns are slightly dependent; the variance grows by at most 1 + 20 / n.
        freedom = len(positions) * (n - 1)
        z = (statistic - freedom) / np.sqrt(2 * freedom * (1 + len(positions) / n))
        assert abs(z) < stats.norm.isf(CUTOFF / 2)

    @pytest.mark.parametrize("n", [50, 1000])
    def test_pairs_of_positions_go_everywhere_alike(self, n: int) -> None:
        for i, j in ((0, 1), (3, n - 1), (n // 2, n // 2 + 1)):
            drawn = at(seeds(40_000, i + j), [i, j], n)
            assert (drawn[:, 0] != drawn[:, 1]).all()
            gap = (drawn[:, 1] - drawn[:, 0]) % n  # uniform on 1 .. n - 1
            assert_uniform(np.bincount(gap, minlength=n)[1:], n - 1)
            buckets = drawn * 5 // n
            counts = np.bincount(buckets[:, 0] * 5 + buckets[:, 1], minlength=25)
            size = n // 5
            expected = (
                np.where(np.eye(5, dtype=bool), size * (size - 1), size * size).reshape(-1) / (n * (n - 1)) * 40_000
            )
            assert stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), 24) > CUTOFF

    def test_epochs_clients_and_rounds_are_independent(self) -> None:
        n, number = 10, 20_000
        base = jax.random.key(5)
        of = lambda key: jax.random.bits(jax.random.fold_in(jax.random.fold_in(key, 0), 0), (2,), jnp.uint32)  # noqa: E731
        ids = jnp.arange(number, dtype=jnp.int32)
        # As the engine derives them: fold_in(fold_in(client_key, round), client).
        clients = jax.jit(jax.vmap(lambda i: of(jax.random.fold_in(jax.random.fold_in(base, 0), i))))(ids)
        rounds = jax.jit(jax.vmap(lambda r: of(jax.random.fold_in(jax.random.fold_in(base, r), 0))))(ids)
        pairs = {
            "epochs": (at(clients, [2], n, epoch=0), at(clients, [2], n, epoch=1)),
            "clients": (at(clients[:-1], [2], n), at(clients[1:], [2], n)),
            "rounds": (at(rounds[:-1], [2], n), at(rounds[1:], [2], n)),
            "client and round": (at(clients, [2], n), at(rounds, [2], n)),
        }
        for first, second in pairs.values():
            assert_uniform(np.bincount(first[1:, 0] * n + second[1:, 0], minlength=n * n), n * n)

    def test_the_size_may_be_traced_and_no_padding_matters(self) -> None:
        seed = seeds(1, 0)
        alone = at(seed, np.arange(7), 7)
        padded = at(seed, np.r_[np.arange(7), np.zeros(25)], 7)[:, :7]
        assert (alone == padded).all()
