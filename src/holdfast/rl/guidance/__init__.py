"""Guidance: an expert writes a part of the answers from which a policy learns."""
