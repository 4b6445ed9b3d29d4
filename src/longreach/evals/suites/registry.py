"""The suites by their names.

A package of your own adds a suite either with `register`, or for every process with an entry point
of the group `longreach.suites` that names a subclass of `Suite`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from longreach.errors import UsageError
from longreach.evals.suites.babilong.suite import BabilongSuite
from longreach.evals.suites.base import Suite
from longreach.evals.suites.docqa.suite import DocumentSuite
from longreach.evals.suites.niah.suite import NeedleSuite
from longreach.evals.suites.perplexity.suite import PerplexitySuite
from longreach.evals.suites.ruler.suite import RulerSuite
from longreach.installed import load_announced

if TYPE_CHECKING:
    from longreach.evals.report.base import SuiteReport

ENTRY_POINTS = "longreach.suites"
_BUILT_IN: tuple[type[Suite], ...] = (
    NeedleSuite,
    RulerSuite,
    BabilongSuite,
    DocumentSuite,
    PerplexitySuite,
)
_registered: dict[str, type[Suite]] = {}


def register(suite: type[Suite]) -> type[Suite]:
    """Adds a suite for this process, so that `longreach eval` and `report` know it; returns it.

    It can stand above a class as a decorator.

    Raises:
        UsageError: Another suite has this name.
    """
    # To register a suite twice does no harm: a module may be imported by two names.
    if suites().get(suite.name, suite) is not suite:
        raise UsageError(f"There is a suite '{suite.name}' already: give yours another name.")
    _registered[suite.name] = suite
    return suite


def unregister(name: str) -> None:
    """Removes a suite that was registered, where there is one of this name."""
    _registered.pop(name, None)


def suites() -> dict[str, type[Suite]]:
    """Returns all suites by name: those of the package, of entry points, and registered ones."""
    found = {suite.name: suite for suite in (*_BUILT_IN, *_announced())}
    return found | _registered


# This reads the metadata of every installed package, so it is done once.
@cache
def _announced() -> tuple[type[Suite], ...]:
    """Returns the suites that installed packages announce as entry points."""
    found = []
    for entry in load_announced(ENTRY_POINTS, "suite"):
        suite = entry.loaded
        # An entry point may name anything.
        if isinstance(suite, type) and issubclass(suite, Suite):
            found.append(suite)
    return tuple(found)


def find_suite(name: str) -> type[Suite]:
    """Returns the suite of a name.

    Raises:
        UsageError: There is none.
    """
    known = suites()
    if name not in known:
        raise UsageError(f"There is no suite '{name}': use one of {', '.join(known)}.")
    return known[name]


def find_option_owners(flag: str) -> list[str]:
    """Returns the names of the suites that have an option, as a user types it."""
    found = []
    for suite in suites().values():
        if any(option.flag == flag for option in suite.options()):
            found.append(suite.name)
    return found


def find_report(name: str) -> SuiteReport:
    """Returns what makes a report of a suite's runs; of a suite that is unknown here the usual."""
    from longreach.evals.report.answers import AnswerReport
    from longreach.evals.scores.metrics import METRICS

    suite = suites().get(name)
    # A run can be reported where the package with its suite is not installed.
    if suite is None:
        return AnswerReport(name, METRICS)
    return suite.report()
