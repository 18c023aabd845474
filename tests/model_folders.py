"""Folders that look like a model's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def looks_like_a_model(folder: Path) -> Path:
    """125 weights and a chat template, in a new folder."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    save_file({"a": np.zeros((30, 4), np.float32), "b": np.zeros(5, np.float32)}, folder / "model.safetensors")
    return folder
