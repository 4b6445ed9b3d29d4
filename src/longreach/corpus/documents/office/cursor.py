"""Where the next words of a page of HTML go, while the page is made."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lxml.etree import _Element


class WritingPlace:
    """Where the next words go: a block, in it an open line, in that an inline element.

    Attributes:
        block: The element that lines are appended to; None before there is any.
        boxes: Text boxes met in the open line, to be read after it.
        joined: Whether the next paragraph continues the open line.
    """

    def __init__(self, block: "_Element | None") -> None:
        self.block: Any = block
        self.boxes: list[_Element] = []
        self.joined = False
        self._open: list[Any] = []
        self._lists: list[Any] = []
        self._words: list[str] = []

    @property
    def has_line(self) -> bool:
        """Whether a line is open."""
        return bool(self._open)

    def open(self, tag: str) -> None:
        """Begins a line of its own."""
        from lxml.etree import SubElement

        self.close()
        self.end_lists()
        self._open = [SubElement(self.block, tag)]

    def open_item(self, level: int) -> None:
        """Begins an item of a list of bullets, at most one level deeper than the item before."""
        from lxml.etree import SubElement

        self.close()
        # Lists deeper than this item have ended.
        del self._lists[level + 1 :]
        if level >= len(self._lists):
            parent = self.block
            if self._lists:
                # In the last item of the outer list.
                parent = self._lists[-1][-1]
            self._lists.append(SubElement(parent, "ul"))
        self._open = [SubElement(self._lists[-1], "li")]

    def end_lists(self) -> None:
        """Makes the next item of a list the first one of a new list."""
        self._lists.clear()

    def close(self) -> None:
        """Ends the open line."""
        self._flush()
        self._open = []
        self.joined = False

    def enter(self, tag: str, **attributes: str) -> None:
        """Begins an element inside the line."""
        from lxml.etree import SubElement

        if not self._open:
            self.open("p")
        self._flush()
        self._open.append(SubElement(self._open[-1], tag, attributes))

    def leave(self) -> None:
        """Ends the element that was entered last."""
        self._flush()
        # The line itself ends with `close` only.
        if len(self._open) > 1:
            self._open.pop()

    def say(self, text: str) -> None:
        """Appends words to the line, which is begun where none is open."""
        if text:
            if not self._open:
                self.open("p")
            self._words.append(text)

    def take_boxes(self) -> "list[_Element]":
        """Returns the text boxes met so far, which are then forgotten."""
        boxes = self.boxes
        self.boxes = []
        return boxes

    def _flush(self) -> None:
        if not self._words:
            return
        text = "".join(self._words)
        self._words.clear()
        parent = self._open[-1]
        # lxml keeps text behind an element in that element's tail.
        if len(parent):
            parent[-1].tail = (parent[-1].tail or "") + text
        else:
            parent.text = (parent.text or "") + text
