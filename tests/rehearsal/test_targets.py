"""Targets by name; devices that are not there; what an environment lacks."""

import importlib.util
import os

import pytest

from fedjaxlite.rehearsal import absent
from fedjaxlite.rehearsal.chips import CHIPS, gpu_description
from fedjaxlite.rehearsal.targets import target_named


@pytest.mark.parametrize(
    ("name", "written", "number", "platform"),
    [
        ("h100", "h100", 1, "gpu"),
        (" H100 ", "h100", 1, "gpu"),
        ("8xh100", "8xh100", 8, "gpu"),
        ("1xb200", "b200", 1, "gpu"),
        ("16xh200", "16xh200", 16, "gpu"),
        ("a100", "a100-40gb", 1, "gpu"),
        ("4xa100-80gb", "4xa100-80gb", 4, "gpu"),
        ("tpu-v5e-1", "v5e:1x1", 1, "tpu"),
        ("v5e-8", "v5e:2x4", 8, "tpu"),
        ("v5litepod-4", "v5e:2x2", 4, "tpu"),
        ("tpu-v5e:4x8", "v5e:4x8", 32, "tpu"),
        ("v5p-8", "v5p:2x2x1", 4, "tpu"),
        ("tpu-v5p-512", "v5p:4x8x8", 256, "tpu"),
        ("v5p:2x2x1", "v5p:2x2x1", 4, "tpu"),
        ("tpu-v6e-256", "v6e:16x16", 256, "tpu"),
    ],
)
def test_a_name_is_so_many_devices(name, written, number, platform) -> None:
    target = target_named(name)
    assert (target.name, target.num_devices, target.chip.platform) == (written, number, platform)
    assert target_named(target.name) == target


@pytest.mark.parametrize(
    "name", ["h1000", "", "tpu", "tpu-v9-8", "8x", "xh100", "v5e", "h100-8", "h100:2x2", "8xv5e", "v5e:2x2;"]
)
def test_a_made_up_target_lists_the_known_ones(name) -> None:
    with pytest.raises(ValueError, match="which is none that is known. Known are the GPUs a100-40gb, .*b200") as raised:
        target_named(name)
    assert "tpu-v5e-1|4|8|16|32|64|128|256" in str(raised.value)


def test_a_target_is_a_text() -> None:
    with pytest.raises(TypeError, match="`target` is 8; expected a name. Known are"):
        target_named(8)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("0xh100", "0 GPUs; expected 1 to 8 in one machine, or whole machines of 8 up to 256"),
        ("12xh100", "12 GPUs; expected"),
        ("512xh100", "512 GPUs; expected"),
        ("v5e-3", "no slice of TPU v5e has 3 chips; expected 1, 4, 8"),
        ("v5p-1", "no slice of TPU v5p has 1 cores; expected 2, 8, 16"),
        ("v5e:2x2x1", "expected 2 sides such as v5e:2x2"),
        ("v5p:2x2", "expected 3 sides such as v5p:2x2x2"),
        ("v5e:3x3", "each 1, 2 or a multiple of 4"),
        ("v5e:0x4", "each 1, 2 or a multiple of 4"),
        ("v5e:1x8", "neither of the first two 1"),
        ("v5e:16x32", "up to 256 chips"),
    ],
)
def test_a_slice_that_is_not_let_is_refused(name, message) -> None:
    with pytest.raises(ValueError, match=f"`target` is '{name}'.*{message}"):
        target_named(name)


def test_the_facts_are_in_their_units() -> None:
    for chip in CHIPS.values():
        assert 16e9 <= chip.usable <= chip.memory < 200e9
        assert 0.5e12 < chip.bandwidth < 10e12
        assert chip.link < chip.bandwidth
        assert chip.peak.full < chip.peak.default <= chip.peak.low
        assert 19e12 < chip.peak.full < 200e12
        assert (chip.gpu is None) == (chip.dimensions > 0) == (chip.launch == 0)


def test_a_gpu_is_described_in_the_compilers_form() -> None:
    chip = CHIPS["h100"]
    assert chip.gpu is not None
    text = gpu_description(chip.title, chip.memory, chip.bandwidth, chip.gpu)
    for fact in (
        "core_count: 132",
        "major: 9",
        "shared_memory_per_block_optin: 232448",
        "memory_bandwidth: 3352000000000",
    ):
        assert fact in text
    assert text.count("{") == text.count("}") == 3


def _hide(monkeypatch, *names) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in names else real(name, *more))


@pytest.mark.parametrize(
    ("name", "lacks"),
    [
        ("v5e-8", r'compiling for v5e:2x4 needs libtpu, .*pip install "fedjaxlite\[rehearse-tpu\]"'),
        ("h100", r'compiling for h100 needs JAX\'s CUDA plugin and ptxas and libdevice, .*\[rehearse-gpu\]"'),
    ],
)
def test_what_the_environment_lacks_is_one_sentence(monkeypatch, name, lacks) -> None:
    _hide(monkeypatch, "libtpu", "jax_plugins", "nvidia")
    for variable in ("TPU_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(absent.shutil, "which", lambda name: None)
    monkeypatch.setattr(absent, "_SYSTEM_CUDA", ())
    with pytest.raises(ModuleNotFoundError, match=lacks):
        absent.devices_of(target_named(name))


def test_the_environment_is_as_it_was(monkeypatch) -> None:
    monkeypatch.setenv("MINE", "kept")
    with absent._environment({"MINE": "other", "NEW": "for now"}):
        assert (os.environ["MINE"], os.environ["NEW"]) == ("kept", "for now")
    assert os.environ["MINE"] == "kept"
    assert "NEW" not in os.environ
