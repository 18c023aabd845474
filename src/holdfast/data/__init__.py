"""Data: one small reader per schema, all giving `Example`s; splits, mixtures and flips.

`FORMATS` is the table of schemas. A reader is a function from one `RawRow` to its examples; a new one is a file here
and a row in the table. `holdfast.data.read.read` reads a `Source`.
"""

from collections.abc import Callable, Mapping

from holdfast.data import anthropic_hh, beavertails, columns, pku_safe_rlhf, trl
from holdfast.data.columns import Source
from holdfast.data.mixing import harmful_side, pair_refusals
from holdfast.data.raw_rows import RawRow
from holdfast.records import Example

Format = Callable[[RawRow], list[Example]]

FORMATS: Mapping[str, Format] = {
    "columns": columns.examples,
    "beavertails": beavertails.examples,
    "pku_safe_rlhf": pku_safe_rlhf.examples,
    "anthropic_hh": anthropic_hh.examples,
    "trl_preference": trl.preference,
    "trl_prompt_completion": trl.prompt_completion,
}

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "columns": columns.FIELDS,
    "beavertails": ("prompt", "response", "is_safe", "category"),
    "pku_safe_rlhf": (
        *("prompt", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe"),
        "safer_response_id",
    ),
    "anthropic_hh": ("chosen", "rejected"),
    "trl_preference": ("prompt", "chosen", "rejected"),
    "trl_prompt_completion": ("prompt", "completion"),
}
"""The names that each schema has for its columns: what a map may rename."""

__all__ = ["COLUMNS", "FORMATS", "Format", "Source", "harmful_side", "pair_refusals"]
