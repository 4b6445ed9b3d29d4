"""Files of office programs to text: DOCX, PPTX, XLSX."""
