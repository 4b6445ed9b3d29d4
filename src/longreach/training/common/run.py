"""The folder of a training run: whose it is, and how the result gets into it.

run.json        settings and names of the data, written before anything else
checkpoints/    see `checkpoints.py`
log.jsonl       one line a step and a test
training.json   the report, once training is done
config.json, model.safetensors, ...    the trained model, once training is done
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from longreach.errors import UsageError
from longreach.jsontext import JsonObject, JsonValue, parse_object

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RUN = "run.json"
ADAPTER = "adapter"
REPORT = "training.json"
_LOG = "log.jsonl"
_ASIDE = ".result"
_MOST_NAMED = 6  # settings that differ, in one sentence


def claim(
    out: Path,
    settings: Mapping[str, JsonValue],
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
    # As they are after being stored, where tuples are lists.
    wanted = json.loads(json.dumps(settings))
    refuse_foreign(out)
    if not (out / RUN).is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / RUN, wanted)
    stored = settings_of(out)
    there = _rename(stored, earlier or {})
    differing = sorted(_differing(there, wanted, renew))
    if differing:
        raise UsageError(
            f"'{out}' belongs to another run: {', '.join(differing[:_MOST_NAMED])}. Give another"
            " folder, or that run's settings to resume it."
        )
    # New values of what may differ, and today's names, are noted for the next call.
    if stored != wanted:
        write_json(out / RUN, wanted)


def _rename(settings: Mapping[str, JsonValue], earlier: Mapping[str, str | None]) -> JsonObject:
    """Returns settings under today's names, without those that are gone."""
    renamed = JsonObject()
    for name, value in settings.items():
        now = earlier.get(name, name)
        if now is not None:
            renamed[now] = value
    return renamed


def settings_of(out: Path) -> JsonObject:
    """Returns the settings of the run that a folder belongs to; empty where it is nobody's.

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


def _differing(
    there: object, here: object, renew: Collection[str] = (), path: str = ""
) -> Iterator[str]:
    """Yields the names of values that differ; those inside of objects by all their keys."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in (there.keys() | here.keys()) - set(renew):
            inside = f"{path}.{key}" if path else key
            yield from _differing(there.get(key), here.get(key), (), inside)
    elif there != here:
        yield f"{path} is {_short(there)} there and {_short(here)} here"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def report_of(out: Path) -> JsonObject | None:
    """Returns the report of a run that is done; None where it is not."""
    try:
        return parse_object((out / REPORT).read_bytes(), nan=float)
    except (OSError, ValueError):
        return None


def finish(
    out: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    history: Sequence[Mapping[str, object]],
    report: Mapping[str, object],
) -> None:
    """Puts the trained model, its tokenizer, the log and the report into the folder.

    They are written aside and moved, the config and then the report last: a folder that has them is
    whole.
    """
    aside = out / _ASIDE
    # A process that was killed here left a part of a result.
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    # Perplexities of a bad run may be infinite: Python reads them back.
    lines = [json.dumps(line) + "\n" for line in history]
    (aside / _LOG).write_text("".join(lines))
    # False sorts before True, so the config is the last one moved.
    for path in sorted(aside.iterdir(), key=lambda path: path.name == "config.json"):
        if path.is_dir():
            shutil.rmtree(out / path.name, ignore_errors=True)
        path.replace(out / path.name)
    aside.rmdir()
    write_json(out / REPORT, report)


def write_json(path: Path, value: object) -> None:
    """Writes a file that is either the old or the new one, whenever the process ends."""
    # Each process writes a file of its own, so that no two of them write into one.
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(value, indent=2) + "\n")
    scratch.replace(path)
