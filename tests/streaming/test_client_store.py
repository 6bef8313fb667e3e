"""The store of client states: whatever a crash leaves, going back gives the bits of a round that was marked."""

import contextlib
import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crashing import Crash, Disk
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fedjaxlite.streaming import client_store

N = 7
ONE = {
    "w": np.arange(3, dtype=np.float32),
    "half": np.asarray(jnp.bfloat16(1.5)),
    "packed": np.array([[1, 2], [3, 255]], np.uint8),
    "seen": np.bool_(True),
    "key": jax.random.key(3),
    "none": np.zeros((0, 2), np.float32),
}
PLAIN = {**ONE, "key": np.asarray(jax.random.key_data(ONE["key"]))}
SOME = st.lists(st.integers(0, N - 1), unique=True, max_size=4)


def states(n: int, seed: int) -> dict[str, np.ndarray]:
    """States of n clients with random bits, NaN and all."""
    rng = np.random.default_rng(seed)

    def one(leaf: np.ndarray) -> np.ndarray:
        if leaf.dtype == bool:
            return rng.integers(0, 2, (n, *leaf.shape)).astype(bool)
        size = n * leaf.size * leaf.dtype.itemsize
        raw = rng.integers(0, 256, size, np.uint8)
        return raw.view(leaf.dtype).reshape((n, *leaf.shape)) if size else np.zeros((n, *leaf.shape), leaf.dtype)

    return jax.tree.map(one, PLAIN)


def everyone() -> dict[str, np.ndarray]:
    return jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], N, axis=0), PLAIN)


def bits(tree) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def put(model, ids, new):
    """The model of a write: a copy with some rows exchanged."""
    copy = jax.tree.map(np.copy, model)
    for leaf, rows in zip(jax.tree.leaves(copy), jax.tree.leaves(new), strict=True):
        leaf[np.asarray(ids, int)] = rows
    return copy


class Machine(RuleBasedStateMachine):
    """Writes, checkpoints, crashes anywhere; the two newest checkpoints can be gone back to."""

    @initialize()
    def begin(self) -> None:
        self.path = Path(tempfile.mkdtemp())
        self.disk = Disk()
        self.disk.install()
        self.store = client_store.open_at(str(self.path / "c"), ONE, N)
        self.round, self.model = 0, everyone()
        self.kept = {0: self.model}

    def teardown(self) -> None:
        if hasattr(self, "disk"):
            self.disk.remove()
            self.store.close()
            shutil.rmtree(self.path)

    def _write(self, ids, seed) -> None:
        new = states(len(ids), seed)
        self.store.write(self.round + 1, np.int64(ids), new)
        self.round, self.model = self.round + 1, put(self.model, ids, new)

    def _checkpoint(self) -> None:
        self.store.mark(self.round)
        self.kept[self.round] = self.model
        self.kept = {n: self.kept[n] for n in sorted(self.kept)[-2:]}
        self.store.forget(min(self.kept))

    def _back_to(self, number: int) -> None:
        self.store.close()
        self.store = client_store.open_at(str(self.path / "c"), ONE, N)
        self.store.rewind(number)
        self.round, self.model = number, self.kept[number]
        self.kept = {n: model for n, model in self.kept.items() if n <= number}

    @rule(ids=SOME, seed=st.integers(0, 99))
    def write(self, ids, seed) -> None:
        self._write(ids, seed)

    @rule()
    def checkpoint(self) -> None:
        self._checkpoint()

    @rule(newest=st.booleans())
    def resume(self, newest) -> None:
        self._back_to(sorted(self.kept)[-1 if newest else 0])

    @rule(
        what=st.sampled_from(["write", "checkpoint", "resume"]),
        ids=SOME,
        after=st.integers(0, 25),
        share=st.floats(0, 1),
        lost=st.none() | st.integers(0, 99),
        newest=st.booleans(),
    )
    def crash(self, what, ids, after, share, lost, newest) -> None:
        """Ends the process after some steps and part of the next; with `lost`, the machine too."""
        wanted = sorted(self.kept)[-1 if newest else 0]
        action = {
            "write": lambda: self._write(ids, 1),
            "checkpoint": self._checkpoint,
            "resume": lambda: self._back_to(wanted),
        }[what]
        self.disk.crash_after(after, share)
        with contextlib.suppress(Crash):
            action()
        self.disk.crash_after(None, 0)
        self.store.close()
        if lost is not None:
            self.disk.lose(0.5, np.random.default_rng(lost))
        self._back_to(wanted if wanted in self.kept else max(self.kept))

    @invariant()
    def what_is_read_is_what_was_written(self) -> None:
        if hasattr(self, "store"):
            assert bits(self.store.read(np.arange(N))) == bits(self.model)
            assert self.store.round() == self.round


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=15, stateful_step_count=12)


