"""The training loop: records, evaluation, observers, resume, and everything it refuses before it trains."""

import functools
import io
import json
import logging
import math
import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms, observers, storage
from fedjaxlite.observers import Observer, Stop, progress, records
from fedjaxlite.training import curves
from fedjaxlite.training.loop import piece_of
from fedjaxlite.training.train import train

PARAMS = {"w": np.zeros((3,), np.float32)}


def loss_fn(params, batch, key):
    return (batch["x"] @ params["w"] - batch["y"]) ** 2


@functools.cache
def people() -> fl.Population:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 3)).astype(np.float32)
    return fl.Population.from_arrays({"x": x, "y": x.sum(1)}, client_ids=np.arange(30) // 5)


@functools.cache
def composed() -> fl.Rounds:
    algorithm = algorithms.fed_avg(loss_fn, client_optimizer=optax.sgd(0.1), batch_size=5)
    return fl.rounds(
        algorithm,
        sampler=fl.sampling.uniform(3, dropout=0.3),
        aggregator=fl.weighted_mean(),
        execution=fl.Execution(devices=1),
    )


@functools.cache
def measured():
    return fl.evaluate(loss_fn, people())


def start() -> fl.RoundState:
    return composed().init(PARAMS, people(), key=jax.random.key(1), noise_key=jax.random.key(2))


def go(state=None, **options) -> observers.History:
    options = {"num_rounds": 4, "rounds_per_dispatch": 2, "progress": False, **options}
    return train(composed(), start() if state is None else state, people(), **options)


def test_records_say_what_happened() -> None:
    history = go(evaluate=measured(), evaluate_every=2)
    traffic = composed().traffic(PARAMS, people())
    assert [r["round"] for r in history.records] == [1, 2, 3, 4]
    assert int(history.state.round) == 4
    assert history.stopped is None
    for record in history.records:
        assert record["selected"] == 3
        assert 0 <= record["reported"] <= 3
        assert record["bytes_up"] == record["reported"] * traffic.up
        assert record["bytes_down"] == 3 * traffic.down
        assert record["examples"] == 5 * record["reported"]
        assert record["nonfinite"] == 0
        assert record["seconds"] > 0
        assert ("test_loss" in record) == (record["round"] % 2 == 0)
    assert history.records[-1]["test_loss"] == float(measured()(history.state.params)["loss"])
    elapsed = [r["elapsed"] for r in history.records]
    assert elapsed == sorted(elapsed)
    json.dumps(history.records)


def test_many_rounds_in_a_dispatch_are_the_same_rounds() -> None:
    together, apart = go(), go(rounds_per_dispatch=1)
    for a, b in zip(together.records, apart.records, strict=True):
        assert (a["round"], a["reported"], a["bytes_up"]) == (b["round"], b["reported"], b["bytes_up"])
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6, nan_ok=True)
    np.testing.assert_allclose(together.state.params["w"], apart.state.params["w"], rtol=1e-6)


def test_the_last_round_is_always_evaluated() -> None:
    assert "test_loss" in go(evaluate=measured(), evaluate_every=3, rounds_per_dispatch=1).records[-1]


def test_a_round_without_reports_has_no_loss(tmp_path) -> None:
    nobody = fl.sampling.uniform(3)
    sample = lambda key, number, population: nobody.sample(key, number, population)._replace(  # noqa: E731
        reported=jnp.zeros((3,), bool)
    )
    run = fl.rounds(
        composed().algorithm,
        sampler=nobody._replace(sample=sample),
        aggregator=fl.weighted_mean(),
        execution=fl.Execution(devices=1),
    )
    state = run.init(PARAMS, people(), key=jax.random.key(1))
    history = train(run, state, people(), num_rounds=1, out_dir=tmp_path, progress=False)
    assert math.isnan(history.records[0]["loss"])
    assert history.records[0]["bytes_up"] == 0
    line = (tmp_path / "records.jsonl").read_text()
    assert '"loss": null' in line
    assert "NaN" not in line


def test_evaluations_have_names_and_may_be_client_reports() -> None:
    clients = fl.evaluate_clients(loss_fn, people(), execution=fl.Execution(devices=1))
    history = go(
        num_rounds=2,
        evaluate={"test": measured(), "people": clients},
        evaluate_state=lambda state: {"round": state.round},
        evaluate_every=2,
    )
    last = history.records[-1]
    assert last["test_loss"] == pytest.approx(last["people_loss"], rel=1e-5)
    assert last["people_loss_worst10"] >= last["people_loss_best10"]
    assert last["clients_round"] == 2


