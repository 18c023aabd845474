"""The invented world: its grammar, its oracle, and its models. All content is harmless and meaningless."""
