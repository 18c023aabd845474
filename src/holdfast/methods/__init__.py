"""Tables of methods, their settings with ranges, and the knobs that a search varies."""