# --- observers


def test_observers_hear_of_every_round_in_order_and_of_the_end() -> None:
    heard = []
    watch = Observer(
        start=lambda start: heard.append(("start", start.num_rounds, sorted(start.metrics))),
        round=lambda record, state: heard.append((record["round"], int(state.round))),
        end=lambda history: heard.append(("end", len(history.records))),
    )
    go(observers=[watch], evaluate=measured(), evaluate_every=4)
    assert heard == [("start", 4, ["test_loss"]), (1, 2), (2, 2), (3, 4), (4, 4), ("end", 4)]


def test_an_observer_can_name_the_last_round_before_the_run(tmp_path) -> None:
    told = []
    cap = Observer(last_round=lambda start: observers.LastRound(3, f"enough of {start.num_rounds}"))
    late = Observer(last_round=lambda start: observers.LastRound(9, "too late to matter"))
    watch = Observer(start=lambda start: told.append(start.num_rounds))
    options = {"observers": [late, cap, watch], "out_dir": tmp_path}
    history = go(evaluate=measured(), evaluate_every=2, **options)
    assert [r["round"] for r in history.records] == [1, 2, 3]
    assert (int(history.state.round), history.stopped, told) == (3, "enough of 4", [3])
    assert "test_loss" in history.records[-1]
    again = go(resume=True, **options)
    assert (int(again.state.round), again.stopped, len(again.records)) == (3, "enough of 4", 3)
    assert go(observers=[late]).stopped is None


def test_an_observer_can_ask_for_single_rounds_and_stop_at_once() -> None:
    rounds_seen = []

    def watch(record, state):
        rounds_seen.append((record["round"], int(state.round)))
        return Stop("enough", {"spent": 1.5}) if record["round"] == 3 else {"spent": 0.5}

    history = go(observers=[Observer(watch, every_round=True)])
    assert rounds_seen == [(1, 1), (2, 2), (3, 3)]
    assert history.stopped == "enough"
    assert [r["spent"] for r in history.records] == [0.5, 0.5, 1.5]


@pytest.mark.usefixtures("no_pictures")
def test_what_an_observer_adds_is_recorded(tmp_path) -> None:
    go(observers=[lambda record, state: {"epsilon": jnp.float32(record["round"])}], out_dir=tmp_path)
    assert [r["epsilon"] for r in records.read(tmp_path / "records.jsonl")] == [1, 2, 3, 4]


def test_observers_end_also_after_an_error() -> None:
    ends = []

    def fail(record, state):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        go(observers=[Observer(end=lambda history: ends.append(history.stopped)), fail])
    assert ends == ["RuntimeError: mine"]


@pytest.mark.parametrize("name", ["loss", "test_loss"])
def test_a_target_ends_the_run(name) -> None:
    free = go(num_rounds=6, evaluate=measured(), rounds_per_dispatch=1)
    wanted = free.records[2]["test_loss"]
    history = go(num_rounds=6, evaluate=measured(), target={name: wanted}, rounds_per_dispatch=1)
    assert history.records[-1]["test_loss"] <= wanted
    assert all(r["test_loss"] > wanted for r in history.records[:-1])
    assert history.stopped is not None
    assert history.stopped.startswith("test_loss reached")


def falling():
    """A metric of one's own, which falls in every round, and the library's; as a plain function and as a loss."""
    error = lambda params: people().features["x"] @ params["w"] - people().features["y"]  # noqa: E731
    return lambda params: {"mae": jnp.abs(error(params)).mean(), "loss": (error(params) ** 2).mean()}


NAMES = ("mae", "rmse", "perplexity", "brier", "nll", "zero_one_loss", "log_loss", "error", "explained_var")


@pytest.mark.parametrize("name", NAMES)
def test_which_way_a_metric_is_better_is_never_guessed(name) -> None:
    evaluate = lambda params: {name: 1.0}  # noqa: E731
    with pytest.raises(ValueError, match=f"`target` names '{name}', and nobody says whether it is to fall or to rise"):
        go(evaluate=evaluate, target={name: 0.5})
    with pytest.raises(ValueError, match=f"`metric` is 'test_{name}', and nobody says which way it is better"):
        go(evaluate=evaluate, observers=[observers.early_stop(f"test_{name}", patience=1)])
    watch = observers.early_stop(f"test_{name}", patience=1)
    with pytest.raises(ValueError, match="nobody says which way"):
        watch.round({"round": 1, f"test_{name}": 1.0}, None)


