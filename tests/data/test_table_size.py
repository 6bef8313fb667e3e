"""A large table is read in seconds, and takes the memory of what it becomes."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from fedjaxlite.datasets import from_table

ROOT = Path(__file__).resolve().parents[2]
ROWS, CLIENTS, NUMBERS = 1_000_000, 100_000, 10

# Memory is the growth of the process's largest resident size (VmHWM of /proc) over that after the imports and the reading
# of a table of three rows, which loads what Arrow loads lazily. Nothing else runs in the process. ru_maxrss would not do:
# a program that is started takes over the largest size of the one that started it.
PROGRAM = """
import json, pathlib, re, sys, time
import fedjaxlite as fl
size = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
small = pathlib.Path(sys.argv[1]).with_name("small.csv")
small.write_text("client,x,label\\na,1.5,no\\nb,2.5,yes\\na,3.5,no\\n")
fl.datasets.from_table(small, client="client", label="label")
before, start = size(), time.monotonic()
table = fl.datasets.from_table(sys.argv[1], client="client", label="label")
took = time.monotonic() - start
population = table.population
told = {"seconds": took, "bytes": size() - before, "clients": population.num_clients, "rows": len(population.features["y"])}
print(json.dumps(told | {"x": float(population.client("client_00007")["x"][0, 0])}))
"""


def large(rows=ROWS, clients=CLIENTS):
    """A table of clients with names, ten columns of numbers, a category and a label, in no order."""
    rng = np.random.default_rng(0)
    owner = rng.permutation(np.r_[np.arange(clients), rng.integers(clients, size=rows - clients)])
    names = np.array([f"client_{i:05d}" for i in range(clients)])
    columns = {"client": pa.array(names[owner])}
    columns |= {f"x{i}": np.round(rng.normal(50, 10, rows), 3) for i in range(NUMBERS)}
    columns |= {"sex": np.array(["f", "m"])[rng.integers(2, size=rows)], "label": np.array(["no", "yes"])[owner % 2]}
    return pa.table(columns)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the size of a process is read from /proc")
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_million_rows_of_a_hundred_thousand_clients_take_seconds_and_twice_their_size(tmp_path, capsys, suffix):
    table = large()
    pyarrow.csv.write_csv(table, tmp_path / "large.csv")
    path = tmp_path / f"large.{suffix}"
    if suffix == "parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=100_000)
    size = table.nbytes if suffix == "parquet" else path.stat().st_size  # a Parquet file is packed
    del table
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    with capsys.disabled():
        print(
            f"\n{suffix}: {told['seconds']:.1f} s, {told['bytes'] / size:.2f} times the table's {size / 2**20:.0f} MiB"
        )
    assert (told["rows"], told["clients"]) == (ROWS, CLIENTS)
    assert told["seconds"] < 20
    assert ROWS * 4 * NUMBERS < told["bytes"] < 2 * size


def test_a_table_of_a_hundred_thousand_rows_is_read_whole(tmp_path):
    table = large(100_000, 10_000)
    pyarrow.csv.write_csv(table, tmp_path / "t.csv")
    start = time.monotonic()
    population = from_table(tmp_path / "t.csv", client="client", label="label").population
    assert time.monotonic() - start < 10
    frame = table.to_pandas()
    assert population.names.tolist() == sorted(frame.client.unique())
    order = np.argsort(frame.client.to_numpy(), kind="stable")
    np.testing.assert_array_equal(population.features["x"][:, :NUMBERS], frame.iloc[order, 1:11].to_numpy(np.float32))
    np.testing.assert_array_equal(population.features["y"], frame.label.to_numpy()[order] == "yes")
