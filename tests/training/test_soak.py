"""A long run under fire: killed, terminated and damaged at random moments, it ends with the bits of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_runs import untimed

from fedjaxlite.observers import records

PROGRAM = Path(__file__).resolve().parents[1] / "programs" / "long_run.py"
NUM_ROUNDS, KILLS, TERMINATIONS = 200, 20, 5


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(PROGRAM), str(folder), str(NUM_ROUNDS)]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def finished(folder: Path) -> str:
    process = start(folder)
    told = process.communicate(timeout=600)[1].decode()
    assert process.returncode == 0, told
    return told


def lines_of(folder: Path) -> int:
    path = folder / "records.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def final(folder: Path) -> list[np.ndarray]:
    with np.load(folder / "final.npz") as arrays:
        return [arrays[name] for name in arrays]


def checkpoints(folder: Path) -> list[Path]:
    path = folder / "checkpoints"
    found = [p for p in path.iterdir() if p.name.isdecimal()] if path.exists() else []
    return sorted(found, key=lambda p: int(p.name))


def flip(folder: Path, chance: random.Random) -> str:
    """Flips a bit in some file of the newest checkpoint; returns which."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    path = chance.choices(files, weights=[p.stat().st_size for p in files])[0]
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(data))
    return f"{folder.name}/{path.relative_to(folder)}"


def end_somewhere(folder: Path, number: signal.Signals, wanted: int, chance: random.Random) -> str:
    """Starts the run and ends it by a signal: some time after it has done the rounds wanted, or while it still starts."""
    process, begun = start(folder), time.monotonic()
    early = begun + chance.uniform(0.5, 5.0) if chance.random() < 0.2 else float("inf")
    while lines_of(folder) < wanted and time.monotonic() < early and process.poll() is None:
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.12))
    process.send_signal(number)
    told = process.communicate(timeout=120)[1].decode()
    assert process.returncode in (-number, 143 if number == signal.SIGTERM else -number), told
    assert not (folder / "final.npz").exists(), "the run ended before it could be killed"
    if process.returncode == 143:
        assert f"of {NUM_ROUNDS} rounds in {folder} are done and saved" in told
        assert lines_of(folder) == int(checkpoints(folder)[-1].name)
    newest = checkpoints(folder)[-1].name if checkpoints(folder) else "none"
    return f"{number.name:7} code {process.returncode:4}  records {lines_of(folder):3}  newest checkpoint {newest}"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_run_under_fire_ends_with_the_same_bits(tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    finished(straight)
    chance = random.Random(0)
    ends = [signal.SIGKILL] * KILLS + [signal.SIGTERM] * TERMINATIONS
    chance.shuffle(ends)
    flipped = 0
    for i, number in enumerate(ends):
        told = end_somewhere(broken, number, wanted=(i + 1) * NUM_ROUNDS // (len(ends) + 5), chance=chance)
        found = checkpoints(broken)
        if len(found) >= 2 and chance.random() < 0.4:
            told += f"  then a bit of {flip(found[-1], chance)}"
            flipped += 1
        print(f"{i + 1:2} {told}")
    last = finished(broken)
    assert flipped >= 5
    damaged = broken / "checkpoints" / "damaged"
    assert len(list(damaged.iterdir())) == flipped
    want, got = (records.read(folder / "records.jsonl") for folder in (straight, broken))
    assert [record["round"] for record in got] == list(range(1, NUM_ROUNDS + 1))
    assert untimed(want) == untimed(got)
    for a, b in zip(final(straight), final(broken), strict=True):
        np.testing.assert_array_equal(a, b)
    print(
        f"{KILLS} SIGKILL, {TERMINATIONS} SIGTERM, {flipped} flipped bits, {len(list(damaged.iterdir()))} checkpoints moved "
        f"aside: {len(final(broken))} arrays and {len(got)} records are those of the undisturbed run {last[-200:]!r}"
    )
