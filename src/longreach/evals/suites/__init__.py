"""What evaluations ask: one suite a module."""
