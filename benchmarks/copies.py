"""A grid that asks whether hardening survives release: another grid's hardened models, and their copies.

    holdfast run kitchen
    python benchmarks/copies.py kitchen --attacks sft grpo --out copies.yaml
    holdfast run copies.yaml --runs runs/kitchen

Of a grid file or preset it keeps `none` and the offline defenses, and the named attacks, with their settings, and adds
`copies`. Run in the folder of that grid, it uses the hardened models and the attacks on them that are there; only the
copies and the attacks on those are made.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from holdfast.config import parse_attack, parse_defense, preset
from holdfast.experiment.methods import divide
from holdfast.files.plain_yaml import yaml_value
from holdfast.network.releasing import FORMATS


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("grid", help="a grid file or preset")
    parser.add_argument("--attacks", nargs="+", default=["sft"], help="names of its attacks")
    parser.add_argument("--copies", nargs="+", choices=FORMATS, default=["bfloat16", "q8_0", "q4_0"])
    parser.add_argument("--out", type=Path, default=Path("copies.yaml"))
    options = parser.parse_args()
    place = preset(options.grid) or Path(options.grid)
    values = yaml_value(place.read_text(encoding="utf-8"), str(place))
    grid = of_copies(values, attacks=options.attacks, copies=options.copies)
    options.out.write_text(yaml.safe_dump(grid, sort_keys=False))
    print(f"wrote {options.out}: {len(grid['defenses'])} models, {len(options.copies)} copies of each")


def of_copies(values: dict[str, Any], *, attacks: Sequence[str], copies: Sequence[str]) -> dict[str, Any]:
    """The plain values of the grid of copies."""
    kept = [attack for attack in values["attacks"] if _first(parse_attack(attack, "attacks")) in attacks]
    if not kept:
        raise SystemExit(f"this grid has none of the attacks {', '.join(attacks)}")
    hardened = [defense for defense in values["defenses"] if not divide(parse_defense(defense, "defenses"))[1]]
    about = f"Copies in {', '.join(copies)} of the hardened models of {values['name']}."
    return {**values, "description": about, "defenses": hardened, "attacks": kept, "copies": list(copies)}


def _first(methods: Sequence[Any]) -> str | None:
    return methods[0].name if methods else None


if __name__ == "__main__":
    main()
