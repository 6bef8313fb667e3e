"""Chips: the facts of accelerators' data sheets that a compiler and a roofline need."""

from typing import NamedTuple

_GB, _TB, _TFLOPS = 10**9, 10**12, 10**12


class Peak(NamedTuple):
    """FLOP/s of dense matrix products, by what goes into them.

    Attributes:
      low: bfloat16 and float16.
      default: float32 as JAX multiplies it by default: TF32 on a GPU, one pass of bfloat16 on a TPU.
      full: float32 in full, `jax.default_matmul_precision("highest")`, and float64.
    """

    low: float
    default: float
    full: float


class Gpu(NamedTuple):
    """What XLA's compiler asks of a GPU.

    Attributes:
      capability: the compute capability, two numbers.
      multiprocessors: how many.
      cores: float32 units in each.
      clock: GHz, boosted.
      l2: bytes of the second cache.
      shared: bytes of shared memory of a multiprocessor.
    """

    capability: tuple[int, int]
    multiprocessors: int
    cores: int
    clock: float
    l2: int
    shared: int


class Chip(NamedTuple):
    """One accelerator.

    Attributes:
      name: as in a target's name.
      title: the product's.
      memory: bytes of device memory.
      bandwidth: bytes a second of it.
      link: bytes a second that a device sends to others.
      peak: of matrix products.
      gpu: a GPU's facts; None for a TPU.
      dimensions: of a TPU's topology, 2 or 3; 0 for a GPU.
    """

    name: str
    title: str
    memory: int
    bandwidth: float
    link: float
    peak: Peak
    gpu: Gpu | None = None
    dimensions: int = 0

    @property
    def platform(self) -> str:
        """As JAX names it: "gpu" or "tpu"."""
        return "tpu" if self.gpu is None else "gpu"

    @property
    def usable(self) -> int:
        """Bytes that JAX takes for programs and data.

        It leaves a quarter of a GPU's memory to others, unless `XLA_PYTHON_CLIENT_MEM_FRACTION` says otherwise.
        """
        return self.memory if self.gpu is None else self.memory * 3 // 4

    @property
    def launch(self) -> float:
        """Seconds that one more kernel takes at least; 0 on a TPU, where a whole program is one."""
        return 0.0 if self.gpu is None else 2e-6

    @property
    def cores_in_name(self) -> int:
        """What the names of TPU slices count for each chip: Google counts v5p by cores, two a chip."""
        return 2 if self.dimensions == 3 else 1


def _tpu(name: str, gibibytes: float, bandwidth: float, link: float, tflops: float, dimensions: int) -> Chip:
    # Full float32 takes six passes of bfloat16.
    peak = Peak(tflops * _TFLOPS, tflops * _TFLOPS, tflops * _TFLOPS / 6)
    return Chip(name, f"TPU {name}", int(gibibytes * 2**30), bandwidth, link, peak, dimensions=dimensions)


_A100 = Gpu((8, 0), 108, 64, 1.41, 40 * 2**20, 164 * 2**10)
_H100 = Gpu((9, 0), 132, 128, 1.98, 50 * 2**20, 228 * 2**10)
_B200 = Gpu((10, 0), 148, 128, 1.965, 126 * 2**20, 228 * 2**10)
_PEAK_A100 = Peak(312 * _TFLOPS, 156 * _TFLOPS, 19.5 * _TFLOPS)
_PEAK_H100 = Peak(989 * _TFLOPS, 494 * _TFLOPS, 67 * _TFLOPS)
_PEAK_B200 = Peak(2250 * _TFLOPS, 1100 * _TFLOPS, 75 * _TFLOPS)

# NVIDIA's data sheets of the SXM modules, dense products; Google's pages on TPU v5e, v5p and v6e. Memory is what the
# driver of a GPU reports, and what the compiler of a TPU gives to programs: a little less than what they are sold with.
# A link is one direction of NVLink, or of all of a TPU's links between chips.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("a100-40gb", "NVIDIA A100-SXM4-40GB", 42_298_834_944, 1.555 * _TB, 300 * _GB, _PEAK_A100, _A100),
        Chip("a100-80gb", "NVIDIA A100-SXM4-80GB", 84_974_239_744, 2.039 * _TB, 300 * _GB, _PEAK_A100, _A100),
        Chip("h100", "NVIDIA H100 80GB HBM3", 84_978_434_048, 3.352 * _TB, 450 * _GB, _PEAK_H100, _H100),
        Chip("h200", "NVIDIA H200", 150_109_978_624, 4.8 * _TB, 450 * _GB, _PEAK_H100, _H100),
        Chip("b200", "NVIDIA B200", 191_495_143_424, 8.0 * _TB, 900 * _GB, _PEAK_B200, _B200),
        _tpu("v5e", 15.75, 819 * _GB, 100 * _GB, 197, 2),
        _tpu("v5p", 95.74, 2765 * _GB, 300 * _GB, 459, 3),
        _tpu("v6e", 31.25, 1640 * _GB, 224 * _GB, 918, 2),
    )
}


def gpu_description(title: str, memory: int, bandwidth: float, gpu: Gpu) -> str:
    """A GPU in the text form of XLA's `GpuTargetConfigProto`, which its compiler takes in place of a device."""
    major, minor = gpu.capability
    facts = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 48 * 2**10,
        "shared_memory_per_core": gpu.shared,
        "shared_memory_per_block_optin": gpu.shared - 2**10,
        "threads_per_core_limit": 2048,
        "core_count": gpu.multiprocessors,
        "fpus_per_core": gpu.cores,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 2**16 - 1,
        "block_dim_limit_z": 2**16 - 1,
        "memory_bandwidth": int(bandwidth),
        "l2_cache_size": gpu.l2,
        "clock_rate_ghz": gpu.clock,
        "device_memory_size": memory,
        "registers_per_core_limit": 2**16,
        "registers_per_block_limit": 2**16,
    }
    inner = "\n".join(f"  {name}: {value}" for name, value in facts.items())
    return (
        f"gpu_device_info {{\n{inner}\n  cuda_compute_capability {{ major: {major} minor: {minor} }}\n}}\n"
        'platform_name: "CUDA"\n'
        "dnn_version_info { major: 9 minor: 10 patch: 0 }\n"
        f'device_description_str: "{title}"\n'
    )
