"""Floor 4: documents, the store that keeps them with their vectors, and retrieval."""
