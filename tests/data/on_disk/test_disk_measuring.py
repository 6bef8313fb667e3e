"""What is measured on a population that lies on a disk: the numbers of memory, piece by piece."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite.data.prepared import pieces
from fedjaxlite.evaluation import from_disk, in_pieces

MODEL = fl.models.logistic(num_classes=3, input_shape=(4,))
PARAMS = jax.tree.map(lambda leaf: leaf + 0.1, MODEL.init(jax.random.key(0)))
METRICS = [fl.metrics.auroc(), fl.metrics.confusion_matrix()]


def people(seed, most):
    rng = np.random.default_rng(seed)
    return [
        {"x": rng.normal(size=(n, 4)).astype(np.float32), "y": rng.integers(0, 3, n)} for n in rng.integers(1, most, 23)
    ]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(on disk, in memory) of a training and of a test part."""
    place = tmp_path_factory.mktemp("measured")
    names = [f"c{i}" for i in range(23)]
    return tuple(
        (
            fl.Population.write(place / part, zip(names, clients, strict=True)),
            fl.Population.from_clients(clients, names=names),
        )
        for part, clients in (("train", people(0, 9)), ("test", people(1, 6)))
    )


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(from_disk, "PIECE_BYTES", 300)
    monkeypatch.setattr(in_pieces, "PIECE_BYTES", 300)
    monkeypatch.setattr(in_pieces, "PIECE_CLIENTS", 5)


def same(one, other):
    assert sorted(one) == sorted(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize(
    ("metrics", "batch_size", "bootstrap"),
    [((), 7, 20), (METRICS, 7, None), ((), 1000, None)],
    ids=["sums", "rows", "one"],
)
def test_one_model_on_all_rows(both, metrics, batch_size, bootstrap):
    disk, memory = both[1]
    options = {"metrics": metrics, "batch_size": batch_size, "bootstrap": bootstrap}
    same(fl.evaluate(MODEL, disk, **options)(PARAMS), fl.evaluate(MODEL, memory, **options)(PARAMS))


@pytest.mark.parametrize("metrics", [pytest.param((), marks=pytest.mark.slow), METRICS], ids=["sums", "rows"])
def test_the_model_at_every_client(both, metrics):
    disk, memory = both[1]
    reports = [fl.evaluate_clients(MODEL, people, metrics=metrics, batch_size=3)(PARAMS) for people in (disk, memory)]
    for field in ("metrics", "arrays", "low", "high"):
        same(getattr(reports[0], field), getattr(reports[1], field))
    assert reports[0].names.tolist() == reports[1].names.tolist()
    assert reports[0].num_examples.tolist() == reports[1].num_examples.tolist()


@pytest.mark.parametrize("mixed", [pytest.param((0, 0), marks=pytest.mark.slow), (1, 0)], ids=["both", "test"])
def test_fine_tuned_models(both, mixed):
    (train, test), memory = (
        [both[part][where] for part, where in zip((0, 1), mixed, strict=True)],
        (both[0][1], both[1][1]),
    )
    tune = lambda *data: fl.evaluate_personalized(MODEL, *data, client_optimizer=optax.sgd(0.1), batch_size=4)(PARAMS)  # noqa: E731
    for one, other in zip(tune(train, test), tune(*memory), strict=True):
        same(one.metrics, other.metrics)


@pytest.mark.parametrize("options", [{}, {"ignored_ids": (1,)}])
def test_how_unlike_clients_are(both, options):
    disk, memory = both[0]
    one, other = fl.heterogeneity(disk, **options), fl.heterogeneity(memory, **options)
    np.testing.assert_array_equal(one.label_histograms, other.label_histograms)
    assert str(one) == str(other)
    with pytest.raises(ValueError, match="no labels but those of `ignored_ids`"):
        fl.heterogeneity(disk, ignored_ids=(0, 1, 2))


def test_a_sum_over_a_cohort_and_one_client_s_view(both):
    disk, memory = both[0]
    count = lambda shared, data: fl.ClientOutput(data.num_examples.astype(jnp.float32), info={"id": data.id})  # noqa: E731
    call = fl.federated_sum(count, aggregator=fl.mean())
    cohort = fl.sampling.cohort(jnp.array([7, 0, 22]), jnp.array([True, False, True]))
    found = [call((), people, cohort, key=jax.random.key(3))[0].value for people in (disk, memory)]
    assert float(found[0]) == float(found[1]) == float(np.asarray(memory.num_examples)[[7, 22]].mean())
    view = fl.client_view(disk, 7, key=jax.random.key(0))
    batch, mask = view.batches(batch_size=8, epochs=1, shuffle=False).batch(jnp.int32(0))
    np.testing.assert_array_equal(np.asarray(batch["x"])[np.asarray(mask)], memory.client(7)["x"])


def test_a_piece_of_a_population_is_a_population_of_all_clients(both):
    disk, memory = both[0]
    piece = pieces.piece_of(disk, np.array([5, 3]), rows=30)
    assert piece.num_clients == 23
    assert piece.features["x"].shape == (30, 4)
    for i in range(23):
        expected = memory.client(i)["y"] if i in (3, 5) else []
        np.testing.assert_array_equal(piece.client(i)["y"], expected)


def test_what_needs_all_in_memory_says_so(both):
    disk, _ = both[0]
    text = r"lies on a disk \(.* in '.*train'\), and {} needs all of it in memory. Give {}.in_memory\(\) where it fits"
    with pytest.raises(ValueError, match=text.format("fl.predict", "data")):
        fl.predict(MODEL, disk)
    with pytest.raises(ValueError, match=text.format("what pools the examples of clients", "population")):
        fl.evaluate_clients(MODEL, disk, groups=np.zeros(23, np.int32))
    with pytest.raises(ValueError, match=text.format("a baseline", "train")):
        fl.baselines.local_only(
            MODEL, PARAMS, disk, both[1][1], client_optimizer=optax.sgd(0.1), steps=1, key=jax.random.key(0)
        )
