"""What a device's owner allows, read from `policy.toml`; `verdict` is pure and gives a reason to refuse, or None.

What is refused is written to the device's log, and the device goes on as before.
"""

import json
import math
import os
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedjaxlite.deploy.device.home.ledger import Used


class Policy(NamedTuple):
    """The owner's rules; None is no limit.

    Attributes:
      new_programs: whether a program may run whose hash is not the enrolled one.
      only_idle: train only while nobody uses the device; like the next two, as `status_command` or the flags say.
      only_charging: train only while it charges.
      only_wireless: train only on a network that is not metered.
      status_command: a command and its arguments that prints {"idle": true, "charging": true, "wireless": false}.
      masked_only: refuse every run whose updates do not leave in a secure sum.
      least_in_sum: of how many clients a secure sum has to be at least.
      evaluation: whether metrics of the device's data may leave, in the clear; None: where `masked_only` is off.
      least_examples: the fewest examples to train on.
      most_memory: bytes that the program may need, as its manifest says.
      most_program_bytes: of the program's file, packed or unpacked.
      most_bytes_a_day: sent and received.
      most_rounds_a_day: works begun, evaluations among them.
      seconds_between_rounds: from the beginning of one work to that of the next.
    """

    new_programs: bool = False
    only_idle: bool = False
    only_charging: bool = False
    only_wireless: bool = False
    status_command: tuple[str, ...] = ()
    masked_only: bool = False
    least_in_sum: int = 2
    evaluation: bool | None = None
    least_examples: int = 1
    most_memory: int | None = None
    most_program_bytes: int = 256 << 20
    most_bytes_a_day: int | None = None
    most_rounds_a_day: int | None = None
    seconds_between_rounds: float = 0.0

    @property
    def counts(self) -> bool:
        """Whether a rule is about what was spent, so that the ledger has to be read."""
        return (self.most_bytes_a_day, self.most_rounds_a_day, self.seconds_between_rounds) != (None, None, 0.0)


class Status(NamedTuple):
    """What a device is doing, as its owner says.

    Attributes:
      idle: nobody uses it.
      charging: it is on mains.
      wireless: its network is not metered.
    """

    idle: bool = True
    charging: bool = True
    wireless: bool = True


def status_of(policy: Policy, *, seconds: float = 10.0) -> Callable[[], Status]:
    """A function that tells what the device is doing: it runs the owner's command.

    Args:
      policy: with a `status_command`; without one, the device has been offered by whoever started it.
      seconds: how long the command may take.

    Returns:
      The function. A command that fails, or prints something else, says no to everything.
    """

    def told() -> Status:
        try:
            done = subprocess.run(policy.status_command, capture_output=True, timeout=seconds, check=True)
            found = json.loads(done.stdout)
            return Status(*(found.get(name) is True for name in Status._fields))
        except (OSError, subprocess.SubprocessError, ValueError, AttributeError):
            return Status(False, False, False)

    return told if policy.status_command else Status


TEMPLATE = """\
# What this device accepts. A line that begins with # has the value that holds without it.

# new_programs = false           # run a program whose hash is not the enrolled one
# only_idle = false              # train only while ... as status_command, or the flags of `join`, say
# only_charging = false
# only_wireless = false
# status_command = []            # prints {"idle": true, "charging": true, "wireless": false}
# masked_only = false            # refuse every run whose updates do not leave in a secure sum
# least_in_sum = 2               # of how many clients a secure sum has to be at least
# evaluation = true              # metrics of this device's data may leave; false where masked_only = true
# least_examples = 1
# most_memory = 2_000_000_000    # bytes; without the line no limit, as for those below
# most_program_bytes = 268_435_456
# most_bytes_a_day = 100_000_000
# most_rounds_a_day = 50
# seconds_between_rounds = 0.0
"""


def read(path: str | os.PathLike[str]) -> Policy:
    """The policy in a TOML file; without a file, the defaults.

    Args:
      path: of `policy.toml`.

    Returns:
      `Policy`.

    Raises:
      ValueError: no TOML, a rule that nobody knows, or a value of another type or out of range: a rule that is
        misspelled would protect nothing.
    """
    try:
        given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Policy()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the policy {str(path)!r} is no TOML: {error}.") from error
    for name, value in given.items():
        if name not in Policy._fields:
            raise ValueError(f"the policy {str(path)!r} has {name!r}; expected of {', '.join(Policy._fields)}.")
        expected = _expected(name, value)
        if expected:
            raise ValueError(f"the policy {str(path)!r} has {name} = {value!r}; expected {expected}.")
    if "status_command" in given:
        given["status_command"] = tuple(given["status_command"])
    return Policy(**given)


