"""What models learn from and are asked: texts, questions and token files."""
