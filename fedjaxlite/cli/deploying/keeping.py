"""The program in a server's folder: the one that it began with, for as long as it is of the config's rounds.

    program.fjlp     what devices fetch, and agree to by its hash
    program.json     what it was made of: the options that decide about numbers, and versions
    run/run.json     has the hash that the run began with

Another version of JAX or of this library writes other bytes for the same rounds, which devices would refuse. So a
folder that has a program goes on with it.
"""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import fedjaxlite as fl
from fedjaxlite.cli import build, signatures
from fedjaxlite.cli.deploying import composing
from fedjaxlite.cli.deploying.composing import Deployed
from fedjaxlite.cli.settings import Settings
from fedjaxlite.deploy.program.comparing import Unlike, same, unlike
from fedjaxlite.deploy.program.template import template_of
from fedjaxlite.deploy.server.disk.resuming import RUN as WHOSE
from fedjaxlite.storage import replace_text
from fedjaxlite.training.identity import plain, versions
from fedjaxlite.transport.whole_file import write_whole

PROGRAM, MADE_OF, RUN = "program.fjlp", "program.json", "run"
DECIDE = (
    *("algorithm", "set", "model", "loss", "epochs", "batch_size", "client_lr", "server_optimizer", "server_lr"),
    *("cohort", "sampler", "aggregator", "clip_norm", "quantize_bits", "compress", "error_feedback", "feedback_kind"),
    *("compress_down", "secure_sum", "measure_entropy", "robust", "before", "noise_multiplier", "warm_start", "seed"),
)
"""Options that decide about numbers of clients or of the server; what data decide is in the manifest."""


class Kept(NamedTuple):
    """The program of a folder.

    Attributes:
      program: what devices fetch.
      is_new: whether the folder has it not yet.
      told: what its owner has to hear; nothing mostly.
    """

    program: fl.deploy.ClientProgram
    is_new: bool
    told: str = ""


def program_in(folder: Path, found: Deployed, config: Path) -> Kept:
    """The program that a folder goes on with, or a new one for a folder that has none. Nothing is written.

    Args:
      folder: of the server; it may be missing.
      found: what the config file describes.
      config: the file, for messages.

    Raises:
      ValueError: the program is damaged, missing or replaced, or it is of other rounds, with what differs.
    """
    path, began = folder / PROGRAM, _began_with(folder / RUN / WHOSE)
    if not path.exists():
        made = composing.program_of(found)
        if began not in (None, made.sha256):
            raise ValueError(_gone(path, f"is missing, and one made now would be {made.sha256}", began))
        return Kept(made, is_new=True)
    try:
        program = fl.deploy.load_program(path)
    except fl.deploy.ProgramRefused as error:
        raise ValueError(_gone(path, f"is damaged: {error}", began)) from error
    if began not in (None, program.sha256):
        raise ValueError(_gone(path, f"is {program.sha256}", began))
    before = _made_of(folder / MADE_OF)
    other = _differing(program.manifest, before, found)
    if other:
        words = [f"{name} is {_shown(was)} in the folder and {_shown(now)} in the config" for name, was, now in other]
        more = f"; and {len(words) - 6} more" if len(words) > 6 else ""
        raise ValueError(
            f"the program {str(path)!r}, to which devices have agreed, is of other rounds than {str(config)!r}: "
            f"{'; '.join(words[:6])}{more}. Serve what the folder was begun with, or give another --out: devices then "
            "have to agree to a new program."
        )
    return Kept(program, is_new=False, told=_of_other_code(program, before, found))


def put(folder: Path, kept: Kept, found: Deployed) -> None:
    """Puts a new program into its folder, and beside it what it was made of, each whole or not at all."""
    if kept.is_new or not (folder / MADE_OF).exists():  # a folder of an older version has none
        told = {"options": _decided(found.job.settings), "versions": _versions() if kept.is_new else {}}
        replace_text(folder / MADE_OF, json.dumps(told, indent=1) + "\n")
    if kept.is_new:
        write_whole(folder / PROGRAM, kept.program.artifact)


def _differing(manifest: Mapping[str, Any], before: Mapping[str, Any], found: Deployed) -> list[Unlike]:
    """Options that are not what they were, and entries of the manifest that would not be."""
    now, was = _decided(found.job.settings), before.get("options", {})
    changed = [Unlike(n, was[n], now[n]) for n in DECIDE if n in was and not same(was[n], now[n])]
    template = template_of(found.job.rounds, found.job.params, found.job.population)
    return changed + [each for each in unlike(manifest, template) if each not in changed]


def _decided(settings: Settings) -> dict[str, Any]:
    """The options that decide, with what the data set decides where they are left open."""
    told = {name: getattr(settings, name) for name in DECIDE}
    open_ones = build.defaults_for(settings.dataset).items()
    told |= {name: value for name, value in open_ones if name in told and told[name] is None}
    return {name: None if value is None else plain(value) for name, value in told.items()}


def _of_other_code(program: fl.deploy.ClientProgram, before: Mapping[str, Any], found: Deployed) -> str:
    """What to say where functions of the user's seem to have changed: no option shows that."""
    settings = found.job.settings
    texts = [settings.algorithm, settings.model or "", settings.loss or ""]
    texts += [text.partition("=")[2] for text in settings.set or ()]
    if not any(map(signatures.is_import, texts)) or before.get("versions") != _versions():
        return ""
    fresh, kept = (each.manifest["sha256"] for each in (composing.program_of(found), program))
    other = [name for name in ("program.bin", "evaluate.bin") if fresh.get(name) != kept.get(name)]
    if not other:
        return ""
    return (
        f"{', '.join(other)} would have other bytes if the program were made now: if code of yours has changed, "
        "devices do not run the change. They go on with the program of this folder; another --out makes a new one."
    )


def _shown(value: Any) -> str:
    return "nothing" if value is None else fl.checks.shown(value)


def _versions() -> dict[str, str]:
    return {**versions(), "python": platform.python_version()}


def _made_of(path: Path) -> Mapping[str, Any]:
    """What was written beside the program; nothing where an older version wrote none."""
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{str(path)!r} is damaged ({error}). Without it the server goes on, and takes your word for rates and the "
            "loss; delete it if the config is what the run was begun with."
        ) from error


def _began_with(path: Path) -> str | None:
    """The hash of the program with which the run in a folder began; None where none began."""
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("program")
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}); give another --out.") from error


def _gone(path: Path, what: str, began: str | None) -> str:
    began = "" if began is None else f" The run in this folder was begun with {began}."
    return (
        f"the program {str(path)!r} {what}.{began} Put the file back, which devices that fetched it have in "
        "the folder programs of their own; or give another --out: devices then have to agree to a new program."
    )