@pytest.mark.parametrize("way", ["in the target", "in train", "of the record's name", "by the loss"])
def test_a_target_that_falls_is_fallen_to(way) -> None:
    evaluate, options = falling(), {"num_rounds": 6, "rounds_per_dispatch": 1}
    wanted = go(evaluate=evaluate, **options).records[2]["test_mae"]
    if way == "in the target":
        options["observers"] = [observers.stop_at({"mae": wanted}, better={"mae": "lower"})]
    elif way == "by the loss":

        def loss(params, batch, key):
            error = batch["x"] @ params["w"] - batch["y"]
            return error**2, fl.LossAux(metrics={"mae": jnp.abs(error)})

        evaluate = fl.evaluate(fl.losses.declare(loss, better={"mae": "lower"}), people())
        wanted, options["target"] = wanted * 1.0001, {"mae": wanted * 1.0001}
    else:
        name = "mae" if way == "in train" else "test_mae"
        options |= {"target": {name: wanted}, "better": {name: "lower"}}
    history = go(evaluate=evaluate, **options)
    assert history.stopped.startswith("test_mae reached")
    assert history.records[-1]["test_mae"] <= wanted < history.records[-2]["test_mae"]


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_early_stop_goes_the_way_it_is_told(better) -> None:
    values = iter([9.0, 8.0, 7.0, 6.0, 5.0, 4.0])
    seen = []
    watch = observers.early_stop("test_mae", patience=2, better=better)
    run = {"evaluate": lambda params: {"mae": next(values)}, "num_rounds": 5, "rounds_per_dispatch": 1}
    history = go(observers=[watch, lambda record, state: seen.append(record["test_mae"])], **run)
    assert history.stopped == (None if better == "lower" else "test_mae has not improved since round 1")
    assert len(seen) == (5 if better == "lower" else 3)


def test_known_metrics_go_their_way_under_any_name_of_their_evaluation() -> None:
    """Summaries of reports too: a spread over clients is better low, of whatever."""
    summary = {"accuracy": 0.5, "accuracy_worst10": 0.4, "accuracy_gini": 0.3, "loss_p90": 2.0, "absolute_error": 1.0}
    told = []
    watch = Observer(start=lambda start: told.append(dict(start.better)))
    go(evaluate={"my_own": lambda params: summary}, evaluate_state=lambda state: {"loss": 1.0}, observers=[watch])
    names = {f"my_own_{name}": "lower" for name in summary} | {"clients_loss": "lower"}
    assert told == [{**names, "my_own_accuracy": "higher", "my_own_accuracy_worst10": "higher"}]


@pytest.mark.parametrize(
    ("name", "better", "text"),
    [
        ("test_maee", None, "`metric` is 'test_maee', but the evaluation gives test_mae, test_loss. Name one of those"),
        ("test_maee", "lower", "`metric` is 'test_maee', but the evaluation gives test_mae, test_loss. Name one"),
        ("clients_loss", None, "`metric` is 'clients_loss', but the evaluation gives test_mae"),
        ("mea", None, "`metric` is 'mea', but the evaluation gives test_mae"),
    ],
)
def test_names_that_do_not_exist_are_refused_before_training(name, better, text) -> None:
    seen = []
    with pytest.raises(ValueError, match=text):
        go(evaluate=falling(), observers=[seen.append, observers.early_stop(name, patience=3, better=better)])
    assert not seen


def test_names_of_training_and_of_other_observers_are_watched() -> None:
    """A name that only a record can show is sought in the first one."""
    adds = lambda record, state: {"mine": float(record["round"])}  # noqa: E731
    alone = {"num_rounds": 4, "rounds_per_dispatch": 1}
    watch = observers.early_stop("mine", patience=2, better="lower")
    assert go(observers=[adds, watch], **alone).stopped == "mine has not improved since round 1"
    assert go(observers=[observers.early_stop("loss", patience=9)], **alone).stopped is None
    assert go(observers=[observers.early_stop("local_steps", patience=9, better="lower")], **alone).stopped is None
    for watching in ([observers.early_stop("accuracy", patience=9)], [watch, adds]):
        with pytest.raises(
            ValueError, match="which is neither evaluated nor in the record of round 1, which has round"
        ):
            go(observers=watching, **alone)


