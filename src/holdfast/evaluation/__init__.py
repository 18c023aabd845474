"""What is measured of a model: scores with their intervals, and when it counts as broken."""
