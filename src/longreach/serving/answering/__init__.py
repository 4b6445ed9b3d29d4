"""Questions of clients to answers: read, planned, written in threads, quoted."""
