"""What installed packages announce as entry points: methods, suites and document formats."""

from importlib.metadata import entry_points
from typing import NamedTuple

from longreach.errors import LongreachError, ModelError, reason_of


class Announced(NamedTuple):
    """An entry point and the object that it names.

    Attributes:
        name: How the package calls it.
        place: Where it lies, as "package.module:name".
        loaded: The object, of any type.
    """

    name: str
    place: str
    loaded: object


def load_announced(
    group: str, what: str, *, error_class: type[LongreachError] = ModelError
) -> list[Announced]:
    """Returns everything that installed packages announce in a group, imported.

    This reads the metadata of every installed package, so callers keep the result.

    Args:
        group: The group of entry points, such as "longreach.suites".
        what: What an entry of it is, as a message calls it.
        error_class: What is raised.

    Raises:
        LongreachError: An entry cannot be imported; of the class that was asked for.
    """
    found = []
    for point in entry_points(group=group):
        try:
            loaded = point.load()
        # Whatever another package raises while it is imported.
        except Exception as error:
            raise error_class(
                f"The {what} '{point.name}' of an installed package cannot be loaded from"
                f" {point.value} ({reason_of(error)}): update that package or uninstall it."
            ) from error
        found.append(Announced(point.name, point.value, loaded))
    return found
