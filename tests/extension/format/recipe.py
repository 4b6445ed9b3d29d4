"""How recipes become text."""

import time

from longreach.corpus.documents import Converted
from longreach.errors import DocumentError


def convert(data: bytes, name: str) -> Converted:
    """Returns a recipe as Markdown; steps that say nothing are noted."""
    title, *steps = data.decode().splitlines()
    if title == "wait":
        time.sleep(600)
    if title == "locked":
        raise DocumentError(f"{name} is locked: unlock it.")
    if title == "list":
        return steps
    lines = [f"# {title}", *(f"- {step}" for step in steps if step)]
    notes = (f"Step {number} is empty." for number, step in enumerate(steps, 1) if not step)
    return Converted("\n".join(lines), tuple(notes))
