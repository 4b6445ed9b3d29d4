"""Documents, the store that keeps them with their vectors, and retrieval."""
