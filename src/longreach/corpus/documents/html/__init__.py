"""Pages of HTML and XHTML to text."""
