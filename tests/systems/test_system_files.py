"""Devices and traces: drawn ones, and those of files."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjaxlite.sampling import Seconds
from fedjaxlite.systems import (
    availability,
    availability_from_file,
    devices_from_file,
    drawn_availability,
    drawn_devices,
    is_there,
    seconds_left,
    seconds_of,
    seconds_until,
)

HEADER = "seconds_per_step,up_bytes_per_second,down_bytes_per_second,latency_seconds"


def test_drawn_devices_are_lognormal_whoever_else_is_there():
    key, n = jax.random.key(3), 20_000
    drawn = drawn_devices(key, n)
    for column, median, spread in (
        (drawn.seconds_per_step, 0.27, 0.6),
        (drawn.up_bytes_per_second, 0.6e6, 1.0),
        (drawn.down_bytes_per_second, 2.5e6, 1.0),
        (drawn.latency_seconds, 0.1, 0.5),
    ):
        z = np.log(np.asarray(column, np.float64) / median) / spread
        assert abs(z.mean()) < 4.5 / np.sqrt(n)  # false alarms: 7e-6, and so below
        assert abs(z.var() - 1) < 4.5 * np.sqrt(2 / n)
    ratio = np.asarray(drawn.up_bytes_per_second) / np.asarray(drawn.down_bytes_per_second)
    np.testing.assert_allclose(ratio, 0.24, rtol=1e-5)
    few = drawn_devices(key, 100)
    assert np.array_equal(few.seconds_per_step, drawn.seconds_per_step[:100])


def test_a_spread_may_be_traced():
    draw = lambda spread: drawn_devices(jax.random.key(0), 5, step_spread=spread).seconds_per_step  # noqa: E731
    both = jax.jit(jax.vmap(draw))(jnp.array([0.0, 1.0]))
    assert np.asarray(both[0]).tolist() == [np.float32(0.27).item()] * 5
    assert float(both[1].std()) > 0.01


def test_capacities_of_fedscale_are_of_inference_and_kilobits(tmp_path):
    path = tmp_path / "client_device_capacity"
    table = {2: {"computation": 100, "communication": 2000.0}, 1: {"computation": 40.0, "communication": 8000}}
    path.write_bytes(pickle.dumps(table))
    read = devices_from_file(path, 3, examples_per_step=20)
    np.testing.assert_allclose(read.seconds_per_step, [2.4, 6.0, 2.4], rtol=1e-6)
    # Its `get_completion_time`: 3 * batch * steps * ms / 1000 + kbits / kbps, with kbits of bytes / 1024 * 8.
    took = seconds_of(read, jnp.array([0, 1]), jnp.array([5, 5]), 10_000, 10_000)
    want = [3 * 20 * 5 * ms / 1000 + 2 * (10_000 / 1024 * 8) / kbps for ms, kbps in ((40, 8000), (100, 2000))]
    np.testing.assert_allclose(took, want, rtol=1e-6)


def test_devices_of_a_table(tmp_path):
    path = tmp_path / "devices.csv"
    path.write_text(f"{HEADER},memory_bytes\n0.5,10,20,1,4e9\n1,20,40,0,2e9\n")
    read = devices_from_file(path)
    assert np.asarray(read.memory_bytes).tolist() == [4e9, 2e9]
    assert read.battery_joules is None
    assert np.asarray(read.up_bytes_per_second).tolist() == [10, 20]


@jax.jit
def _ask(trace, times):
    """Whether clients are there, until they leave, and until they come, at some times."""
    ids = jnp.arange(len(trace.period), dtype=jnp.int32)
    return jax.vmap(lambda t: (is_there(trace, ids, t), seconds_left(trace, ids, t), seconds_until(trace, ids, t)))(
        times
    )


class _Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("read", [devices_from_file, availability_from_file], ids=["devices", "availability"])
def test_a_pickle_that_runs_something_is_refused(tmp_path, read):
    path, trace = tmp_path / "file", str(tmp_path / "ran")
    for protocol in (0, 2, 4, 5):
        path.write_bytes(pickle.dumps({1: _Runs(trace)}, protocol=protocol))
        with pytest.raises(ValueError, match="only dicts, lists, numbers and text are read"):
            read(path)
    path.write_bytes(pickle.dumps({1: {"computation": np.float64(3), "active": np.zeros(3)}}))
    with pytest.raises(ValueError, match="Save it again with plain Python values"):
        read(path)
    assert not (tmp_path / "ran").exists()
    for damaged in (b"", b"nonsense", pickle.dumps({1: 2})[:-3]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="this pickle is not read"):
            read(path)
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match="holds list; expected a dict of clients"):
        read(path)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("seconds_per_step\n1\n", "has no column up_bytes_per_second"),
        (f"{HEADER},speed\n1,1,1,1,1\n", "has a column 'speed'"),
        (f"{HEADER}\n1,1,1,fast\n", "`latency_seconds` of client 0 is 'fast'; expected a number"),
        (f"{HEADER}\n1,0,1,1\n", "`Devices.up_bytes_per_second` is 0.0 for client 0; expected numbers above 0"),
        ("", "has no column seconds_per_step"),
    ],
    ids=range(5),
)
def test_tables_of_devices_that_make_no_sense(tmp_path, text, error):
    path = tmp_path / "devices.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=error):
        devices_from_file(path)


def test_behavior_of_fedscale(tmp_path):
    path = tmp_path / "client_behave_trace"
    table = {
        1: {"active": [100, 500], "inactive": [200, 700], "finish_time": 1000, "model": "a phone", "duration": 300},
        2: {"active": [0], "inactive": [50], "finish_time": 400},
    }
    path.write_bytes(pickle.dumps(table))
    trace = availability_from_file(path, 3)
    there, left, until = (value.tolist() for value in _ask(trace, jnp.array([150, 210, 900], jnp.float32)))
    assert there[0] == [True, False, True]
    assert left[0] == [50, 0, 50]
    assert until[1:] == [[290, 190, 290], [200, 300, 200]]  # each has a period of its own


def test_windows_are_those_of_a_loop():
    """Windows that touch, overlap and go over the end of the period, at every second of two periods."""
    rng, period, clients = np.random.default_rng(5), 60, 8
    windows = {}
    for client in range(clients):
        begins = rng.integers(0, period, client)
        windows[client] = [(int(b), int(b + rng.integers(0, 25))) for b in begins]
    windows[clients] = [(0, period)]
    there = np.zeros((clients + 1, period), bool)
    for client, rows in windows.items():
        for begin, end in rows:
            there[client, np.arange(begin, end) % period] = True
    trace = availability(windows, period=period)
    times = jnp.arange(2 * period, dtype=jnp.float32)
    held, left, until = (np.asarray(value) for value in _ask(trace, times))
    assert (held == np.tile(there, 2).T).all()
    for client in range(clients + 1):
        for second in range(2 * period):
            ahead = np.roll(there[client], -(second % period))
            gone = np.inf if ahead.all() else float(np.argmin(ahead))
            comes = float(np.argmax(ahead)) if ahead.any() else np.inf
            assert (left[second, client], until[second, client]) == (gone, comes)


def test_years_later_a_second_is_still_a_second():
    trace = availability({0: [(10, 20)]}, period=86_400)
    late = Seconds(jnp.array([86_400 * 20_000 + 12], jnp.int32), jnp.array([0.25], jnp.float32))
    assert _ask(trace, late)[1].tolist() == [[7.75]]


def test_a_day_of_devices():
    trace = drawn_availability(jax.random.key(1), 4000, days=3, skip=0.4)
    length = np.asarray(trace.ends - trace.begins)
    assert set(np.round(np.unique(length)).tolist()) == {0.0, 28800.0}
    share = (length > 0).mean()
    assert abs(share - 0.6) < 4.5 * np.sqrt(0.24 / length.size)  # false alarms: 7e-6
    assert ((np.asarray(trace.begins) >= 0) & (np.asarray(trace.begins) <= 3 * 86_400)).all()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("client,start\n0,1\n", "expected the header client,begin,end"),
        ("client,begin,end\n0,1,x\n", "line 2: could not convert"),
        ("client,begin,end\n0,5,1\n", "has .* for client '0'; expected .begin, end. with"),
        ("client,begin,end\n", "expected a dict"),
    ],
    ids=range(4),
)
def test_traces_that_make_no_sense(tmp_path, text, error):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=error):
        availability_from_file(path)


def test_periods_and_hours_that_make_no_sense(tmp_path):
    with pytest.raises(ValueError, match="expected whole seconds"):
        availability({0: []}, period=1.5)
    with pytest.raises(ValueError, match="expected hours .* below 24"):
        drawn_availability(jax.random.key(0), 3, hours=22.5)
    (tmp_path / "trace").write_bytes(b"")
    with pytest.raises(ValueError, match="has its own; leave it out"):
        availability_from_file(tmp_path / "trace", period=3)
    with pytest.raises(FileNotFoundError, match="`path` is .*; there is no such file"):
        availability_from_file(tmp_path / "nowhere")
    (tmp_path / "trace").write_bytes(pickle.dumps({1: {"active": [1, 2], "inactive": [3], "finish_time": 9}}))
    with pytest.raises(ValueError, match="with lists of the same length"):
        availability_from_file(tmp_path / "trace")
