"""Everything that runs a network: loading, forward passes, sampling, scoring, counting and saving."""
