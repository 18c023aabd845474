"""Which gate file was used, by its hash, and since when it has had its content."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from holdfast import __version__
from holdfast.files import sha256

_GIT = ("git", "-c", "core.fsmonitor=false", "-c", "log.showSignature=false")


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """A gate file: its hash and its dates.

    `modified` is the file's own time. `committed` is the time of the commit that gave it its present content and
    `first_committed` of the one that added it, `None` where git does not know this content. `packaged` is Holdfast's
    version for a gate that comes with it, whose file's time says nothing.
    """

    path: str
    sha256: str
    modified: datetime
    committed: datetime | None = None
    first_committed: datetime | None = None
    packaged: str | None = None

    @property
    def since(self) -> datetime | None:
        """The earliest known time of the file's present content; `None` for a packaged gate."""
        return None if self.packaged else self.committed or self.modified

    def younger_than(self, runs: datetime | None) -> str | None:
        """A warning if the file is younger than the oldest record of the runs."""
        if self.since is None or runs is None or self.since <= runs:
            return None
        return (
            f"the gate file is younger ({day(self.since)}) than the runs (oldest record {day(runs)}): that its "
            "thresholds were fixed before the results were known is not shown"
        )


def origin_of(path: Path, *, packaged: bool = False) -> Origin:
    """The origin of a gate file."""
    modified = datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
    commits = [] if packaged else _commits(path)
    return Origin(
        path=path.name if packaged else str(path),
        sha256=sha256(path),
        modified=modified,
        committed=commits[0] if commits else None,
        first_committed=commits[-1] if commits else None,
        packaged=__version__ if packaged else None,
    )


def day(time: datetime) -> str:
    """A time to the minute, in UTC."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _commits(path: Path) -> list[datetime]:
    """The times of the commits that changed a file, the last one first; none if its content is not that of the last."""
    known = _git(path, "rev-parse", f"HEAD:./{path.name}")
    if known is None or known != _git(path, "hash-object", "--no-filters", "--", path.name):
        return []
    times = _git(path, "log", "--follow", "--format=%cI", "--", path.name)
    return [datetime.fromisoformat(line).astimezone(UTC) for line in (times or "").split()]


def _git(path: Path, *words: str) -> str | None:
    """The output of a git command in a file's folder; `None` if it fails or there is no git."""
    try:
        done = subprocess.run(
            [*_GIT, "-C", str(path.resolve().parent), *words], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