def _expected(name: str, value: Any) -> str:
    """What a rule's value should have been; "" where it is."""
    if name == "status_command":
        return "" if isinstance(value, list) and all(isinstance(word, str) for word in value) else "a list of texts"
    if isinstance(Policy._field_defaults[name], bool) or name == "evaluation":
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "a number"
    if name == "seconds_between_rounds":
        return "" if 0 <= value < math.inf else "seconds, at least 0"
    return "" if isinstance(value, int) and value >= 0 else "a whole number, at least 0"


def verdict(
    policy: Policy,
    manifest: Mapping[str, Any] | None,
    task: Mapping[str, Any] | None,
    status: Status,
    used: Used,
    *,
    num_examples: int,
    now: float,
) -> str | None:
    """Why the owner's rules refuse a task.

    Args:
      policy: the rules.
      manifest: of the program that the task is for; None where it is not known yet: only the rest is looked at.
      task: the head of the server's task; None before one came.
      status: what the device is doing.
      used: what it spent within a day.
      num_examples: how many it has.
      now: seconds since 1970.

    Returns:
      A reason, or None where nothing speaks against it.
    """
    reasons = [
        _of_device(policy, status, used, num_examples=num_examples, now=now),
        None if manifest is None else of_program(policy, manifest),
        None if task is None else _of_task(policy, task, used),
    ]
    return next((reason for reason in reasons if reason), None)


def _of_device(policy: Policy, status: Status, used: Used, *, num_examples: int, now: float) -> str | None:
    for name in Status._fields:
        if getattr(policy, f"only_{name}") and not getattr(status, name):
            return f"the policy trains only while the device is {name}, and it is not"
    if num_examples < policy.least_examples:
        return f"the device has {num_examples} examples, and the policy wants {policy.least_examples} at least"
    if policy.most_rounds_a_day is not None and used.rounds >= policy.most_rounds_a_day:
        return f"{used.rounds} rounds within a day, and the policy allows {policy.most_rounds_a_day}"
    if policy.most_bytes_a_day is not None and used.bytes >= policy.most_bytes_a_day:
        return f"{used.bytes:,} bytes within a day, and the policy allows {policy.most_bytes_a_day:,}"
    if used.last is not None and now - used.last < policy.seconds_between_rounds:
        return f"the last round began {now - used.last:.0f} seconds ago, and the policy wants " + (
            f"{policy.seconds_between_rounds:g} between two"
        )
    return None


def of_program(policy: Policy, manifest: Mapping[str, Any]) -> str | None:
    """Why the owner's rules refuse a program, whatever the task."""
    if policy.masked_only and not manifest["masked"]:
        return "the run's updates leave in the clear, and the policy allows secure sums only (masked_only)"
    if manifest["masked"]:
        fewest = _fewest(manifest["secure_sum"])
        if fewest < policy.least_in_sum:
            return f"its secure sum may be of {fewest} clients, and the policy wants {policy.least_in_sum} at least"
    needed = memory_of(manifest)
    if policy.most_memory is not None:
        if needed is None:
            return "its manifest does not say how much memory it needs, and the policy has a limit (most_memory)"
        if needed > policy.most_memory:
            return f"it needs {needed:,} bytes of memory, and the policy allows {policy.most_memory:,}"
    return None


def memory_of(manifest: Mapping[str, Any]) -> int | None:
    """Bytes that a program needs on a CPU, as its manifest says; None where it gives no number of them."""
    told = manifest["memory"]
    if not told or not all(type(size) is int and size >= 0 for size in told.values()):
        return None
    return sum(told.values())


def _fewest(secure_sum: Mapping[str, Any] | None) -> int:
    """Of how few clients a sum may be: 0 where there is none, 8 where the manifest leaves it to the protocol."""
    if secure_sum is None:
        return 0
    fewest = secure_sum.get("min_survivors")
    return 8 if fewest is None else fewest if type(fewest) is int else 0


def _of_task(policy: Policy, task: Mapping[str, Any], used: Used) -> str | None:
    allowed = not policy.masked_only if policy.evaluation is None else policy.evaluation
    if task["what"] == "evaluate" and not allowed:
        return "metrics would leave the device, and the policy does not allow it (evaluation)"
    if task["program_bytes"] > policy.most_program_bytes:
        return f"its program has {task['program_bytes']:,} bytes, and the policy allows {policy.most_program_bytes:,}"
    coming = used.bytes + task["model_bytes"] + (task["upload_bytes"] if task["what"] == "train" else 0)
    if policy.most_bytes_a_day is not None and coming > policy.most_bytes_a_day:
        return f"it would make {coming:,} bytes within a day, and the policy allows {policy.most_bytes_a_day:,}"
    return None
