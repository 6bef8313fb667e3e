"""Options of --distributed, and calls of `initialize` that come to nothing; no second process is started."""

from typing import Any

import jax
import pytest

import fedjaxlite as fl
from fedjaxlite.cli.settings import Settings, to_arguments
from fedjaxlite.cli.several.joining import Shared, check, share
from fedjaxlite.distributed import leaving


@pytest.mark.parametrize(
    ("asked", "before", "cores", "cohort", "count", "found"),
    [
        (None, None, 8, 10, 2, Shared(None, 5)),  # no more devices than clients in a round
        (None, None, 2, 100, 4, Shared(None, 2)),
        (None, None, 2, 1, 4, Shared(None, 1)),
        (4, None, 2, 10, 2, Shared(4, 2)),
        (None, 4, 2, 10, 4, Shared(4, 1)),
        (None, 4, 2, 10, 3, Shared(None, 1)),  # of a run that goes on elsewhere
        (6, 4, 2, 10, 3, Shared(6, 2)),
    ],
)
def test_devices_are_shared_out(asked: Any, before: Any, cores: int, cohort: int, count: int, found: Shared) -> None:
    assert share(asked, before, cores, cohort, count) == found


def test_devices_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(ValueError, match="--devices is 4, and there are 3 processes.*give a multiple of 3"):
        share(4, None, 2, 10, 3)


@pytest.mark.parametrize(
    ("settings", "what", "text"),
    [
        (Settings(coordinator="a:1"), "", "--coordinator was given without --distributed"),
        (Settings(process_id=0), "", "--process-id was given without --distributed"),
        (Settings(distributed=True), "A sweep", "A sweep runs in one process; leave --distributed out"),
    ],
)
def test_options_without_their_meaning_are_refused(settings: Settings, what: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        check(settings, what)


def test_a_config_does_not_hold_where_a_run_was() -> None:
    settings = Settings(distributed=True, coordinator="a:1", processes=2, process_id=0, heartbeat=5.0)
    assert to_arguments(settings) == to_arguments(Settings())


def test_one_process_is_what_there_is_already() -> None:
    jax.devices()
    with pytest.raises(RuntimeError, match="JAX has started already, and cannot be told of other processes"):
        fl.distributed.initialize("127.0.0.1:1", 2, 0)


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"heartbeat_seconds": 0.5}, ValueError, "`heartbeat_seconds` is 0.5; expected at least 1"),
        ({"heartbeat_seconds": 0}, ValueError, "`heartbeat_seconds` is 0; expected"),
        ({"timeout_seconds": -1}, ValueError, "`timeout_seconds` is -1; expected"),
        ({"local_devices": -1}, ValueError, "`local_devices` is -1; expected"),
        ({"coordinator": 7}, TypeError, "`coordinator` is 7; expected"),
        ({"num_processes": 1.5}, TypeError, "`num_processes` is 1.5; expected"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], kind: type[Exception], text: str) -> None:
    given: dict[str, Any] = {"coordinator": "127.0.0.1:1", "num_processes": 2, "process_id": 0, **arguments}
    with pytest.raises(kind, match=text):
        fl.distributed.initialize(**given)


def caused(error: Exception, by: Exception) -> Exception:
    error.__cause__ = by
    return error


GLOO = "UNKNOWN: Gloo all-reduce failed: [pair.cc:538] Read error [127.0.0.1]:38316: Connection reset by peer"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError(GLOO), True),
        (jax.errors.JaxRuntimeError(GLOO), True),
        (jax.errors.JaxRuntimeError("UNAVAILABLE: the coordination service is gone"), True),
        (caused(RuntimeError("the round failed"), ValueError(GLOO)), True),
        (ValueError("`num_rounds` is 0; expected a positive integer"), False),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), False),
    ],
)
def test_errors_of_collectives_are_known(error: Exception, expected: bool) -> None:
    assert leaving.of_a_collective(error) is expected
