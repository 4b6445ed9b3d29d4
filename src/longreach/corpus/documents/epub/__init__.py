"""Books in EPUB to text."""
