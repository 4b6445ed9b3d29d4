"""Where the figures of a run can be sent.

A name that is not known is refused before torch is imported.
"""

from collections.abc import Sequence
from importlib.util import find_spec

from longreach.errors import MissingDependency, UsageError

_TRACKERS = ("tensorboard", "wandb", "trackio")


def check_trackers(names: Sequence[str]) -> None:
    """Checks that a run can report to each of these.

    Raises:
        MissingDependency: It is not installed.
        UsageError: It is no tracker.
    """
    asked = [name for name in names if name not in ("all", "none")]
    for name in asked:
        # Of a dotted name `find_spec` would import the package before the dot.
        if not name.isidentifier() or (find_spec(name) is None and name not in _TRACKERS):
            raise _unknown(name)
    if not asked:
        return
    from transformers.integrations.integration_utils import get_available_reporting_integrations

    # Names that cannot be right were refused above: importing transformers takes seconds.
    there = get_available_reporting_integrations()
    for name in asked:
        if name in _TRACKERS and name not in there:
            raise MissingDependency(
                f"{name} is not installed: pip install {name}, or omit --report-to."
            )
        if name not in there:
            raise _unknown(name)


def _unknown(name: str) -> UsageError:
    return UsageError(f"There is no tracker '{name}' here: give one of {', '.join(_TRACKERS)}.")
