"""The folder of a training run: whose it is, which checkpoint is whole, how the result gets into
it.

run.json        settings and names of the data, written before anything else
checkpoints/    checkpoint-N folders of transformers' Trainer
log.jsonl       one line a step and a test
training.json   the report, once training is done
config.json, model.safetensors, ...    the trained model, once training is done
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from longreach.errors import ModelError, UsageError, out_of_memory, reason_of
from longreach.jsontext import parse_object

RUN = "run.json"
CHECKPOINTS = "checkpoints"
ADAPTER = "adapter"
REPORT = "training.json"
_LOG = "log.jsonl"
_STATE = "trainer_state.json"
_ASIDE = ".result"
_MOST_NAMED = 6  # settings that differ, in one sentence


def claim(
    out: Path,
    settings: Mapping[str, Any],
    *,
    renew: Collection[str] = (),
    earlier: Mapping[str, str | None] | None = None,
) -> None:
    """Makes `out` the folder of a run, or finds that it is already this run's.

    Args:
        out: A folder that does not exist yet, an empty one, or one of a run that was stopped.
        settings: Everything that decides the result; JSON values.
        renew: Those of which a new value takes the place of the old one.
        earlier: What settings were called in earlier releases, and are called now; None for those
            that are gone.

    Raises:
        UsageError: The folder holds something else, or a run whose settings differ or are damaged.
    """
    wanted = json.loads(json.dumps(settings))
    refuse_foreign(out)
    if not (out / RUN).is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / RUN, wanted)
    there = _renamed(settings_of(out), earlier or {})
    differing = [] if there == wanted else sorted(_differing(there, wanted, renew))
    if differing:
        raise UsageError(
            f"'{out}' belongs to another run: {', '.join(differing[:_MOST_NAMED])}. Give another"
            " folder, or that run's settings to go on with it."
        )
    if settings_of(out) != wanted:
        write_json(out / RUN, wanted)


def _renamed(settings: dict[str, Any], earlier: Mapping[str, str | None]) -> dict[str, Any]:
    renamed = dict[str, Any]()
    for name, value in settings.items():
        now = earlier.get(name, name)
        if now is not None:
            renamed[now] = value
    return renamed


def settings_of(out: Path) -> dict[str, Any]:
    """The settings of the run that a folder belongs to; empty where it is none's.

    Raises:
        UsageError: They are damaged.
    """
    try:
        return parse_object((out / RUN).read_bytes(), nan=float)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise UsageError(f"'{out / RUN}' is damaged: give another folder.") from error


def refuse_foreign(out: Path) -> None:
    """Raises UsageError where `out` is neither free nor the folder of a run."""
    if out.exists() and not (out / RUN).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"'{out}' exists already and is no run: give a folder that does not exist yet, or an"
            " empty one."
        )


def _differing(there: Any, here: Any, renew: Collection[str] = (), path: str = "") -> Iterator[str]:
    """Names the values that differ, and those inside of objects by all their keys."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in (there.keys() | here.keys()) - set(renew):
            yield from _differing(
                there.get(key), here.get(key), (), f"{path}.{key}" if path else key
            )
    elif there != here:
        yield f"{path} is {_short(there)} there and {_short(here)} here"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def report_of(out: Path) -> dict[str, Any] | None:
    """The report of a run that is done; None where it is not."""
    try:
        return parse_object((out / REPORT).read_bytes(), nan=float)
    except (OSError, ValueError):
        return None


def last_checkpoint(out: Path) -> Path | None:
    """The newest whole checkpoint of a run; None before the first.

    Trainer writes its state last: a checkpoint without it was being written when the process ended.
    """
    whole = []
    for folder in (out / CHECKPOINTS).glob("checkpoint-*"):
        try:
            whole.append(
                (
                    int(parse_object((folder / _STATE).read_bytes(), nan=float)["global_step"]),
                    folder,
                )
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return max(whole)[1] if whole else None


def drop_torn(out: Path) -> None:
    """Deletes checkpoints that are newer than the last whole one: they were being written when a
    process ended."""
    last = last_checkpoint(out)
    step = int(last.name.rsplit("-", 1)[1]) if last else -1
    for folder in (out / CHECKPOINTS).glob("checkpoint-*"):
        if folder.name.rsplit("-", 1)[1].isdigit() and int(folder.name.rsplit("-", 1)[1]) > step:
            shutil.rmtree(folder)


@contextmanager
def reading(checkpoint: Path) -> Iterator[None]:
    """Says which checkpoint cannot be read.

    Raises:
        ModelError: It is damaged, or of another model.
    """
    try:
        yield
    except Exception as error:
        if out_of_memory(error):
            raise
        reason = reason_of(error)
        raise ModelError(
            f"The checkpoint '{checkpoint}' cannot be read ({reason}): delete it to use the one"
            " before."
        ) from error


def finish(
    out: Path, model: Any, tokenizer: Any, history: list[dict[str, Any]], report: dict[str, Any]
) -> None:
    """Puts the trained model, its tokenizer, the log and the report into the folder.

    Written aside and moved, the config and then the report last: a folder that has them is whole.
    """
    aside = out / _ASIDE
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    (aside / _LOG).write_text("".join(json.dumps(line) + "\n" for line in history))
    for path in sorted(aside.iterdir(), key=lambda path: path.name == "config.json"):
        if path.is_dir():
            shutil.rmtree(out / path.name, ignore_errors=True)
        path.replace(out / path.name)
    aside.rmdir()
    write_json(out / REPORT, report)


def write_json(path: Path, value: Any) -> None:
    """Writes a file that is either the old or the new one, whenever the process ends."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(value, indent=2) + "\n")
    scratch.replace(path)
