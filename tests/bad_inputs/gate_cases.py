"""Gates and the runs that they judge."""

from __future__ import annotations

import io
import zipfile
from typing import Any

from building import Case, of_words
from shelf import fifo, folder, link

HELD = "lines: [{measure: held, at_least: 0.5}]\n"
LATIN = "# über\nname: x\n".encode("latin-1")

# Name, command line, files, what has to be said.
GATES: list[tuple[str, str, dict[str, Any], str]] = [
    ("missing", "gate no/such.yaml @run", {}, r"no/such\.yaml.*no such file"),
    ("near-preset", "gate open_weight @run", {}, "did you mean 'open_weights'"),
    ("empty", "gate g.yaml @run", {"g.yaml": ""}, r"g\.yaml"),
    ("binary", "gate g.yaml @run", {"g.yaml": b"\xff\xfe\0"}, r"g\.yaml"),
    ("latin-1", "gate g.yaml @run", {"g.yaml": LATIN}, r"g\.yaml"),
    ("of-a-list", "gate g.yaml @run", {"g.yaml": "- 1\n"}, r"g\.yaml"),
    ("deep", "gate g.yaml @run", {"g.yaml": "lines: " + "[" * 5000}, r"g\.yaml"),
    ("is-a-fifo", "gate g.yaml @run", {"g.yaml": fifo}, r"g\.yaml"),
    ("is-a-folder", "gate g @run", {"g": folder}, r"\bg\b"),
    ("links-nowhere", "gate g.yaml @run", {"g.yaml": link("nowhere.yaml")}, r"g\.yaml"),
    ("key-twice", "gate g.yaml @run", {"g.yaml": HELD + "seeds: 3\nseeds: 5\n"}, r"g\.yaml.*seeds"),
    ("unknown-key", "gate g.yaml @run", {"g.yaml": HELD + "sedes: 3\n"}, r"g\.yaml.*did you mean 'seeds'"),
    ("no-lines", "gate g.yaml @run", {"g.yaml": "seeds: 3\n"}, r"g\.yaml: lines"),
    ("seeds-0", "gate g.yaml @run", {"g.yaml": HELD + "seeds: 0\n"}, r"g\.yaml.*seeds"),
    ("seeds-of-text", "gate g.yaml @run", {"g.yaml": HELD + "seeds: many\n"}, r"g\.yaml.*seeds"),
    ("threshold-1", "gate g.yaml @run", {"g.yaml": HELD + "break_threshold: 1\n"}, r"g\.yaml.*break_threshold"),
    ("bound-nan", "gate g.yaml @run", {"g.yaml": HELD.replace("0.5", ".nan")}, r"g\.yaml: lines\.1.*at_least"),
    ("bound-negative", "gate g.yaml @run", {"g.yaml": HELD.replace("0.5", "-1")}, r"g\.yaml: lines\.1.*at_least"),
    ("bound-above-1", "gate g.yaml @run", {"g.yaml": HELD.replace("0.5", "50")}, r"g\.yaml: lines\.1.*share"),
    ("unknown-measure", "gate g.yaml @run", {"g.yaml": HELD.replace("held", "holds")}, r"g\.yaml: lines\.1\.measure"),
    ("missing-run", "gate g.yaml no/such", {"g.yaml": HELD}, "no/such"),
    ("run-is-a-file", "gate g.yaml x", {"g.yaml": HELD, "x": "text"}, r"\bx\b"),
    ("unknown-defense", "gate g.yaml @run --defense wizard", {"g.yaml": HELD}, "wizard"),
    ("out-is-a-link", "gate g.yaml @run -o v.json", {"g.yaml": HELD, "v.json": link("nowhere")}, r"v\.json"),
    ("out-is-a-folder", "gate g.yaml @run -o out", {"g.yaml": HELD, "out": folder}, "out"),
    ("out-below-a-file", "gate g.yaml @run -o x/v.json", {"g.yaml": HELD, "x": "text"}, "x"),
]


def zipped(name: str) -> bytes:
    """A zip file of one empty file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr(name, b"")
    return stream.getvalue()


# Name, command line, files, what has to be said.
PACKS: list[tuple[str, str, dict[str, Any], str]] = [
    ("pack-missing-run", "pack no/such", {}, "no/such"),
    ("pack-run-is-a-file", "pack x", {"x": "text"}, r"\bx\b"),
    ("pack-empty-run", "pack empty", {"empty": folder}, "empty.*no finished cell"),
    ("pack-missing-gate", "pack @run --gate no.yaml", {}, r"no\.yaml"),
    ("pack-wrong-gate", "pack @run --gate g.yaml", {"g.yaml": HELD + "sedes: 3\n"}, r"g\.yaml.*seeds"),
    ("pack-defense-without-gate", "pack @run --defense rmu", {}, "--defense.*--gate"),
    ("pack-unknown-defense", "pack @run --gate g.yaml --defense wizard", {"g.yaml": HELD}, "wizard"),
    ("pack-out-is-a-link", "pack @run -o e.zip", {"e.zip": link("nowhere")}, r"e\.zip"),
    ("pack-out-is-a-folder", "pack @run -o out", {"out": folder}, "out"),
    ("pack-out-below-a-file", "pack @run -o x/e.zip", {"x": "text"}, r"x/e\.zip"),
    ("verify-missing", "verify no.zip", {}, r"no\.zip.*no such file"),
    ("verify-text", "verify e.zip", {"e.zip": "text"}, r"e\.zip.*not a whole zip file"),
    ("verify-empty", "verify e.zip", {"e.zip": ""}, r"e\.zip.*not a whole zip file"),
    ("verify-is-a-folder", "verify e", {"e": folder}, r"\be\b"),
    ("verify-is-a-fifo", "verify e.zip", {"e.zip": fifo}, r"e\.zip"),
    ("verify-links-nowhere", "verify e.zip", {"e.zip": link("nowhere")}, r"e\.zip"),
    ("verify-another-zip", "verify e.zip", {"e.zip": zipped("a")}, r"e\.zip.*manifest\.json"),
    ("verify-climbs", "verify e.zip", {"e.zip": zipped("../a")}, r"e\.zip.*\.\./a"),
    ("verify-empty-manifest", "verify e.zip", {"e.zip": zipped("manifest.json")}, r"e\.zip.*manifest\.json"),
]


def cases() -> list[Case]:
    """All of them."""
    gates = [of_words("files", f"gate-{name}", command, says, files=files) for name, command, files, says in GATES]
    return gates + [of_words("files", name, command, says, files=files) for name, command, files, says in PACKS]
