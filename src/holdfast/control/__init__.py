"""Dynamic Action Interpolation on its own ground: TD3 and SAC on control tasks, an expert's actions blended in."""
