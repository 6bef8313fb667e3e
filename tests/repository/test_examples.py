"""The programs in `examples/`, with sizes that run in seconds."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import jax
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def lora_transformer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lora_transformer", EXAMPLES / "lora_transformer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # NamedTuples look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_lora_transformer_adapts_the_base_with_a_fraction_of_the_bytes(lora_transformer, capsys) -> None:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # Flax itself needs them
        got = lora_transformer.main(["--smoke", "--rounds", "2"])
    assert got["before"] < got["untrained"]
    assert got["after"] < got["before"]
    # Two matrices of rank 2 for each of [16, 48], [16, 16], [16, 64] and [64, 16], and a weight of 4 bytes upwards.
    adapters = 4 * 2 * ((16 + 48) + (16 + 16) + (16 + 64) + (64 + 16))
    assert (got["lora_up"], got["lora_down"]) == (adapters + 4, adapters)
    assert got["full_down"] > 10 * got["lora_down"]
    assert f"{adapters:,}" in capsys.readouterr().out


def test_the_texts_are_windows_with_the_next_character_as_target(lora_transformer) -> None:
    made = lora_transformer.examples_of("ab\ncde", 2)
    assert made["x"].tolist() == [[67, 68], [1, 69]]
    assert made["y"].tolist() == [[68, 1], [69, 70]]
    assert lora_transformer.examples_of("abcdefgh", 2, most=1)["x"].shape == (1, 2)
    assert lora_transformer.clients(lora_transformer.SMOKE).num_clients == 3
