"""The checkpoints of a run: which are whole, which cannot be read, which are good for nothing.

<run>/checkpoints/checkpoint-<step>/    what is trained, optimizer, scheduler, random states
                                        trainer_state.json: written last, by the first process

A checkpoint without a readable trainer_state.json was being written when a process ended. It does
not count, and is deleted when the run is resumed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from longreach.errors import ModelError, out_of_memory, reason_of
from longreach.jsontext import parse_object

CHECKPOINTS = "checkpoints"
STATE = "trainer_state.json"
_NAME = "checkpoint-"


def step_of(checkpoint: Path) -> int:
    """Returns the step that a checkpoint was written at."""
    return int(checkpoint.name.removeprefix(_NAME))


def whole_checkpoints(out: Path) -> list[Path]:
    """Returns the whole checkpoints of a run, the oldest first."""
    return [folder for folder in _folders(out) if _is_whole(folder)]


def last_checkpoint(out: Path) -> Path | None:
    """Returns the newest whole checkpoint of a run; None before the first."""
    whole = whole_checkpoints(out)
    return whole[-1] if whole else None


def drop_torn(out: Path) -> None:
    """Deletes the checkpoints that were being written when a process ended."""
    for folder in _folders(out):
        if not _is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)


def drop_all(out: Path) -> None:
    """Deletes the checkpoints of a run; what trackers wrote beside them stays."""
    for folder in _folders(out):
        shutil.rmtree(folder, ignore_errors=True)


def drop(place: Path, step: int) -> None:
    """Deletes the checkpoint of a step, if there is one, and the folder of checkpoints if empty.

    Args:
        place: The folder in which checkpoints lie.
        step: The step.
    """
    folder = place / f"{_NAME}{step}"
    (folder / STATE).unlink(missing_ok=True)  # first: it does not count from here on
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        # Other checkpoints may lie there, and then the folder stays.
        place.rmdir()


def adopt_earlier(out: Path) -> None:
    """Moves checkpoints to where they lie now, which earlier releases wrote into `out` itself."""
    # A rename is whole or not there: a kill in between leaves the rest for the next time.
    for folder in sorted(out.glob(f"{_NAME}*")):
        target = out / CHECKPOINTS / folder.name
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            folder.rename(target)


@contextmanager
def explain_unreadable(checkpoint: Path) -> Iterator[None]:
    """Says which checkpoint cannot be read.

    Raises:
        ModelError: It is damaged, or of another model.
    """
    try:
        yield
    except Exception as error:
        if out_of_memory(error):  # to delete it would help nobody
            raise
        reason = reason_of(error)
        raise ModelError(
            f"The checkpoint '{checkpoint}' cannot be read ({reason}): delete it to use the one"
            " before."
        ) from error


def _folders(out: Path) -> list[Path]:
    """Returns the folders of checkpoints, whole or not, the oldest first."""
    found = []
    for folder in (out / CHECKPOINTS).glob(f"{_NAME}*"):
        # Copies that a user made, such as checkpoint-100-old, do not count.
        if folder.name.removeprefix(_NAME).isdigit():
            found.append(folder)
    return sorted(found, key=step_of)


def _is_whole(folder: Path) -> bool:
    try:
        state = parse_object((folder / STATE).read_bytes(), nan=float)
    except (OSError, ValueError):
        return False
    # Another number would be a folder that somebody copied or renamed.
    return state.get("global_step") == step_of(folder)
