"""Which versions of the libraries the tests were run with.

They are out of `constraints.txt`, which the package carries.
"""

from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("constraints.txt")  # a link to the one that tests are installed by


@cache
def tested_versions() -> dict[str, str]:
    """Returns the version of each package that the tests were run with.

    Names are those of `package_name`.
    """
    found = {}
    for line in _FILE.read_text(encoding="utf-8").splitlines():
        name, equals, version = line.partition("#")[0].strip().partition("==")
        if equals:
            found[package_name(name)] = version
    return found


def package_name(name: str) -> str:
    """Returns a package's name as indices compare it: in small letters, with `-` for `_`."""
    return name.strip().lower().replace("_", "-")
