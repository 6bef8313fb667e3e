"""The command line's compression: runs, what they record and repeat, the plan's bytes, and every refusal."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from test_cli import SMALL, call, refused

import fedjaxlite as fl
from fedjaxlite.cli import compress
from fedjaxlite.observers import records

ENTRIES = 64 * 10 + 10
TIMES = ("seconds", "elapsed")


def told_by(out: Path) -> list[dict[str, Any]]:
    """The records of a run, without the time that it took."""
    return [{k: v for k, v in r.items() if k not in TIMES} for r in records.read(out / "records.jsonl")]


@pytest.mark.whole
def test_a_compressed_run_records_its_bytes_repeats_and_goes_on(tmp_path) -> None:
    out, again = tmp_path / "run", tmp_path / "again"
    options = ["--compress", "top_k:0.1+qsgd:16", "--error-feedback", "--compress-down", "eden:4", "--measure-entropy"]
    told = call("run", *SMALL, "--rounds", 2, *options, "--out", out)
    assert "after 2 rounds" in told
    found = told_by(out)
    chain = fl.chain(fl.weighted_mean(weight_cap=999), *compress.codecs("--compress", "top_k:0.1+qsgd:16"))
    run = tomllib.loads((out / "config.toml").read_text())
    one = run["model"]["bytes_up"]
    assert 0 < one < 0.1 * 4 * ENTRIES
    assert [r["bytes_up"] for r in found] == [4 * one, 4 * one]
    assert all(0 < r["entropy_up"] < one for r in found)
    assert found[1]["bytes_down"] <= 4 * (4 * ENTRIES + 16)
    arguments = run["arguments"]
    assert arguments["compress"] == "top_k:0.1+qsgd:16"
    assert (arguments["error_feedback"], arguments["measure_entropy"], arguments["compress_down"]) == (
        True,
        True,
        "eden:4",
    )
    name = f"error_feedback({', '.join(part.name for part in chain.parts[1:])})"
    assert run["aggregator"][name]["kind"] == "ef14"

    call("run", "--config", out / "config.toml", "--out", again, "--no-progress")
    assert told_by(again) == found
    call("run", "--resume", out, "--rounds", 3, "--no-progress")
    call("run", "--config", out / "config.toml", "--rounds", 3, "--out", tmp_path / "long", "--no-progress")
    assert told_by(out)[:2] == found
    assert told_by(tmp_path / "long") == told_by(out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "bits"),
    [
        (["--compress", "thc:4"], 32),
        (["--compress", "rand_k:0.3"], 32 * 0.3),
        (["--compress", "clip_by_value:0.1+quantize:4", "--error-feedback"], 32),
        ([], 32),
    ],
)
def test_a_secure_sum_of_what_survives_it(options, bits, tmp_path) -> None:
    """Words of 32 bits are summed; what makes no integers is rounded to them."""
    out = tmp_path / "run"
    call("run", *SMALL, "--rounds", 2, "--clip-norm", 1, *options, "--secure-sum", "--out", out)
    found = told_by(out)
    run = tomllib.loads((out / "config.toml").read_text())
    assert "mask" in run["aggregator"]
    sent = found[1]["bytes_up"] / 4
    assert bits / 8 * ENTRIES <= sent <= bits / 8 * ENTRIES * 1.1 + 1024  # keys and shares beside it
    assert found[1]["test_accuracy"] > 0.1


@pytest.mark.slow
def test_kinds_of_feedback_run(tmp_path) -> None:
    out = tmp_path / "run"
    options = ["--compress", "eden:2,unbiased=false", "--error-feedback", "--feedback-kind", "ef21", "--clip-norm", 1]
    call("run", *SMALL, "--rounds", 2, *options, "--aggregator", "mean", "--out", out)
    run = tomllib.loads((out / "config.toml").read_text())
    (kept,) = [table for name, table in run["aggregator"].items() if name.startswith("error_feedback")]
    assert kept["kind"] == "ef21"
    assert kept["eden"] == {"bits": 2, "unbiased": False}
    assert kept["clip_by_global_norm"]["clip_norm"] == 1.0, "the clip stands inside, where it delays what it cuts off"


@pytest.mark.slow
def test_epsilon_counts_what_compression_behind_the_noise_lengthens(tmp_path) -> None:
    spent = []
    for name, options in (("plain", []), ("compressed", ["--compress", "qsgd:4"])):
        noise = ["--clip-norm", 0.5, "--noise-multiplier", 4, "--delta", 1e-3]
        call("run", *SMALL, "--rounds", 1, *noise, *options, "--out", tmp_path / name)
        spent.append(told_by(tmp_path / name)[0]["epsilon"])
    assert spent[1] > 1.2 * spent[0]


@pytest.mark.whole
def test_plan_prints_bytes_and_entropy() -> None:
    told = " ".join(call("plan", *SMALL, "--rounds", 2, "--compress", "eden:3").split())
    assert "an ideal code of a normal update takes" in told
    assert "a client sends" in told
    told = " ".join(call("plan", *SMALL, "--rounds", 2).split())
    assert "ideal code" not in told


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("eden:2", ["eden"]),
        ("top_k:0.01+qsgd:16", ["top_k", "qsgd"]),
        (" Top-K : fraction=0.01 + qsgd:levels=16 ", ["top_k", "qsgd"]),
        ("eden:bits=2,unbiased=false", ["eden"]),
        ("thc:4,granularity=none", ["thc"]),
        ("noisy_sign:0.5,noise=gaussian", ["noisy_sign"]),
        ("nf4:64", ["nf4"]),
        ("narrow:bfloat16", ["narrow"]),
        ("clip_by_value:1+quantize:4,rounding=nearest", ["clip_by_value", "quantize"]),
        ("sign_vote", ["sign_vote"]),
    ],
)
def test_codecs_by_name(spec, names) -> None:
    assert [codec.name for codec in compress.codecs("--compress", spec)] == names


def test_every_codec_can_be_named() -> None:
    needed = {"eden": "2", "thc": "4", "quic_fl": "2", "narrow": "bfloat16", "noisy_sign": "1.0"}
    needed |= dict.fromkeys(("qsgd", "k_level", "rotated_k_level", "count_sketch", "power_sgd", "quantize"), "4")
    needed |= dict.fromkeys(("top_k", "rand_k", "clip_by_value"), "0.1")
    for name in compress.known():
        (codec,) = compress.codecs("--compress", f"{name}:{needed.get(name, '')}")
        assert codec.role == "value"


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("", "--compress names ''; expected one of clip_by_value, count_sketch, drive"),
        ("eden:2+", "--compress names ''; expected one of"),
        ("edn:2", "--compress names 'edn'; expected one of clip_by_value, count_sketch"),
        ("edn:2", "Did you mean eden?"),
        ("error_feedback:2", "names 'error_feedback'; expected one of"),
        ("mean", "names 'mean'; expected one of"),
        ("eden", "--compress names eden without bits; write eden:BITS."),
        ("eden:unbiased=true", "names eden without bits"),
        ("eden:2,bits=3", "gives 'eden:2,bits=3', with bits twice; once is enough"),
        ("eden:2,true,4", "gives 'eden:2,true,4'; eden takes bits, unbiased."),
        ("eden:bit=2", "eden takes bits, unbiased. Did you mean bits?"),
        ("sign:3", "sign takes no arguments"),
        ("eden:2,unbiased=maybe", "eden:2,unbiased=maybe: `unbiased` is 'maybe'"),
        ("eden:2,maybe", "eden:2,maybe: `unbiased` is 'maybe'"),
        ("eden:40", "--compress eden:40: `bits` is 40"),
        ("eden:2.5", "--compress eden:2.5: `bits` is 2.5; expected one of 1, 2, 3, 4"),
        ("qsgd:nan", "--compress qsgd:nan: `levels` is nan; expected an int"),
        ("top_k:2", "--compress top_k:2: `fraction` is 2"),
        ("narrow:float7", "--compress narrow:float7: `dtype` is 'float7'"),
    ],
)
def test_a_text_that_names_no_codec_is_refused(spec, told) -> None:
    with pytest.raises(ValueError) as refusal:
        compress.codecs("--compress", spec)
    assert told in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--compress", ""], "--compress names ''"),
        (["--compress", "edn:2"], "Did you mean eden?"),
        (["--compress-down", "edn:2"], "--compress-down names 'edn'"),
        (["--compress-down", "eden:40"], "--compress-down eden:40: `bits` is 40"),
        (["--compress-down", "thc:4"], "thc"),
        (["--compress", "quantize:4"], "`quantize` needs"),
        (["--compress", "power_sgd:50"], "`rank` is 50, and no leaf of the update has fewer numbers"),
        (["--error-feedback"], "--error-feedback needs what leaves something out: give --compress or --quantize-bits"),
        (["--feedback-kind", "ef21"], "--feedback-kind ef21 says nothing without --error-feedback; give both"),
        (["--feedback-kind", "ef22"], "'ef22' is not one of"),
        (
            ["--compress", "eden:2", "--error-feedback", "--feedback-kind", "ef21"],
            "--feedback-kind ef21 keeps a mean over all clients, those too that are not in the round, and needs them to "
            "weigh alike. Give --aggregator mean too, or take ef14.",
        ),
        (
            ["--compress", "eden:2", "--error-feedback", "--clip-norm", 1, "--noise-multiplier", 1],
            "--error-feedback makes messages longer than the clip norm, which the noise is made for",
        ),
        (
            ["--compress", "eden:2", "--clip-norm", 1, "--noise-multiplier", 1],
            "nothing at the end of the chain bounds what one client of the gaussian mechanism can send",
        ),
        (["--secure-sum"], "--secure-sum sums integers and needs --clip-norm, which bounds the range"),
        (["--secure-sum", "--clip-norm", 1, "--measure-entropy"], "--measure-entropy says nothing of --secure-sum"),
        (
            ["--secure-sum", "--clip-norm", 1, "--compress", "eden:2"],
            "has eden before the mask mask; the server decodes eden message by message, and behind a mask it has their "
            "sum alone. Use a codec that survives a sum: fl.quantize, or of fl.compression quic_fl, thc",
        ),
    ],
)
def test_options_that_do_not_go_together(options, told, tmp_path) -> None:
    assert told in " ".join(refused("run", *SMALL, "--rounds", 1, *options, "--out", tmp_path / "run").split())
