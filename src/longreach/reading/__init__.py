"""Floor 5: answers from a corpus. Retrieve, choose, assemble, generate, stream, cite."""
