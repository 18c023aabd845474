"""Everything that runs a network: load, read, sample, score, count and save it."""