class Scripted:
    """A run whose clients overlap from round to round, with a checkpoint now and then; the two newest are kept."""

    def __init__(self, path: Path) -> None:
        self.path, self.kept, self.round = path, {0: everyone()}, 0
        self.store = client_store.open_at(str(path), ONE, N)
        self.model = everyone()

    def write(self, *ids: int) -> None:
        new = states(len(ids), self.round)
        self.store.write(self.round + 1, np.int64(ids), new)
        self.round, self.model = self.round + 1, put(self.model, ids, new)

    def checkpoint(self) -> None:
        self.store.mark(self.round)
        self.kept[self.round] = self.model  # from here on it is whole
        self.kept = {n: self.kept[n] for n in sorted(self.kept)[-2:]}
        self.store.forget(min(self.kept))

    def play(self) -> None:
        self.write(0, 1, 2)
        self.write(1, 2, 3)
        self.checkpoint()
        self.write(3, 2)
        self.write(0, 2)
        self.checkpoint()
        self.write(2, 4)
        self.write(4, 0)
        self.checkpoint()
        self.write(2, 6)


def found_at(path: Path, number: int):
    store = client_store.open_at(str(path), ONE, N)
    store.rewind(number)
    found = store.read(np.arange(N))
    store.close()
    return found


LOSSES = {"nothing is lost": None, "what was not flushed is lost": 1.0, "some of it is lost": 0.5}


@pytest.fixture
def disk():
    made = Disk()
    made.install()
    yield made
    made.remove()


@pytest.mark.parametrize("lost", LOSSES.values(), ids=list(LOSSES))
def test_a_crash_at_any_step_of_a_run_leaves_its_checkpoint(disk: Disk, lost: float | None, tmp_path: Path) -> None:
    for after in range(1000):
        run = Scripted(tmp_path / f"{after}")
        disk.crash_after(after, share=(after % 3) / 3)
        with contextlib.suppress(Crash):
            run.play()
        ended = disk.left  # steps that were not taken
        disk.crash_after(None, 0)
        run.store.close()
        if lost is not None:
            disk.lose(lost, np.random.default_rng(after))
        newest = max(run.kept)
        assert bits(found_at(run.path, newest)) == bits(run.kept[newest]), f"after {after} steps"
        if ended:
            break
    assert 60 < after < 200


@pytest.mark.parametrize("lost", LOSSES.values(), ids=list(LOSSES))
def test_going_back_may_be_cut_short_at_any_step(disk: Disk, lost: float | None, tmp_path: Path) -> None:
    """Back to the older checkpoint, as where the newest is damaged."""
    run = Scripted(tmp_path / "run")
    run.play()
    run.store.close()
    older = min(run.kept)
    for after in range(1000):
        place = tmp_path / f"{after}"
        shutil.copytree(run.path, place)
        store = client_store.open_at(str(place), ONE, N)
        disk.crash_after(after, share=0.5)
        with contextlib.suppress(Crash):
            store.rewind(older)
        ended = disk.left
        disk.crash_after(None, 0)
        store.close()
        if lost is not None:
            disk.lose(lost, np.random.default_rng(after))
        assert bits(found_at(place, older)) == bits(run.kept[older]), f"after {after} steps"
        if ended:
            break
    assert 15 < after < 100


def opened(path: Path, **options) -> client_store.ClientStore:
    return client_store.open_at(str(path), ONE, N, **options)


def test_the_first_process_takes_back_the_journals_of_all_whatever_their_number(tmp_path: Path) -> None:
    two = [opened(tmp_path / "c", own=own, process=i) for i, own in enumerate([(0, 4), (4, N)])]
    model, marked = everyone(), everyone()
    for number in (1, 2, 3):
        for store, ids in zip(two, ([0, 3], [4, 6]), strict=True):
            new = states(2, number)
            store.write(number, np.int64(ids), new)
            model = put(model, ids, new)
        if number == 2:
            marked = model
            for store in two:
                store.mark(2)
    with pytest.raises(IndexError, match="client 4 is out of range; expected 0 to 3"):
        two[0].write(4, [4], states(1, 0))
    for store in two:
        store.close()
    one = opened(tmp_path / "c")
    assert not one.is_at(3)
    with pytest.raises(ValueError, match="are in the middle of a round"):
        one.round()
    one.rewind(2)
    assert bits(one.read(np.arange(N))) == bits(marked)
    one.write(3, [6, 0], states(2, 9))
    one.rewind(0)
    assert bits(one.read(np.arange(N))) == bits(everyone())
    one.close()


