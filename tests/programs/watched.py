"""One of several processes that wait, until a test ends one of them: `python watched.py PROCESS PROCESSES PORT BEAT HOW`."""

import os
import sys
import time

import jax

import fedjaxlite as fl

process, num_processes, port, beat, how = *map(int, sys.argv[1:5]), sys.argv[5]
if how == "launched":
    place = fl.distributed.initialize(heartbeat_seconds=beat)
    print(place.told_by, *place[1:3], place.local_devices, jax.process_index(), jax.process_count(), flush=True)
    sys.exit(0)
fl.distributed.initialize(f"127.0.0.1:{port}", num_processes, process, heartbeat_seconds=beat)
print("ready", flush=True)
if how == "error" and process == num_processes - 1:
    raise ValueError("the data of this one are not there\nand a second line")
if how == "order":
    time.sleep(0.2 * process)
    print("done", flush=True)
    sys.exit(0)
if how == "busy":  # as within a collective: no Python runs in the main thread
    os.read(os.pipe()[0], 1)
time.sleep(300)
