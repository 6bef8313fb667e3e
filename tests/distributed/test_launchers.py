"""Who a process is: from arguments, SLURM, Open MPI, Kubernetes, or variables; and what contradicts itself."""

from typing import Any

import pytest

from fedjaxlite.distributed.launchers import place_of

SLURM = {
    "SLURM_JOB_ID": "4100",
    "SLURM_STEP_NODELIST": "gpu[003-004,7],big1",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "1",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
KUBERNETES = {"JOB_COMPLETION_INDEX": "3", "JAX_COORDINATOR_ADDRESS": "run-0.run:55527", "JAX_NUM_PROCESSES": "4"}


def place(environment: dict[str, str] | None = None, *given: Any, local: Any = None) -> tuple[Any, ...]:
    coordinator, number, own = [*given, None, None, None][:3]
    return tuple(place_of(coordinator, number, own, local, environment or {}))


@pytest.mark.parametrize(
    ("environment", "given", "expected"),
    [
        ({}, ("a:1", 2, 1), ("a:1", 2, 1, None, "arguments")),
        (SLURM, (), ("gpu003:61444", 4, 2, (1,), "SLURM")),
        (SLURM, ("gpu003:9", None, 2), ("gpu003:9", 4, 2, (1,), "SLURM")),
        (SLURM, ("a:1", 2, 1), ("a:1", 2, 1, None, "arguments")),
        ({**SLURM, "CUDA_VISIBLE_DEVICES": "0"}, (), ("gpu003:61444", 4, 2, None, "SLURM")),
        ({**SLURM, "CUDA_VISIBLE_DEVICES": "0,1"}, (), ("gpu003:61444", 4, 2, (1,), "SLURM")),
        ({**SLURM, "JAX_COORDINATOR_PORT": "77"}, (), ("gpu003:77", 4, 2, (1,), "SLURM")),
        ({**SLURM, **OPEN_MPI}, (), ("10.96.0.1:62624", 8, 5, (1,), "Open MPI")),
        (KUBERNETES, (), ("run-0.run:55527", 4, 3, None, "Kubernetes")),
        ({**KUBERNETES, "JAX_PROCESS_ID": "9"}, (), ("run-0.run:55527", 4, 3, None, "Kubernetes")),
        (
            {"JAX_COORDINATOR_ADDRESS": "h:5", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
            (),
            ("h:5", 2, 0, None, "JAX_* variables"),
        ),
    ],
)
def test_launchers_say_who_a_process_is(environment: Any, given: Any, expected: Any) -> None:
    assert place(environment, *given) == expected


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("n1", "n1"), ("n1,n2", "n1"), ("n[07-9]", "n07"), ("n[3,5-6],m1", "n3"), ("n[1-2]-ib", "n1-ib")],
)
def test_the_first_host_of_a_list(nodes: str, host: str) -> None:
    assert place({**SLURM, "SLURM_STEP_NODELIST": nodes})[0] == f"{host}:61444"


def test_devices_that_are_given_are_taken() -> None:
    assert place({}, "a:1", 2, 1, local=[2, 3])[3] == (2, 3)
    assert place(SLURM, local=0)[3] == (0,)


@pytest.mark.parametrize(
    ("environment", "given", "text"),
    [
        ({}, (), "`coordinator` and `num_processes` and `process_id` are not given, and there is no launcher"),
        ({}, ("a:1", 2), "`process_id` is not given"),
        (SLURM, (None, 2), "`num_processes` is 2, and SLURM says 4 .SLURM_NTASKS."),
        (OPEN_MPI, (None, None, 0), "`process_id` is 0, and Open MPI says 5"),
        ({"JOB_COMPLETION_INDEX": "0"}, (), "Kubernetes does not say `coordinator` and `num_processes`"),
        ({k: v for k, v in OPEN_MPI.items() if "uri" not in k}, (), "Open MPI does not say `coordinator`"),
        ({}, ("a", 2, 0), "expected HOST:PORT"),
        ({}, ("a:x", 2, 0), "expected HOST:PORT"),
        ({}, ("a:70000", 2, 0), "expected HOST:PORT"),
        ({}, ("a:1", 2, 2), "expected 0 to 1, since there are 2 processes"),
        ({**SLURM, "SLURM_NTASKS": "four"}, (), "SLURM_NTASKS is 'four' in the environment"),
    ],
)
def test_what_is_missing_or_contradicts_is_refused(environment: Any, given: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        place(environment, *given)
