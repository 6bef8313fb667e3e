"""What an owner allows, what the data have to be, what the ledger tells: pure functions and their texts."""

import contextlib
import json

import numpy as np
import pytest
import toy_programs as toys
from fake_server import Server, X, made_device
from hypothesis import given
from hypothesis import strategies as st

from fedjaxlite.deploy.device import data, policy, program, terms
from fedjaxlite.deploy.device.home import Kept, Progress, ledger
from fedjaxlite.deploy.device.home.ledger import Used
from fedjaxlite.deploy.device.policy import Policy, Status
from fedjaxlite.deploy.device.work import rehearse

TASK = Server().on_check_in({"pending": -1}, b"").head
MASKED = {"masked": True, "secure_sum": {"length": 3, "num_clients": 9, "min_survivors": 5}, "memory": None}
PLAIN = {"masked": False, "secure_sum": None, "memory": {"arguments": 10, "outputs": 20, "temporaries": 30}}


def verdict(rules, *, manifest=PLAIN, status=Status(), used=Used(), n=5, task=TASK, now=100.0):  # noqa: B008
    return policy.verdict(rules, manifest, task, status, used, num_examples=n, now=now)


def test_the_defaults_let_a_plain_task_through():
    assert verdict(Policy()) is None
    assert verdict(Policy(), manifest=None, task=None) is None
    assert verdict(Policy(), manifest=MASKED) is None


RULES = [
    (Policy(only_idle=True), {"status": Status(idle=False)}, "only while the device is idle, and it is not"),
    (Policy(only_charging=True), {"status": Status(charging=False)}, "only while the device is charging"),
    (Policy(only_wireless=True), {"status": Status(wireless=False)}, "only while the device is wireless"),
    (Policy(least_examples=6), {}, "has 5 examples, and the policy wants 6 at least"),
    (Policy(most_rounds_a_day=2), {"used": Used(0, 2)}, "2 rounds within a day, and the policy allows 2"),
    (Policy(most_bytes_a_day=1000), {"used": Used(1000)}, "1,000 bytes within a day, and the policy allows 1,000"),
    (Policy(most_bytes_a_day=1000), {"used": Used(993)}, "it would make 1,001 bytes within a day"),
    (Policy(seconds_between_rounds=60.0), {"used": Used(0, 1, 50.0)}, "began 50 seconds ago, and the policy wants 60"),
    (Policy(masked_only=True), {}, "leave in the clear, and the policy allows secure sums only (masked_only)"),
    (Policy(least_in_sum=6), {"manifest": MASKED}, "may be of 5 clients, and the policy wants 6 at least"),
    (Policy(least_in_sum=9), {"manifest": MASKED | {"secure_sum": {}}}, "may be of 8 clients"),
    (Policy(), {"manifest": MASKED | {"secure_sum": None}}, "may be of 0 clients"),
    (Policy(most_memory=59), {}, "it needs 60 bytes of memory, and the policy allows 59"),
    (Policy(most_memory=59), {"manifest": MASKED}, "does not say how much memory it needs"),
    (Policy(most_memory=59), {"manifest": PLAIN | {"memory": {"arguments": "1"}}}, "does not say how much memory"),
    (Policy(most_memory=59), {"manifest": PLAIN | {"memory": {"arguments": -1}}}, "does not say how much memory"),
    (Policy(most_program_bytes=9), {}, "bytes, and the policy allows 9"),
    (Policy(evaluation=False), {"task": TASK | {"what": "evaluate"}}, "does not allow it (evaluation)"),
    (Policy(masked_only=True), {"task": TASK | {"what": "evaluate"}, "manifest": MASKED}, "(evaluation)"),
]


@pytest.mark.parametrize("number", range(len(RULES)))
def test_every_rule_refuses_in_words(number):
    rules, changes, words = RULES[number]
    assert words in verdict(rules, **changes)


def test_rules_at_their_bounds_let_through():
    assert verdict(Policy(least_examples=5, most_rounds_a_day=3, most_memory=60), used=Used(0, 2)) is None
    assert verdict(Policy(most_bytes_a_day=1000), used=Used(992)) is None
    assert verdict(Policy(seconds_between_rounds=50.0), used=Used(0, 1, 50.0)) is None
    allowed = Policy(masked_only=True, evaluation=True, least_in_sum=5)
    assert verdict(allowed, manifest=MASKED, task=TASK | {"what": "evaluate"}) is None


