"""Escape untrusted text: on a page, in a script element, in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_KEPT = frozenset("\n\t\u200c\u200d")  # layout, and the joiners that many scripts and emoji need
_FORMULA = tuple("=+-@＝＋－＠")


def visible(text: str) -> str:
    """The same text with every control, format and unpaired surrogate character replaced by a visible symbol.

    C0 controls become their pictures (escape: `␛`, DEL: `␡`), all others `⟨U+202E⟩`. Newline and tab stay.
    """
    return text if text.isprintable() else "".join(_picture(char) for char in text)


def _picture(char: str) -> str:
    if char.isprintable() or char in _KEPT:
        return char
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    # `isprintable` also rejects harmless wide spaces; escape only what hides or reorders text
    return f"⟨U+{code:04X}⟩" if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} else char


def clean(value: Any) -> Any:
    """A JSON value with `visible` applied to all its strings, keys included."""
    if isinstance(value, str):
        return visible(value)
    if value is None or isinstance(value, (int, float)):  # most of a report's values: a check of protocols takes longer
        return value
    if isinstance(value, Mapping):
        return {visible(str(key)): clean(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [clean(item) for item in value]
    return value


def script_json(value: Any) -> str:
    """JSON that can be placed inside `<script>`: no `<` in it, hence neither `</script>` nor `<!--`.

    Raises ValueError for NaN and infinities, which are not JSON.
    """
    return json.dumps(clean(value), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as CSV, header first; `None` and NaN are empty. Text that a spreadsheet would execute gets a leading `'`."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([_csv_cell(name) for name in columns])
    writer.writerows([_csv_cell(row[name]) for name in columns] for row in rows)
    return file.getvalue()


def _csv_cell(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if not isinstance(value, str):
        return value
    text = visible(value)
    runs = text.lstrip().startswith(_FORMULA) or text.startswith(("\t", "\n"))
    return f"'{text}" if runs else text
