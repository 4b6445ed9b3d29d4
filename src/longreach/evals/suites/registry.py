"""The suites by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longreach.errors import UsageError
from longreach.evals.suites.babilong.suite import BabilongSuite
from longreach.evals.suites.base import Suite
from longreach.evals.suites.docqa.suite import DocumentSuite
from longreach.evals.suites.niah.suite import NeedleSuite
from longreach.evals.suites.perplexity.suite import PerplexitySuite
from longreach.evals.suites.ruler.suite import RulerSuite

if TYPE_CHECKING:
    from longreach.evals.report.base import SuiteReport

_SUITES: dict[str, type[Suite]] = {
    suite.name: suite
    for suite in (NeedleSuite, RulerSuite, BabilongSuite, DocumentSuite, PerplexitySuite)
}


def register(suite: type[Suite]) -> type[Suite]:
    """Adds a suite, so that `longreach eval` and `longreach report` know it; returns it.

    It can stand above a class as a decorator.

    Raises:
        UsageError: Another suite has this name.
    """
    if _SUITES.setdefault(suite.name, suite) is not suite:
        raise UsageError(f"There is a suite '{suite.name}' already: give yours another name.")
    return suite


def unregister(name: str) -> None:
    """Removes a suite, where there is one of this name."""
    _SUITES.pop(name, None)


def suite_names() -> tuple[str, ...]:
    """Returns the names of all suites, in the order they were registered."""
    return tuple(_SUITES)


def find_suite(name: str) -> type[Suite]:
    """Returns the suite of a name.

    Raises:
        UsageError: There is none.
    """
    if name not in _SUITES:
        raise UsageError(f"There is no suite '{name}': use one of {', '.join(_SUITES)}.")
    return _SUITES[name]


def find_option_owners(flag: str) -> list[str]:
    """Returns the names of the suites that have an option, as a user types it."""
    found = []
    for suite in _SUITES.values():
        if any(option.flag == flag for option in suite.options()):
            found.append(suite.name)
    return found


def find_report(name: str) -> SuiteReport:
    """Returns what makes a report of a suite's runs; of a suite that is unknown here the usual."""
    from longreach.evals.report.answers import AnswerReport
    from longreach.evals.scores.metrics import METRICS

    if name in _SUITES:
        return _SUITES[name].report()
    return AnswerReport(name, METRICS)