def test_the_template_is_the_default_and_names_every_rule(tmp_path):
    path = tmp_path / "policy.toml"
    assert policy.read(path) == Policy()
    path.write_text(policy.TEMPLATE)
    assert policy.read(path) == Policy()
    path.write_text("\n".join(line.removeprefix("# ") for line in policy.TEMPLATE.splitlines()[2:]))
    told = policy.read(path)
    assert told.most_memory == 2_000_000_000
    assert all(f"# {name} = " in policy.TEMPLATE for name in Policy._fields)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("only_idel = true", "has 'only_idel'; expected of new_programs, only_idle"),
        ("only_idle = 1", "has only_idle = 1; expected true or false"),
        ("evaluation = 'no'", "expected true or false"),
        ("least_examples = true", "expected a number"),
        ("least_examples = -1", "expected a whole number, at least 0"),
        ("most_memory = 1.5", "expected a whole number, at least 0"),
        ("seconds_between_rounds = -1", "expected seconds, at least 0"),
        ("seconds_between_rounds = nan", "expected seconds, at least 0"),
        ("status_command = 'true'", "expected a list of texts"),
        ("=", "is no TOML"),
    ],
)
def test_a_policy_that_is_misspelled_is_refused(tmp_path, text, words):
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(ValueError, match=words):
        policy.read(tmp_path / "policy.toml")


@given(st.binary(max_size=200))
def test_no_bytes_are_a_policy_but_those_of_one(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    path.write_bytes(content)
    with contextlib.suppress(ValueError):  # tomllib's own errors are ValueErrors too: nothing else may come
        assert isinstance(policy.read(path), Policy)


def test_the_owners_command_tells_what_the_device_does():
    def told(*command):
        return policy.status_of(Policy(status_command=command))()

    assert policy.status_of(Policy())() == Status(True, True, True)
    assert told("echo", '{"idle": true, "charging": 1}') == Status(True, False, False)
    for command in (["false"], ["no-such-command"], ["echo", "yes"], ["echo", "[]"]):
        assert told(*command) == Status(False, False, False)
    assert policy.status_of(Policy(status_command=("sleep", "9")), seconds=0.05)() == Status(False, False, False)


def test_rounds_go_forward_and_an_open_end_is_settled_first():
    def breach(progress=Progress(), committed=None, pending=None, **task):  # noqa: B008
        given = TASK | {"round": 5, "attempt": 1, "program": "p"} | task
        of = {"client": 3, "progress": progress, "committed": committed, "pending": pending}
        return terms.breach(toys.manifest(), given, **of)

    def kept(number):
        return Kept("p", number, 0, "", "", 1, b"")

    assert breach() is None
    assert breach(Progress("p", 5, 1), kept(4), kept(5)) is None
    assert breach(Progress("other", 9, 9, True), kept(9)._replace(program="other")) is None
    assert "is in a sum already" in breach(committed=kept(5))
    assert "has begun round 5 (attempt 2)" in breach(Progress("p", 5, 2))
    assert "which the server has settled already" in breach(Progress("p", 5, 1, True))
    assert breach(Progress("p", 5, 0, True)) is None
    assert "whether the update of round 4 counted" in breach(pending=kept(4))
    assert "has none" in terms.breach(
        toys.manifest(evaluation=None),
        TASK | {"what": "evaluate"},
        client=3,
        progress=Progress(),
        committed=None,
        pending=None,
    )


def test_data_are_read_from_arrays_alone(tmp_path):
    np.savez(tmp_path / "good.npz", x=np.float32([1, 2]), y=np.int32([1, 2]))
    assert sorted(data.read(tmp_path / "good.npz")) == ["x", "y"]
    np.savez(tmp_path / "objects.npz", x=np.asarray([None], object))
    np.savez(tmp_path / "longer.npz", x=np.zeros(2), y=np.zeros(3))
    np.savez(tmp_path / "scalar.npz", x=np.float32(1))
    np.save(tmp_path / "bare.npy", np.zeros(2))
    (tmp_path / "text.npz").write_text("x,y\n1,2\n")
    (tmp_path / "empty").mkdir()
    for name, words in {
        "none.npz": "are not there; expected an .npz file",
        "objects.npz": "cannot be read",
        "longer.npz": r"different numbers of examples: {'x': 2, 'y': 3}",
        "scalar.npz": "'x' is one number",
        "bare.npy": "hold no named arrays",
        "text.npz": "cannot be read",
        "empty": "hold no named arrays",
    }.items():
        with pytest.raises(ValueError, match=words):
            data.read(tmp_path / name)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"y": X["x"]}, r"have the features \['y'\], and the program takes \['x'\]"),
        ({"x": X["x"].astype(np.float64)}, r"'x' is float64\['n'\], and the program takes float32\['n'\]"),
        ({"x": np.zeros((2, 1), np.float32)}, r"'x' is float32\['n', 1\]"),
        ({"x": np.zeros(0, np.float32)}, "hold 0 examples, and the program takes 1 to 4"),
        ({"x": np.zeros(5, np.float32)}, "hold 5 examples, and the program takes 1 to 4"),
    ],
)
def test_data_that_do_not_fit_are_refused(arrays, words):
    with pytest.raises(ValueError, match=words):
        data.check(arrays, toys.manifest())


