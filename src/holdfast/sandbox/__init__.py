"""The invented world: its grammar, its oracle, and the models built from it. All of it is harmless nonsense."""
