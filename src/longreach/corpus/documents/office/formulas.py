"""Formulas of Office Open XML as LaTeX."""

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lxml.etree import _Element

MATH = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"


def to_latex(element: "_Element") -> str:
    """Returns a formula as LaTeX; its bare characters where the converter drops some of them."""
    from markitdown.converter_utils.docx.math.omml import oMath2Latex

    characters = "".join(text.text or "" for text in element.iter(MATH + "t", _W + "t"))
    for name in ("f", "acc", "bar", "d", "groupChr", "nary"):
        for part in element.iter(MATH + name):
            # The converter needs the properties, which a file may omit where they are the usual
            # ones.
            if part.find(f"{MATH}{name}Pr") is None:
                part.insert(0, part.makeelement(f"{MATH}{name}Pr"))
    try:
        latex = str(oMath2Latex(element)).strip()
    except Exception:  # formulas of kinds it does not know
        return characters
    wanted = Counter(
        character for character in characters if character.isascii() and character.isalnum()
    )
    return latex if wanted <= Counter(latex) else characters
