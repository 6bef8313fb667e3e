"""Valid calls of the clock: services, staleness, devices, and the samplers that they make."""

import jax.numpy as jnp
from bases_engine import KEY, NUM_CLIENTS, use_sampler
from bases_formats import FOLDER
from calls import Base

from fedjaxlite import sampling, systems

ONES = jnp.ones(NUM_CLIENTS, jnp.float32)
DEVICES = systems.Devices(ONES, ONES, ONES, ONES)
THERE = systems.availability({i: [(0.0, 50.0)] for i in range(NUM_CLIENTS)}, period=100)
SECONDS = systems.service.constant(1.0)
SPEEDS = FOLDER / "speeds.csv"
SPEEDS.write_text("seconds_per_step,up_bytes_per_second,down_bytes_per_second,latency_seconds\n1,1,1,1\n")
WINDOWS = FOLDER / "windows.csv"
WINDOWS.write_text("client,begin,end\n0,0,10\n")
IDS = jnp.arange(NUM_CLIENTS, dtype=jnp.int32)

SYSTEMS: dict[str, Base] = {
    "sampling.oort": Base(sampling.oort, {"cohort_size": 2}, use=use_sampler),
    "sampling.power_of_choice": Base(sampling.power_of_choice, {"cohort_size": 2, "candidates": 3}, use=use_sampler),
    "sampling.refl": Base(
        sampling.refl,
        {"cohort_size": 1, "trace": [[True] * NUM_CLIENTS]},
        use=use_sampler,
        words={"trace": ("available", "trace")},
    ),
    "systems.fed_buff": Base(
        systems.fed_buff,
        {"buffer": 2, "concurrency": 2, "service": SECONDS, "availability": THERE},
        use=use_sampler,
    ),
    "systems.fed_async": Base(
        systems.fed_async, {"concurrency": 2, "service": SECONDS, "availability": THERE}, use=use_sampler
    ),
    "systems.timed": Base(
        systems.timed, {"sampler": sampling.uniform(2), "devices": DEVICES, "deadline": 10.0}, use=use_sampler
    ),
    "systems.drawn_devices": Base(systems.drawn_devices, {"key": KEY, "num_clients": 3}),
    "systems.devices_from_file": Base(systems.devices_from_file, {"path": SPEEDS}),
    "systems.drawn_availability": Base(systems.drawn_availability, {"key": KEY, "num_clients": 3}),
    "systems.availability": Base(systems.availability, {"windows": {0: [(0.0, 1.0)]}, "period": 10}),
    "systems.availability_from_file": Base(
        systems.availability_from_file, {"path": WINDOWS, "period": 100}, words={"period": ("period", "windows")}
    ),
    "systems.service.constant": Base(systems.service.constant, {"seconds": 1.0}),
    "systems.service.exponential": Base(systems.service.exponential, {"mean": 1.0}),
    "systems.service.lognormal": Base(systems.service.lognormal, {"median": 1.0, "sigma": 0.5}),
    "systems.service.measured": Base(systems.service.measured, {"values": [1.0, 2.0]}),
    "systems.service.on_devices": Base(
        systems.service.on_devices, {"devices": DEVICES._replace(memory_bytes=ONES), "memory_bytes": 1.0}
    ),
    "systems.service.parse": Base(systems.service.parse, {"text": "exponential:1"}, words={"text": ("service",)}),
    "systems.staleness.polynomial": Base(systems.staleness.polynomial, {"a": 0.5}),
    "systems.staleness.hinge": Base(systems.staleness.hinge, {"a": 10.0, "b": 4.0}),
    "systems.staleness.parse": Base(systems.staleness.parse, {"text": "polynomial:1"}, words={"text": ("staleness",)}),
}
