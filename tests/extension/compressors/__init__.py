"""Two packages from outside, each with a method of compressing."""
