"""Which versions of the libraries the tests were run with: `constraints.txt`, which the package
carries."""

from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("constraints.txt")  # a link to the one that tests are installed by


@cache
def tested_versions() -> dict[str, str]:
    """By the package's name in small letters with `-` for `_`: the version that the tests were run
    with."""
    found = {}
    for line in _FILE.read_text(encoding="utf-8").splitlines():
        name, equals, version = line.partition("#")[0].strip().partition("==")
        if equals:
            found[package_name(name)] = version
    return found


def package_name(name: str) -> str:
    """A package's name as indices compare it."""
    return name.strip().lower().replace("_", "-")
