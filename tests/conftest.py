"""Settings of the whole suite: strict JAX, four virtual devices, a shared compilation cache, fixed randomness.

A round on several virtual CPU devices can deadlock when many are enqueued without waiting for a result: tests that
call rounds in a loop block on the state every few rounds.
"""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# In the environment, so that JAX reads it on import and programs started by a test inherit it. A caller's choice wins.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TERM", "dumb")

# Compiling is what takes the time: LLVM is not asked for fast code, and XLA emits kernels in the older way, which takes
# it a third of the time, in one module.
PLAIN_CODE = "--xla_backend_optimization_level=0"
PLAIN_KERNELS = f"{PLAIN_CODE} --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def _understood(flags: str) -> bool:
    """Whether the XLA that is installed knows these flags: it ends a process that gives it an unknown one."""
    program = "from jaxlib import xla_client; xla_client.make_cpu_client()"
    environment = {**os.environ, "XLA_FLAGS": flags}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True).returncode == 0


ON_CPU = os.environ["JAX_PLATFORMS"].split(",")[0] == "cpu"
if ON_CPU and "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = PLAIN_KERNELS if _understood(PLAIN_KERNELS) else PLAIN_CODE

import hypothesis  # noqa: E402  (the environment above comes first)
import jax  # noqa: E402

if "JAX_NUM_CPU_DEVICES" not in os.environ:
    jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Tracing makes many objects and little garbage: collections were a twentieth of the suite's time.
gc.freeze()
gc.set_threshold(50_000, 20, 20)

hypothesis.settings.register_profile(
    "fedjaxlite",
    derandomize=True,
    deadline=None,
    max_examples=20,
    print_blob=True,
    # Fixtures that hold a setting are the same for every example.
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("fedjaxlite")


@pytest.fixture(scope="module")
def little_garbage() -> None:
    """For files in which garbage is collected again and again: what is there before them is not gone through anew."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For files of small runs whose records are plain: drawing curves.png takes as long as such a run; it stays empty."""
    monkeypatch.setattr("fedjaxlite.training.curves.plot", lambda records, path, *, title="": Path(path).touch())


@pytest.fixture
def full_precision() -> Iterator[None]:
    """For tests of algebra: float32 products in float32, where a GPU takes TF32 and a TPU bfloat16 by default."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture
def standard_promotion() -> Iterator[None]:
    """JAX's own default: a recurrent layer of nnx promotes what it meets to its float32 state, which strict refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of prepared data sets (`tfds/`, `shakespeare_plays.jsonl`), or a skip where there is none."""
    folder = Path(os.environ.get("FEDJAXLITE_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "tfds").is_dir():
        pytest.skip(f"no prepared data in {folder}; set FEDJAXLITE_DATA to the folder that holds `tfds`.")
    return folder