def test_what_the_disk_changed_is_refused(tmp_path: Path) -> None:
    store = opened(tmp_path / "c")
    for number in (1, 2, 3):
        store.write(number, [1, 2], states(2, number))
    (journal,) = (tmp_path / "c" / "journal").iterdir()
    with (tmp_path / "c" / "rows.bin").open("rb+") as file:
        file.seek(2 * store.row_bytes)
        byte = file.read(1)
        file.seek(2 * store.row_bytes)
        file.write(bytes([byte[0] ^ 1]))
    store.read([0, 1])
    with pytest.raises(OSError, match="the state of client 2 in .* is not what was written"):
        store.read([1, 2])
    raw = bytearray(journal.read_bytes())
    raw[len(raw) // 2] ^= 1
    journal.write_bytes(raw)
    with pytest.raises(ValueError, match=r"\.undo' is damaged at byte \d+: .*Put back a copy of the folder"):
        store.rewind(0)
    store.close()


def test_bad_input_is_refused(tmp_path: Path) -> None:
    store = opened(tmp_path / "c")
    with pytest.raises(ValueError, match="a client is to be written twice in one round"):
        store.write(1, [1, 1], states(2, 0))
    with pytest.raises(ValueError, match="2 states are to be written for 1 clients"):
        store.write(1, [1], states(2, 0))
    with pytest.raises(IndexError, match=f"client {N} is out of range; expected 0 to {N - 1}"):
        store.read([N])
    with pytest.raises(TypeError, match=r"`ids` is float64\[1\]; expected clients' ids"):
        store.read([0.5])
    with pytest.raises(ValueError, match="the states to keep hold .* a client; expected"):
        store.write(1, [1], {**states(1, 0), "w": np.zeros((1, 4), np.float32)})
    store.write(5, [1], states(1, 0))
    with pytest.raises(ValueError, match="the states of round 4 come after those of round 5"):
        store.write(4, [1], states(1, 0))
    with pytest.raises(RuntimeError, match=r"another run keeps its clients' states \(process \d+"):
        opened(tmp_path / "c")
    store.mark(5)
    store.forget(5)
    with pytest.raises(ValueError, match="goes back to round 5, and round 3 was asked for"):
        store.rewind(3)
    store.close()
    with pytest.raises(ValueError, match=r"holds the states of other clients: num_clients is 8 and was 7"):
        client_store.open_at(str(tmp_path / "c"), ONE, 8)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"which holds something else \(thesis.tex\)"):
        opened(tmp_path / "mine")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="where client states cannot be kept"):
        opened(tmp_path / "file" / "c")


def test_a_million_clients_of_forty_kilobytes_open_at_once_and_take_what_is_written(tmp_path: Path) -> None:
    for where in ("host", str(tmp_path / "c")):
        store = client_store.open_at(where, np.zeros(10_000, np.float32), 1_000_000)
        store.write(1, [999_999, 5], np.ones((2, 10_000), np.float32))
        assert store.read([4, 5, 999_999]).sum(1).tolist() == [0, 10_000, 10_000]
        store.close()
    rows = (tmp_path / "c" / "rows.bin").stat()
    assert rows.st_size == 40_000_000_000
    assert rows.st_blocks * 512 < 1_000_000


def test_host_memory_comes_back_from_what_any_number_of_processes_saved(tmp_path: Path) -> None:
    two = [client_store.open_at("host", ONE, N, own=own, process=i) for i, own in enumerate([(0, 4), (4, N)])]
    new = states(4, 1)
    for store, ids, part in zip(two, ([0, 3], [4, 6]), (slice(0, 2), slice(2, 4)), strict=True):
        store.write(1, ids, jax.tree.map(lambda leaf: leaf[part], new))  # noqa: B023
        store.save(1, tmp_path / "clients")
    for own in ((0, N), (2, 5)):
        store = client_store.open_at("host", ONE, N, own=own)
        store.load(1, tmp_path / "clients")
        expected = jax.tree.map(lambda leaf: leaf[slice(*own)], put(everyone(), [0, 3, 4, 6], new))  # noqa: B023
        assert bits(store.read(np.arange(*own))) == bits(expected)
        assert store.is_at(1)
