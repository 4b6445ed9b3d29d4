"""Folders of trained compressors, and those that come with Longreach, by name. Imports no torch.

The latter lie in `models/` of the repository and in `shipped/` of an installed package, each in a
folder with a model card.
"""

from pathlib import Path

from longreach.errors import ModelError
from longreach.jsontext import JsonObject, NotJson, parse_object
from longreach.models.loading.places import SHIPPED

SETTINGS_FILE = "compressor.json"


def shipped() -> dict[str, Path]:
    """Returns the folder of each compressor that ships, by name."""
    return {path.parent.name: path.parent for path in sorted(SHIPPED.glob(f"*/{SETTINGS_FILE}"))}


def reference(ref: str | Path) -> str:
    """Returns a reference that holds in any folder: a name that ships, or a full path."""
    return str(ref) if str(ref) in shipped() else str(Path(ref).resolve())


def resolve_folder(ref: str | Path) -> Path:
    """Returns the folder of the compressor that ships by this name, else the path as it is."""
    return shipped().get(str(ref), Path(ref))


def shipped_for(model_ref: str) -> str | None:
    """Returns the name of the compressor that ships for a model; None where there is none.

    Only one whose card shows that it beats what needs no training says `"default": true` in its
    settings.

    Args:
        model_ref: The model as `longreach.load` takes it.
    """
    for name, folder in shipped().items():
        settings = settings_of(folder)
        if settings.get("default") and settings.get("model") == model_ref:
            return name
    return None


def settings_of(folder: Path) -> JsonObject:
    """Returns what the folder of a trained compressor says of it; empty where it says nothing.

    Raises:
        ModelError: Its settings are damaged.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return {}
    try:
        return parse_object(path.read_bytes(), wide=True, nan=float)
    except NotJson as error:
        raise ModelError(
            f"'{path}' is not valid JSON ({error}): copy the checkpoint again."
        ) from error
