"""How methods are listed and set: their tables, their settings with ranges, the knobs that a search turns."""
