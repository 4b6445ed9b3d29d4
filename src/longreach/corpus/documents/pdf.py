"""PDF to text."""

import io

from longreach.corpus.documents.base import Converted, converting
from longreach.errors import DocumentError


def convert(raw: bytes, name: str) -> Converted:
    """Reads the text layer of a PDF, page by page; see `html.convert` for arguments and errors."""
    from pypdf import PasswordType, PdfReader
    from pypdf.errors import DependencyError

    with converting(name, ".pdf"):
        try:
            reader = PdfReader(io.BytesIO(raw))
            if reader.is_encrypted and reader.decrypt("") == PasswordType.NOT_DECRYPTED:
                raise DocumentError(f"{name} is password-protected: remove the password, e.g. with qpdf --decrypt.")
            text = "\n\n".join(page.extract_text() for page in reader.pages)
        except DependencyError as error:
            advice = "pip install cryptography, or save a copy without protection."
            raise DocumentError(f"{name} is encrypted in a way that needs another package: {advice}") from error
    if not text.strip():
        advice = "run OCR on it first, e.g. with ocrmypdf."
        raise DocumentError(f"{name} has no text layer (it is empty or scanned): {advice}")
    return Converted(text)
