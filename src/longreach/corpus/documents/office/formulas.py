"""Formulas of Office Open XML as LaTeX."""

import re
from collections import Counter
from typing import TYPE_CHECKING

from longreach.corpus.documents.office.names import MATH, W
from longreach.corpus.documents.office.package import read_text

if TYPE_CHECKING:
    from lxml.etree import _Element


def to_latex(element: "_Element") -> str:
    """Returns a formula as LaTeX; its bare characters where the converter drops some of them."""
    from markitdown.converter_utils.docx.math.omml import oMath2Latex

    characters = read_text(element, MATH + "t", W + "t")
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
    # Commands of LaTeX only add letters: fewer of one than before means that some were dropped.
    wanted = Counter(re.findall("[0-9A-Za-z]", characters))
    if wanted <= Counter(latex):
        return latex
    return characters
