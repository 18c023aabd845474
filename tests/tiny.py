"""The builder of tiny models of every architecture, which stands beside the benchmarks."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

PLACE = Path(__file__).parents[1] / "benchmarks" / "tiny_architectures.py"
_spec = importlib.util.spec_from_file_location("tiny_architectures", PLACE)
_builder = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _builder
_spec.loader.exec_module(_builder)
tiny_config = _builder.tiny_config


def network(name, **settings):
    """A network of random weights, the same at each call."""
    config = tiny_config(name)
    for key, value in settings.items():
        setattr(config, key, value)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


FIXED = ("bamba", "falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h", "recurrent_gemma", "zamba", "zamba2")
"""Architectures whose layers' kinds follow from their places, or that share weights between layers."""


def shallow(name, **settings):
    """A network of two layers, one of each kind if its architecture has two; those of `FIXED` whole."""
    if name in FIXED:
        return network(name, **settings)
    kinds = list(dict.fromkeys(getattr(tiny_config(name), "layer_types", None) or ()))
    own = {"layer_types": (2 * kinds)[:2]} if kinds and name != "jamba" else {}
    return network(name, num_hidden_layers=2, **own, **settings)
