"""Trained compressors that come with Longreach, by name. Floor 4.

They lie in `models/` of the repository and in `shipped/` of an installed package, each in a folder
with a model card.
"""

import json
from pathlib import Path

from longreach.compressors.names import MEAN_POOL, UNTRAINED
from longreach.errors import UsageError
from longreach.models.loading.places import SHIPPED

SETTINGS_FILE = "compressor.json"


def shipped() -> dict[str, Path]:
    """The folder of each."""
    return {path.parent.name: path.parent for path in sorted(SHIPPED.glob(f"*/{SETTINGS_FILE}"))}


def reference(ref: str | Path) -> str:
    """Returns what names the same trained compressor from any folder: a name that ships, or a whole
    path."""
    return str(ref) if str(ref) in shipped() else str(Path(ref).resolve())


def located(ref: str | Path) -> Path:
    """The folder of a trained compressor: of the one that ships by this name, else the path as it
    is."""
    return shipped().get(str(ref), Path(ref))


def shipped_for(model_ref: str) -> str | None:
    """The name of the one that a model, as `longreach.load` names it, is best served by; None where
    there is none.

    Only one whose card shows that it beats what needs no training says `"default": true` in its
    settings.
    """
    for name, folder in shipped().items():
        settings = json.loads((folder / SETTINGS_FILE).read_bytes())
        if settings.get("default") and settings.get("model") == model_ref:
            return name
    return None


def default_compressor(model_ref: str) -> str:
    """The compressor that serves a model best, of those that need no training by the user."""
    return shipped_for(model_ref) or MEAN_POOL


def check_compressor(ref: str) -> None:
    """Raises UsageError where no method, no compressor that ships and no folder has this name."""
    if ref not in UNTRAINED and ref not in shipped() and not Path(ref).is_dir():
        known = ", ".join([*UNTRAINED, *shipped()])
        raise UsageError(
            f"There is no compressor '{ref}': use one of {known}, or the folder of a trained one."
        )
