"""A grid over a sandbox that is built in seconds, without controls, and what its cells leave behind.

Its models learn little: the machinery is what is tested.

Every process of a test run reads this file, the one that only hands out tests too: heavy imports wait for their use.
"""

import copy
import json

import pytest

SANDBOX = {"num_base": 640, "num_aligned": 320, "base": {"max_steps": 6}, "aligned": {"max_steps": 4}}
SFT = {"sft": {"num_samples": 16, "optim": {"max_steps": 4, "learning_rate": 1e-3, "per_device_train_batch_size": 4}}}
VALUES = {
    "name": "small",
    "control": False,
    "models": [{"sandbox": SANDBOX}],
    "attacks": [SFT],
    "data": {"train": 24, "held_out": 6},
    "evaluation": {"every": 2, "num_prompts": 4, "max_new_tokens": 8, "harm_judges": ["oracle", "refusal"]},
}


@pytest.fixture(scope="session")
def values():
    """The plain values of the small grid with some of its keys changed; groups are merged one level deep."""

    def build(**changes):
        built = copy.deepcopy(VALUES)
        for key, value in changes.items():
            both = isinstance(value, dict) and isinstance(built.get(key), dict)
            built[key] = {**built[key], **value} if both else value
        return built

    return build


def finished_cell(folder):
    """Record, curve and completions of a cell as comparable values."""
    from pyarrow import parquet

    record = json.loads((folder / "record.json").read_text())
    for key in ("wall_seconds", "peak_memory_mb", "environment", "finished"):
        del record[key]
    for timed in (*record["evaluations"], *record["stages"], record["time_to_break"] or {}):
        timed.pop("seconds", None)
    curve = [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]
    return record, curve, parquet.read_table(folder / "completions.parquet").to_pylist()
