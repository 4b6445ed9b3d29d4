"""Floor 4: compressors, one method a file, behind the contract in `base`."""
