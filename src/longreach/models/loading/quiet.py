"""transformers without its progress bars and reports, for all threads that want it so."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import transformers


class _Quiet:
    """Counts the threads that want transformers quiet, and keeps what it was set to before."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._inside = 0
        self._verbosity = 0
        self._bars = False

    def enter(self) -> None:
        with self._guard:
            self._inside += 1
            # The first thread has kept the settings; by now they are already the quiet ones.
            if self._inside > 1:
                return
            self._verbosity = transformers.logging.get_verbosity()
            self._bars = transformers.logging.is_progress_bar_enabled()
            transformers.logging.set_verbosity_error()
            transformers.logging.disable_progress_bar()

    def leave(self) -> None:
        with self._guard:
            self._inside -= 1
            # Other threads still want it quiet.
            if self._inside:
                return
            transformers.logging.set_verbosity(self._verbosity)
            if self._bars:
                transformers.logging.enable_progress_bar()


_quiet = _Quiet()


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers from showing progress bars and load reports: what matters is raised."""
    _quiet.enter()
    try:
        yield
    finally:
        _quiet.leave()
