"""An answer's text as clients get it: without blanks at its ends, and cut before a stop text."""

from collections.abc import Sequence


class TextCutter:
    """Takes the pieces of a text and gives those that are certain to belong to the answer.

    Blanks are held back until something follows them, and so is what may be the beginning of a
    stop text.

    Args:
        stops: Texts before which the answer ends.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self._begun = False
        self.stopped = False

    def feed(self, piece: str) -> str:
        """Returns the text that is certain after one more piece."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [text.find(stop) for stop in self._stops if stop in text]
        if found:
            self.stopped = True
            self._held = ""
            return self._give(text[: min(found)].rstrip())
        if not self._begun and not self._stops:
            text = text.lstrip()
        certain = text[: len(text) - self._uncertain(text)].rstrip()
        self._held = text[len(certain) :]
        return self._give(certain)

    def finish(self) -> str:
        """Returns the rest of a text that has come to its end."""
        rest = self._held.rstrip()
        self._held = ""
        return self._give(rest)

    def _give(self, text: str) -> str:
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        return text

    def _uncertain(self, text: str) -> int:
        """Returns how many characters at the end may begin a stop text."""
        most = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(text)), most, -1):
                if text.endswith(stop[:length]):
                    most = length
                    break
        return most