def test_directions_are_checked() -> None:
    with pytest.raises(ValueError, match=r'`better\[\'mae\'\]` is \'down\'; expected "lower" or "higher"'):
        go(evaluate=falling(), target={"mae": 1}, better={"mae": "down"})
    with pytest.raises(TypeError, match=r"`better` is 'lower'; expected a dict such as"):
        observers.stop_at({"mae": 1}, better="lower")
    with pytest.raises(TypeError, match=r"`better` has the key 3; expected the name of a metric"):
        go(better={3: "lower"})
    with pytest.raises(ValueError, match=r'`better` is \'min\'; expected "lower" or "higher"'):
        observers.early_stop("test_mae", patience=1, better="min")
    with pytest.raises(TypeError, match=r"`metric` is 3; expected a name in the records"):
        observers.early_stop(3, patience=1)


def test_early_stop_survives_a_resume_and_values_that_are_not_finite() -> None:
    watch = observers.early_stop("test_loss", patience=2)
    old = [{"round": 1, "test_loss": math.nan}, {"round": 2, "test_loss": 1.0}, {"round": 3, "test_loss": 1.5}]
    watch.start(observers.Start(None, None, None, 9, None, old, {"test_loss": 1.5}))
    assert watch.round({"round": 4, "loss": 0.1}, None) is None
    assert watch.round({"round": 4, "test_loss": 1.2}, None).reason == "test_loss has not improved since round 2"


@pytest.mark.usefixtures("no_pictures")
def test_tensorboard_files_are_written(tmp_path) -> None:
    go(num_rounds=2, out_dir=tmp_path, tensorboard=True)
    assert any("tfevents" in path.name for path in (tmp_path / "tensorboard").iterdir())


# --- progress


def test_progress_is_plain_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    go(observers=[progress.progress(interval=1e9, file=out)], evaluate=lambda params: {"accuracy": 0.5})
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("fed_avg on 6 clients, uniform(3)+dropout a round")
    assert lines[1].startswith("round 1/4")
    assert lines[2].startswith("round 4/4")
    assert "loss" in lines[2]
    assert "test accuracy 50.00%" in lines[2]


def test_progress_is_a_bar_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    go(observers=[progress.progress(file=out)], target={"accuracy": 0.4}, evaluate=lambda params: {"accuracy": 0.5})
    assert "2/4" in out.getvalue() or "1/4" in out.getvalue()
    assert "ended: test_accuracy reached 0.5" in out.getvalue()


# --- the folder


def test_a_folder_holds_everything(tmp_path) -> None:
    go(evaluate=measured(), out_dir=tmp_path, config={"arguments": {"rate": 0.1, "none": None}})
    config = tomllib.loads((tmp_path / "config.toml").read_text())
    assert set(config) >= {"date", "versions", "platform", "algorithm", "sampler", "aggregator", "execution"}
    assert config["versions"].keys() >= {"python", "fedjaxlite", "jax", "jaxlib", "flax", "optax", "numpy"}
    assert config["algorithm"] == {"name": "fed_avg", "batch_size": 5, "epochs": 1, "shuffle": True}
    assert config["population"]["fingerprint"] == people().fingerprint()
    assert config["model"]["num_params"] == 3
    assert config["execution"]["devices"] == 1
    assert config["arguments"] == {"rate": 0.1}
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [int(p.name) for p in (tmp_path / "checkpoints").iterdir()] == [4]
    assert records.read(tmp_path / "records.jsonl")[-1]["round"] == 4


@pytest.mark.usefixtures("no_pictures")
def test_resuming_goes_on_behind_the_checkpoint(tmp_path) -> None:
    straight = go(num_rounds=6, evaluate=measured(), evaluate_every=2)
    go(num_rounds=4, evaluate=measured(), evaluate_every=2, out_dir=tmp_path)
    path = tmp_path / "records.jsonl"
    lines = path.read_text()
    # As after a crash in round 6: a record beyond the checkpoint, and one that was cut while it was written.
    path.write_text(lines + lines.splitlines()[-1].replace('"round": 4', '"round": 5') + '\n{"round": 6, "lo')
    history = go(num_rounds=6, evaluate=measured(), evaluate_every=2, out_dir=tmp_path, resume=True)
    assert [r["round"] for r in history.records] == [1, 2, 3, 4, 5, 6]
    assert [r["round"] for r in records.read(path)] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(history.state.params["w"], straight.state.params["w"])
    assert history.records[-1]["test_loss"] == straight.records[-1]["test_loss"]
    config = tomllib.loads((tmp_path / "config.toml").read_text())
    assert config["resumed"][0]["from_round"] == 4
    assert config["algorithm"]["name"] == "fed_avg"
    again = go(num_rounds=6, out_dir=tmp_path, resume=True)  # nothing is left to do
    assert len(again.records) == 6


