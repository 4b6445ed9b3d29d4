"""Other projects that an evaluation compares with."""
