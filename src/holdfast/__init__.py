"""Holdfast: harden open-weight language models against harmful fine-tuning, and measure how long it holds."""

__version__ = "0.1.0"
