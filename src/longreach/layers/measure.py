"""What choices of layers come to on the probes, each measured once: `Measure`.

A measurement that was stopped resumes from its progress file, one line for each choice. The search
asks again in the same order, gets what is known at once, and computes the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from longreach.errors import StorageError, UsageError
from longreach.jsontext import JsonObject, parse_object, read_field
from longreach.layers.probes import Probe
from longreach.layers.scores import Score, score_states
from longreach.models.hybrid.states import LayerRunner, Pass


class Progress:
    """The lines of a progress file: what was measured, by a name for each.

    Args:
        path: The file, which is made if it does not exist. None keeps the lines in memory only.
        settings: What decides the figures; a file with other ones is refused.

    Raises:
        UsageError: The file is of another measurement.
        StorageError: It cannot be written.
    """

    def __init__(self, path: Path | None, settings: JsonObject) -> None:
        self._path = path
        self._known: dict[str, JsonObject] = {}
        if path is None:
            return
        if path.is_file():
            self._read(path, settings)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write({"settings": settings})

    def get(self, name: str) -> JsonObject | None:
        """Returns what is known by a name, or None."""
        return self._known.get(name)

    def put(self, name: str, value: JsonObject) -> None:
        """Keeps a value."""
        self._known[name] = value
        if self._path is not None:
            self._write({"name": name, "value": value})

    def _write(self, line: JsonObject) -> None:
        assert self._path is not None
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise StorageError(
                f"The progress cannot be written to '{self._path}' ({error.strerror}): make space"
                " or give another --out."
            ) from error

    def _read(self, path: Path, settings: JsonObject) -> None:
        refused = UsageError(
            f"'{path}' holds the progress of another measurement: remove it, or give another --out."
        )
        lines = path.read_bytes().splitlines(keepends=True)
        whole = 0
        for line in lines:
            # A kill may have cut the last line off.
            try:
                found = parse_object(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            if not whole and found.get("settings") != settings:
                raise refused
            if whole:
                self._known[str(found.get("name"))] = read_field(found, "value", dict)
            whole += len(line)
        if not whole:
            raise refused
        with path.open("r+b") as file:
            file.truncate(whole)


class Measure:
    """Scores choices of layers on probes, and knows what it has scored.

    Args:
        runner: Of the probes.
        probes: All of one length.
        progress: Where scores are kept.
        say: Told after each new score what it was.
    """

    def __init__(
        self,
        runner: LayerRunner,
        probes: Sequence[Probe],
        progress: Progress,
        say: Callable[[str], None],
    ) -> None:
        self.runner = runner
        self.num_layers = runner.num_layers
        self._probes = probes
        self._progress = progress
        self._say = say
        self._end = min(probe.question_start for probe in probes)
        self._base: Pass | None = None

    def whole(self, full: Collection[int]) -> Score:
        """Returns the score where the whole texts are read with these full layers."""
        return self._once(_name("whole", full), lambda: self._score_whole(full))

    def end(self, full: Collection[int], base: Collection[int]) -> Score:
        """Returns the score where only questions and answers are read with these full layers.

        Args:
            full: Those layers.
            base: The full layers that the text before has been read with.
        """
        name = f"{_name('end', full)} after {_name('', base)}"

        def score() -> Score:
            states = self.runner.read_end(full, self._read(base), self._end)
            return score_states(self.runner, self._probes, states, self._end)

        return self._once(name, score)

    def head(self, layer: int, head: int) -> Score:
        """Returns the score where one KV head is sparse for questions and answers."""

        def score() -> Score:
            base = self._read(range(self.num_layers))
            states = self.runner.read_end_without_head(layer, head, base, self._end)
            return score_states(self.runner, self._probes, states, self._end)

        return self._once(f"head {layer} {head}", score)

    def _score_whole(self, full: Collection[int]) -> Score:
        read = self._read(full)
        return score_states(self.runner, self._probes, read.output, read.start)

    def _read(self, full: Collection[int]) -> Pass:
        """Returns the states of a choice, which is then the base of the next one."""
        if self._base is None or self._base.full != frozenset(full):
            self._base = self.runner.read(full, self._base)
        return self._base

    def _once(self, name: str, score: Callable[[], Score]) -> Score:
        known = self._progress.get(name)
        if known is not None:
            return Score.from_json(known)
        found = score()
        self._progress.put(name, found.to_json())
        self._say(f"{name}: NLL {found.nll:.3f}, {found.found:.0%} found")
        return found


def _name(what: str, full: Collection[int]) -> str:
    return f"{what} {','.join(map(str, sorted(full))) or 'none'}".strip()
