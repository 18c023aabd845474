"""Values that the shell completes: names of methods, presets, formats and gates. Nothing heavy is imported.

A completion is a process of its own at every press of the key, so each reads a table of names or a folder's file names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path

Names = list[str]


def attacks(incomplete: str) -> Names:
    """Attacks that a command takes by name."""
    from holdfast.attacks import ATTACKS

    return _begun(ATTACKS, incomplete)


def hardenings(incomplete: str) -> Names:
    """Offline defenses."""
    from holdfast.defenses.offline import OFFLINE

    return _begun(OFFLINE, incomplete)


def defenses(incomplete: str) -> Names:
    """Offline and online defenses."""
    from holdfast.defenses.offline import OFFLINE
    from holdfast.defenses.online import ONLINE

    return _begun((*OFFLINE, *ONLINE), incomplete)


def formats(incomplete: str) -> Names:
    """Schemas of rows."""
    from holdfast.data import FORMATS

    return _begun(FORMATS, incomplete)


def grids(incomplete: str) -> Names:
    """Presets, and YAML files that begin with the typed text."""
    return [*_begun(_stems("presets"), incomplete), *_files(incomplete)]


def control_grids(incomplete: str) -> Names:
    """Presets of control tasks, and YAML files that begin with the typed text."""
    return [*_begun(_stems("control/presets"), incomplete), *_files(incomplete)]


def gates(incomplete: str) -> Names:
    """Packaged gates, and YAML files that begin with the typed text."""
    return [*_begun(_stems("gate/presets"), incomplete), *_files(incomplete)]


def lists(incomplete: str) -> Names:
    """What `holdfast list` takes."""
    known = ("attacks", "defenses", "judges", "formats", "presets", "control", "published", "exports")
    return _begun(known, incomplete)


def everything(incomplete: str) -> Names:
    """What `holdfast show` takes."""
    from holdfast.attacks.adaptive import ADAPTIVE
    from holdfast.judges import JUDGES

    presets = [name for folder in ("presets", "control/presets") for name in _stems(folder)]
    more = [name for known in (attacks, defenses, formats) for name in known(incomplete)]
    return list(dict.fromkeys([*more, *_begun((*ADAPTIVE, *JUDGES, *presets), incomplete)]))


def judged(incomplete: str) -> Names:
    """The judge in `judges.NAME=JUDGE`, after the equals sign."""
    from holdfast.judges import JUDGES

    key, mark, begun = incomplete.partition("=")
    named = mark and key.startswith("judges.") and key.count(".") == 1
    return [f"{key}={name}" for name in _begun(JUDGES, begun)] if named else []


def _begun(names: Iterable[str], incomplete: str) -> Names:
    return [name for name in names if name.startswith(incomplete)]


def _stems(folder: str) -> list[str]:
    return sorted(path.stem for path in Path(str(files("holdfast") / folder)).glob("*.yaml"))


def _files(incomplete: str) -> Names:
    """YAML files and folders that begin so; of a single folder what is in it, or else the shell ends the word there."""
    matching = _begun(_yaml_files(incomplete), incomplete)
    return (
        _begun(_yaml_files(matching[0]), matching[0]) if len(matching) == 1 and matching[0].endswith("/") else matching
    )


def _yaml_files(incomplete: str) -> Iterator[str]:
    """YAML files and folders in the folder that has been typed so far, as they have to be written."""
    head, slash, _ = incomplete.rpartition("/")
    try:
        for path in sorted(Path(head + slash or ".").iterdir()):
            if not path.name.startswith(".") and (path.is_dir() or path.suffix in (".yaml", ".yml")):
                yield f"{head}{slash}{path.name}{'/' if path.is_dir() else ''}"
    except OSError:
        return
