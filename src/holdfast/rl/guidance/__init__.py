"""Guidance: an expert that writes a part of the answers which a policy learns from."""
