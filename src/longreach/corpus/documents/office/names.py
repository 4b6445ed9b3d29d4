"""Names of the elements of WordprocessingML and DrawingML."""

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
MATH = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
DRAWING = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
WORD_DRAWING = "{http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing}"
CHART = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"
DIAGRAM = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}"
OFFICE = "{urn:schemas-microsoft-com:office:office}"
VML = "{urn:schemas-microsoft-com:vml}"
NEW_CHART = "{http://schemas.microsoft.com/office/drawing/2014/chartex}chart"
# Beside a chart of the newer kind stands a text for older programs that it cannot be shown.
TEXTS = (W + "t", DRAWING + "t", MATH + "t", NEW_CHART)
# Properties, codes of fields, and what a tracked change has taken away.
_OMITTED = (
    "del moveFrom delText delInstrText instrText pPr rPr tblPr tblPrEx tblGrid trPr tcPr sectPr"
    " sdtPr sdtEndPr smartTagPr customXmlPr rubyPr"
)
OMITTED = frozenset(W + name for name in _OMITTED.split())
"""Elements that hold no text of the document."""