@pytest.mark.usefixtures("no_pictures")
def test_resuming_without_a_checkpoint_starts(tmp_path) -> None:
    (tmp_path / "records.jsonl").write_text('{"round": 1, "loss": 1.0}\n')
    history = go(out_dir=tmp_path, resume=True)
    assert [r["round"] for r in records.read(tmp_path / "records.jsonl")] == [1, 2, 3, 4]
    assert len(history.records) == 4


@pytest.mark.usefixtures("no_pictures")
def test_control_c_leaves_a_checkpoint_of_the_last_round(tmp_path) -> None:
    def interrupt(record, state):
        if record["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(out_dir=tmp_path, observers=[interrupt])
    assert [int(p.name) for p in (tmp_path / "checkpoints").iterdir()] == [2]
    assert len(go(out_dir=tmp_path, resume=True).records) >= 3


# --- refusals, all before any training


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"num_rounds": 0}, ValueError, "`num_rounds` is 0; expected an int of at least 1"),
        ({"num_rounds": 2.0}, TypeError, "`num_rounds` is 2.0"),
        ({"evaluate_every": 0}, ValueError, "`evaluate_every` is 0"),
        ({"checkpoint_every": 0}, ValueError, "`checkpoint_every` is 0"),
        ({"keep_checkpoints": 0}, ValueError, "`keep_checkpoints` is 0"),
        ({"rounds_per_dispatch": 0}, ValueError, "`rounds_per_dispatch` is 0"),
        ({"resume": True}, ValueError, "`resume` is True without an `out_dir`"),
        ({"tensorboard": True}, ValueError, "`tensorboard` is True without an `out_dir`"),
        ({"observers": [3]}, TypeError, r"`observers\[0\]` is 3; expected a function"),
        ({"evaluate": 3}, TypeError, "`evaluate` is 3; expected a function"),
        ({"evaluate": lambda params: 3.0}, TypeError, "the evaluation 'test' returned a float; expected a dict"),
        ({"evaluate": lambda params: {"a": "b"}}, TypeError, "returned 'b' for 'a'; expected a scalar"),
        ({"target": {}}, TypeError, "`target` is {}; expected a dict"),
        ({"target": {"accuracy": "high"}}, ValueError, r"`target\['accuracy'\]` is 'high'"),
        ({"target": {"accuracy": 0.9}}, ValueError, "names 'accuracy', but the evaluation gives nothing"),
        ({"num_rounds": 2**31}, ValueError, "`num_rounds` is 2147483648; expected at most 2147483647"),
        ({"config": 3}, TypeError, "`config` is a int; expected a dict"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, error, told) -> None:
    calls = []
    with pytest.raises(error, match=told):
        go(**{"observers": [lambda record, state: calls.append(1)], **options})
    assert calls == []


def test_a_target_that_is_not_evaluated_is_refused() -> None:
    with pytest.raises(ValueError, match="`target` names 'accuracy', but the evaluation gives test_loss"):
        go(evaluate=measured(), target={"accuracy": 0.9})


def test_num_rounds_counts_from_the_beginning() -> None:
    done = go(num_rounds=2).state
    assert [r["round"] for r in go(done, num_rounds=4).records] == [3, 4]
    with pytest.raises(ValueError, match=r"`state` has done 2 rounds already.*such as 4 for 2 more"):
        go(done, num_rounds=2)


def test_more_rounds_than_a_replay_knows_are_refused() -> None:
    run = composed()._replace(sampler=fl.sampling.replay(np.array([[0, 1, 2], [3, 4, 5]])))
    with pytest.raises(ValueError, match=r"`num_rounds` is 3, but replay.* knows 2 rounds"):
        train(run, start(), people(), num_rounds=3, progress=False)


@pytest.mark.parametrize(
    ("position", "told"),
    [(0, "`rounds` is a int"), (1, "`state` is a int"), (2, "`population` is a int")],
)
def test_other_things_than_a_run_are_refused(position, told) -> None:
    parts = [composed(), start(), people()]
    parts[position] = 3
    with pytest.raises(TypeError, match=told):
        train(*parts, num_rounds=1)


def test_a_folder_with_a_run_is_refused(tmp_path) -> None:
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(FileExistsError, match=r"holds a run already \(config.toml\). Go on with it by resume=True"):
        go(out_dir=tmp_path)


