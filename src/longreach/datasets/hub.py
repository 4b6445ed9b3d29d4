"""Rows of the Hub's data sets, through the library `datasets`."""

import re
from pathlib import Path
from typing import Any

from longreach.errors import DocumentError, MissingDependency, reason_of

HUB_INSTALL = "pip install 'longreach[hub]'"
_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+))?(?:@(?P<split>[\w.-]+))?")


def load_hub_rows(
    given: str, folder: Path | None = None, *, config: str | None = None, split: str = "train"
) -> Any:
    """Returns the rows of a data set of the Hub as the library `datasets` holds them.

    Args:
        given: `owner/name`, `owner/name:config` or `owner/name:config@split`.
        folder: Read this instead, as the data set of that name.
        config: Where `given` names none.
        split: Where `given` names none.

    Raises:
        DocumentError: There is no such data set.
        MissingDependency: The library is not installed.
    """
    parts = _NAME.fullmatch(given)
    absent = f"There is no file or folder '{given}'"
    if parts is None:
        # No id of the Hub looks like this, so it was meant as a path.
        raise DocumentError(f"{absent}: check the path.")
    try:
        import datasets
    except ImportError as error:
        raise MissingDependency(
            f"{absent}; to read it as a data set of the Hub: {HUB_INSTALL}"
        ) from error
    target = str(folder) if folder else parts["name"]
    try:
        # Its bars would break our own lines on stderr.
        datasets.disable_progress_bars()
        return datasets.load_dataset(
            target, parts["config"] or config, split=parts["split"] or split
        )
    except Exception as error:
        # Besides its own errors the library lets through those of the network and of file formats.
        reason = reason_of(error)
        raise DocumentError(
            f"{absent}, and no data set of that name can be had from the Hub ({reason}): check the"
            " name."
        ) from error
