"""KVZip: a segment's keys and values, of which those are kept that repeating it needs most."""