@pytest.mark.usefixtures("no_pictures")
def test_a_run_that_did_not_begin_leaves_its_folder_free(tmp_path) -> None:
    with pytest.raises(TypeError, match="the evaluation 'test' returned a float"):
        go(out_dir=tmp_path, evaluate=lambda params: 3.0)
    assert not (tmp_path / "config.toml").exists()

    def fail(record, state):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        go(out_dir=tmp_path, observers=[fail])
    assert len(go(out_dir=tmp_path).records) == 4


def test_a_folder_that_cannot_be_written_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"which cannot be written to: .*Give a folder that can"):
        go(out_dir=tmp_path / "file" / "run")


def test_a_table_of_the_library_is_not_overwritten(tmp_path) -> None:
    with pytest.raises(ValueError, match="`config` has versions, which the library writes itself"):
        go(out_dir=tmp_path, config={"versions": {}})


# --- small parts


def test_the_piece_divides_every_interval() -> None:
    piece = lambda most, asked: piece_of(composed(), most, [], asked)  # noqa: E731
    assert piece(None, []) == 10
    assert piece(None, [25]) == 5
    assert piece(50, [25]) == 25
    assert piece(None, [4, 6]) == 2
    assert piece(None, [7]) == 7
    assert piece(None, [23]) == 1
    assert piece(50, [36]) == 36
    assert piece(30, [36]) == 18
    assert piece(None, [10**12]) == 10  # never asked for within what a state can count
    assert piece(10**12, [10**9]) == 10**9
    assert piece(10**12, []) == 2**31 - 1
    assert piece_of(composed(), 8, [Observer(every_round=True)], [8]) == 1


@pytest.mark.parametrize("most", [10**12, 10**30])
def test_any_number_of_rounds_a_dispatch_is_taken(most) -> None:
    assert len(go(num_rounds=2, rounds_per_dispatch=most).records) == 2
    assert len(go(num_rounds=2, evaluate=measured(), evaluate_every=most).records) == 2


@pytest.mark.usefixtures("no_pictures")
def test_main_events_are_logged_and_no_handler_is_installed(tmp_path, caplog) -> None:
    log = logging.getLogger("fedjaxlite")
    with caplog.at_level(logging.INFO, "fedjaxlite"):
        go(
            out_dir=tmp_path,
            checkpoint_every=2,
            observers=[Observer(lambda r, s: Stop("mine") if r["round"] == 2 else None)],
        )
        go(out_dir=tmp_path, checkpoint_every=2, resume=True)
    told = [record.getMessage() for record in caplog.records]
    assert f"a run of 4 rounds begins in {tmp_path}" in told
    assert f"checkpoint of round 2 in {tmp_path / 'checkpoints'}" in told
    assert "ended after round 2: mine" in told
    assert f"the run in {tmp_path} goes on from round 2 to round 4" in told
    assert "ended after round 4: done" in told
    assert log.handlers == []
    assert log.level == logging.NOTSET


def test_a_broken_file_of_records_is_refused(tmp_path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"round": 1}\nnothing\n{"round": 3}\n')
    with pytest.raises(ValueError, match=r"line 2 of .* is no record"):
        records.read(path)


def test_numbers_that_are_not_finite_come_back_as_nan(tmp_path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(records.to_line({"round": 1, "a": math.inf, "b": np.float32(0.5), "c": float("nan")}))
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {"round": 1, "a": None, "b": 0.5, "c": None}
    assert math.isnan(records.read(path)[0]["a"])


def test_a_metric_called_like_a_record_is_renamed() -> None:
    sent = {"bytes_up": np.uint32([7, 0, 7]), "bytes_down": np.uint32([9, 9, 9])}
    info = fl.PassInfo(3, 2, 0, 10, 0, {"seconds": np.float32(3)}, sent)
    [record] = records.of_dispatch(info, first=1, num_rounds=1, seconds=0.5)
    assert (record["bytes_up"], record["bytes_down"]) == (14, 27)
    assert (record["seconds"], record["train_seconds"]) == (0.5, 3.0)


def test_curves_need_something_to_draw(tmp_path) -> None:
    with pytest.raises(ValueError, match="no records with a loss or an accuracy"):
        curves.plot([{"round": 1}], tmp_path / "curves.png")


def test_text_is_replaced_or_left(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a"
    storage.replace_text(path, "old")
    monkeypatch.setattr(storage.os, "fsync", lambda number: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        storage.replace_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