def test_the_ledger_counts_a_day_and_skips_what_a_full_disk_cut_off(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    assert ledger.used(path, 0.0) == Used()
    assert ledger.text(ledger.summary(path)) == "nothing has left this device."
    day = 86400.0
    for number, at in enumerate((0.0, day, day + 10)):
        ledger.record(path, at, "train", {"round": number, "attempt": 0, "program": "p"})
        ledger.record(path, at, "put", {"round": number, "sha256": "s", "program": "p", "norm": 2.0}, sent=100)
    ledger.record(path, day + 20, "train", {"round": 2, "attempt": 0, "program": "p"})
    assert ledger.used(path, day + 30) == Used(200, 2, day + 20)
    with path.open("a") as file:
        file.write('{"time": "2026')
    assert len(list(ledger.lines(path))) == 7
    monkeypatch.setattr(ledger, "MOST_BYTES", path.stat().st_size)
    ledger.record(path, day + 40, "wait", {})
    assert not path.exists()
    ledger.record(path, day + 50, "check_in", {}, sent=7)
    assert ledger.used(path, day + 60).bytes == 207
    told = ledger.summary(path)
    assert (told.messages, told.sent, told.updates, told.largest_norm, told.programs) == (4, 307, 3, 2.0, ("p",))


def test_a_norm_is_of_floats_alone():
    assert ledger.norm_of([np.float32([3]), np.float16([4]), np.uint32([9])]) == 5.0
    assert ledger.norm_of([np.uint32([3])]) is None
    assert ledger.norm_of([np.float32([np.inf])]) is None


def test_a_line_of_the_ledger_is_json_for_anybody(tmp_path):
    ledger.record(tmp_path / "log", 0.0, "check_in", {"num_examples": 3}, sent=5)
    line = {"time": "1970-01-01T00:00:00.000+00:00", "kind": "check_in", "sent": 5, "received": 0, "num_examples": 3}
    assert json.loads((tmp_path / "log").read_text()) == line


def test_a_dry_run_says_what_the_program_needs_and_sends_nothing(tmp_path):
    memory = {"arguments": 1, "outputs": 2, "temporaries": 3}
    artifact = toys.artifact_of(toys.manifest(memory=memory), toys.entries())[0]
    told = rehearse.dry_run(program.load(artifact), X)
    assert (told.download, told.upload, told.memory, told.steps) == (4, 4, 6, 1)
    assert (told.num_examples, told.capacity, told.finite) == (3, 4, True)
    assert "memory     6 bytes" in rehearse.text(told)
    with pytest.raises(ValueError, match="the program takes 1 to 4"):
        rehearse.dry_run(program.load(artifact), {"x": np.zeros(9, np.float32)})


def test_an_owner_evaluates_a_model_before_joining(tmp_path):
    device = made_device(tmp_path / "home")
    ready = program.load(toys.artifact())
    with pytest.raises(FileNotFoundError, match="no model has come"):
        rehearse.evaluate(device.home, ready, X)
    (tmp_path / "model").write_bytes(np.float32(2).tobytes())
    assert rehearse.evaluate(device.home, ready, X, model=tmp_path / "model") == {"loss": pytest.approx(2 / 3)}
    (tmp_path / "model").write_bytes(b"short")
    with pytest.raises(ValueError, match="5 bytes were found where arrays of 4 bytes were expected"):
        rehearse.evaluate(device.home, ready, X, model=tmp_path / "model")
    assert ledger.summary(device.log).messages == 0


def test_a_program_from_a_file_has_to_be_the_pinned_one(tmp_path):
    (tmp_path / "client.fjlp").write_bytes(toys.artifact())
    device = made_device(tmp_path / "home", program="ab" * 32)
    with pytest.raises(program.ProgramRefused, match="it is another program"):
        rehearse.program_of(device.home, tmp_path / "client.fjlp")
    assert rehearse.program_of(device.home) is None
