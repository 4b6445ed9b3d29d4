"""Fuzzers: seeded, run by `make fuzz`, counted in docs/reliability.md."""
