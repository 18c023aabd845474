"""Data: one small reader per schema, all giving `Example`s; splits, mixtures and flips.

`FORMATS` is the table of schemas. A reader is a function from one `RawRow` to its examples; a new one is a file here
and a row in the table. `holdfast.data.read.read` reads a `Source`.
"""

from collections.abc import Callable, Mapping

from holdfast.data import anthropic_hh, beavertails, columns, pku_safe_rlhf, trl
from holdfast.data.columns import Source
from holdfast.data.mixing import pair_refusals
from holdfast.records import Example
from holdfast.rows import RawRow

Format = Callable[[RawRow], list[Example]]

FORMATS: Mapping[str, Format] = {
    "columns": columns.examples,
    "beavertails": beavertails.examples,
    "pku_safe_rlhf": pku_safe_rlhf.examples,
    "anthropic_hh": anthropic_hh.examples,
    "trl_preference": trl.preference,
    "trl_prompt_completion": trl.prompt_completion,
}

__all__ = ["FORMATS", "Format", "Source", "pair_refusals"]
