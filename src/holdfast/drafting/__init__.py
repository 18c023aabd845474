"""A first grid and a first gate for a model and data of one's own, as commented files."""
