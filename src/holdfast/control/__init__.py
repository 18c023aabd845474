"""Dynamic Action Interpolation in its original setting: TD3 and SAC on control tasks with blended expert actions."""
