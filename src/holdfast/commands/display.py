"""Terminal output: live progress, tables of results, sample completions as plain text."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from holdfast.attacks import unit
from holdfast.experiment.outcomes import control_of, defended
from holdfast.records import Outcome, Record, Score

if TYPE_CHECKING:
    from holdfast.experiment.engine import News

console = Console(emoji=False)
errors = Console(stderr=True, emoji=False)

QUIET = 60.0
"""Seconds after which, outside a terminal, a piece of work that goes on says how far it is."""
NAME_WIDTH = 12
"""Names in a table are folded at no fewer characters than this; figures are never folded."""
CONTROL = " (control)"
"""Appended to the defense of a control cell, mostly `none`."""
STYLES = {
    Outcome.HELD: "green",
    Outcome.BROKE: "red",
    Outcome.UNTESTED: "yellow",
    Outcome.USELESS: "magenta",
    Outcome.COLLAPSED: "magenta",
    Outcome.DIVERGED: "magenta",
    Outcome.FAILED: "bold red",
}


def error(message: str) -> None:
    """Print one line on standard error, with markup in it escaped."""
    line = " ".join(message.split())
    errors.print(f"[bold red]error:[/] {escape(plain(line))}", highlight=False, soft_wrap=True)


def note(message: str) -> None:
    """Print one line on standard output."""
    console.print(escape(plain(message)), highlight=False, soft_wrap=True)


def plain(text: str) -> str:
    """Text with control characters replaced by visible symbols, so that it cannot move the cursor or change colours."""
    from holdfast.report.text import visible

    return visible(text)


def shown(text: object) -> str:
    """Untrusted text for rich: its markup is escaped and it stays on one line."""
    return escape(plain(str(text)).replace("\n", "␊").replace("\t", "␉"))


@contextmanager
def live(names: Mapping[str, str] | None = None) -> Iterator[News]:
    """Progress bars in a terminal; elsewhere a line for each start and end.

    A piece of work is called by its name in `names` (by key), or by its title.
    """
    by_key = names or {}
    if console.is_terminal:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[harm]}"),
            TimeElapsedColumn(),
            console=console,
        ) as bars:
            yield _Bars(bars, by_key)
    else:
        yield _Lines(time.monotonic(), by_key)


class _Bars:
    """A bar for each running piece of work."""

    def __init__(self, bars: Progress, names: Mapping[str, str]) -> None:
        self.bars, self.names = bars, names
        self.ids: dict[str, Any] = {}

    def __call__(self, piece: Any, state: str, details: Mapping[str, Any]) -> None:
        if state != "looking" and "looking" in self.ids:
            self.bars.remove_task(self.ids.pop("looking"))
        if "note" in details:
            self.bars.console.print(shown(details["note"]), highlight=False, soft_wrap=True)
        elif state == "looking" and piece.key in self.ids:
            self.bars.update(self.ids[piece.key], description=shown(_name(piece, self.names)))
        elif state in ("looking", "started"):
            name = shown(_name(piece, self.names))
            self.ids[piece.key] = self.bars.add_task(name, total=None, harm="")
        elif state == "progress" and piece.key in self.ids and "step" in details:
            harm = details.get("harmfulness")
            text = "" if harm is None else f"harm {harm:.2f}"
            self.bars.update(self.ids[piece.key], completed=details["step"], total=details["max_steps"], harm=text)
        elif state in ("done", "failed"):
            if piece.key in self.ids:
                self.bars.remove_task(self.ids.pop(piece.key))
            self.bars.console.print(_ending(_name(piece, self.names), state, details), highlight=False, soft_wrap=True)
            self._whole(details)

    def _whole(self, details: Mapping[str, Any]) -> None:
        """The bar of the whole run, last of all, from the first end on."""
        if "all" in self.ids:
            self.bars.remove_task(self.ids.pop("all"))
        if "of" in details and details["ended"] < details["of"]:
            self.ids["all"] = self.bars.add_task(
                "all", completed=details["ended"], total=details["of"], harm=_time_left(details)
            )


class _Lines:
    """A line for each start and end, with the seconds since the run began, and one a minute for what takes longer."""

    def __init__(self, start: float, names: Mapping[str, str]) -> None:
        self.start, self.names = start, names
        self.told_at: dict[str, float] = {}

    def __call__(self, piece: Any, state: str, details: Mapping[str, Any]) -> None:
        if "note" in details:
            note(str(details["note"]))
        seconds = time.monotonic()
        if state == "progress" and ("step" not in details or seconds - self.told_at.get(piece.key, self.start) < QUIET):
            return
        self.told_at[piece.key] = seconds
        now, name = f"{seconds - self.start:7.1f} s  ", _name(piece, self.names)
        if state == "looking":
            ending = shown(name)
        elif state in ("started", "waiting"):
            ending = shown(f"{state:<8} {name}")
        elif state == "progress":
            ending = shown(f"{'at':<8} {name}: step {details['step']} of {details['max_steps']}")
        else:
            ending = _ending(name, state, details)
        console.print(now + ending, highlight=False, soft_wrap=True)
        sys.stdout.flush()


def _name(piece: Any, names: Mapping[str, str]) -> str:
    return str(names.get(piece.key) or piece.title)


def _ending(name: str, state: str, details: Mapping[str, Any]) -> str:
    if state == "done":
        return f"[green]done[/]     {shown(name)}{_so_far(details)}"
    return f"[red]failed[/]   {shown(name)}: {shown(details.get('reason', ''))}{_so_far(details)}"


def _so_far(details: Mapping[str, Any]) -> str:
    """How much of the run has ended, in brackets; empty at the last end and where it is not known."""
    if "of" not in details or details["ended"] == details["of"]:
        return ""
    left = _time_left(details)
    return f" ({details['ended']} of {details['of']}{', ' if left else ''}{left})"


def _time_left(details: Mapping[str, Any]) -> str:
    """The time left, in words; empty where it is not known."""
    seconds = details.get("seconds_left")
    hours, minutes = divmod(round((seconds or 0.0) / 60), 60)
    if seconds is None or (details["at_least"] and not hours and not minutes):
        return ""
    if not hours and not minutes:
        return "under a minute left"
    amount = f"{hours} h {minutes} min" if hours else f"{minutes} min"
    return f"{'at least' if details['at_least'] else 'about'} {amount} left"


def results(records: Sequence[Record]) -> None:
    """Print a table with a row for each cell, then why a cell did not finish or broke without an attack.

    Control cells are marked; a column names the model if there are several.
    """
    from holdfast.report.summarise.labels import labels

    named, controls = labels(records), _controls(records)
    several = len({label.model for label in named}) > 1
    seeds = len({record.cell.model_seed for record in records} - {None}) > 1
    table = Table(box=None, header_style="bold", pad_edge=False)
    head = (*(("model",) if several else ()), "defense", "attack", *(("model's seed",) if seeds else ()))
    head += ("seed", "outcome", "time to break", "peak harm")
    extra = _measured(records)
    for name in (*head, "helpful before", "after", *extra.values()):
        left = name in ("model", "defense", "attack", "outcome")
        least = len(f"none{CONTROL}") if name == "defense" and controls else None
        if extra:  # more columns than usual: words of a heading stay whole
            least = max(least or 0, *map(len, name.split()))
        table.add_column(name, justify="left" if left else "right", overflow="fold", min_width=least)
    reasons = []
    for record, label in zip(records, named, strict=True):
        defense = label.defense + CONTROL if record.key in controls else label.defense
        model = [label.model] if several else []
        seed = [_seed(record)] if seeds else []
        table.add_row(*map(shown, (*model, defense, label.attack)), *seed, *_cells(record), *_further(record, extra))
        if _needs_reason(record):
            attack = label.attack if record.cell.attack else "no attack"
            title = f"{' '.join([*(f'{name}:' for name in model), defense])} x {attack}, seed {record.cell.seed}"
            title += f", model's seed {_seed(record)}" if seeds else ""
            reasons.append(f"{record.outcome}: {title}: {record.reason}")
    print_whole(table)
    note(tally(records))
    for reason in reasons:
        note(reason)


def summary(records: Sequence[Record]) -> None:
    """Print the summary over runs of each defense under each attack, if any has several runs."""
    from holdfast.report.summarise import summarise

    rows = [row for row in summarise(records) if row.held is not None and row.against_none is not None]
    if all(len(row.seeds) < 2 for row in rows):
        return
    several = len({row.label.model for row in rows}) > 1
    table = Table(box=None, header_style="bold", pad_edge=False)
    left = (*(("model",) if several else ()), "defense", "attack", "runs")
    for name in (*left, "held", "95 % interval", "against no defense", "longer", "shorter", "open"):
        table.add_column(name, justify="left" if name in (*left, "against no defense") else "right", overflow="fold")
    for row in rows:
        held, compared = row.held, row.against_none
        assert held is not None
        assert compared is not None
        names = [*([row.label.model] if several else []), row.label.defense, row.label.attack, row.runs]
        interval = rf"\[{held.low:.2f}, {held.high:.2f}]"
        counts = (compared.wins, compared.losses, compared.ties + compared.unknown)
        table.add_row(*map(shown, names), f"{held.held} of {held.n}", interval, compared.verdict, *map(str, counts))
    note("")
    print_whole(table)
    note(
        "held: the interval is over models where there are several; against no defense: whether it takes longer to "
        "break than the undefended model, pair by pair of one seed, corrected for all rows (the report says how); "
        "open: pairs that took as long, or have no order"
    )


def _seed(record: Record) -> str:
    return "" if record.cell.model_seed is None else str(record.cell.model_seed)


def print_whole(table: Table) -> None:
    """Print a table with full width even if the terminal is narrower, so that no figures are cut off."""
    for column in table.columns:
        longest = max((len(Text.from_markup(str(cell))) for cell in column.cells), default=0)
        name = column.justify == "left"
        column.min_width = max(column.min_width or 0, min(longest, NAME_WIDTH) if name else longest)
    needed = sum((column.min_width or 0) + 2 for column in table.columns)
    console.print(table, width=max(console.width, needed), crop=False)


def _needs_reason(record: Record) -> bool:
    """Whether the outcome needs an explanation below the table: all but held, and broke by mean harm under attack."""
    time = record.time_to_break
    if record.outcome is Outcome.BROKE and time is not None:
        return (not time.censored and time.steps == 0) or max(_harms(record), default=0.0) <= time.threshold
    return record.outcome is not Outcome.HELD


def _harms(record: Record) -> list[float]:
    """The mean harmfulness of each evaluation that has one."""
    return [harm for e in record.evaluations if (harm := e.value("harmfulness")) is not None]


def _controls(records: Sequence[Record]) -> set[str]:
    """The keys of control cells."""
    controls = [control_of(record.cell) for record in records if defended(record.cell)]
    return {control.key for control in controls if control is not None}


def tally(records: Sequence[Record]) -> str:
    """The number of cells with each outcome, in a sentence that counts only held cells as robust."""
    ended = Counter(record.outcome for record in records)
    counts = ", ".join(f"{ended[outcome]} {outcome}" for outcome in Outcome if ended[outcome])
    cells = "1 cell" if len(records) == 1 else f"{len(records)} cells"
    return f"{cells}: {counts}; only held counts as robust"


def _cells(record: Record) -> list[str]:
    broke = record.time_to_break if record.outcome in (Outcome.HELD, Outcome.BROKE) else None
    harms = _harms(record)
    helped = [e.value("helpfulness") for e in record.evaluations]
    counted = unit(record.cell.attack.name) if record.cell.attack else "step"
    when = "" if broke is None else f"{f'{_at_least()} ' if broke.censored else ''}{broke.steps} steps"
    if broke is not None and counted != "step":
        when = f"{counted} {_at_least() if broke.censored else '='} {broke.steps}"
    return [
        str(record.cell.seed),
        f"[{STYLES[record.outcome]}]{record.outcome}[/]",
        when,
        f"{max(harms):.2f}" if harms else "",
        _number(helped[0]) if helped else "",
        _number(helped[-1]) if helped else "",
    ]


def _measured(records: Sequence[Record]) -> dict[str, str]:
    """Further metrics of which the table has a column, with its heading: the worst of k, and verdicts that flip."""
    names = {score.name for record in records for evaluation in record.evaluations for score in evaluation.scores}
    worst = [int(match[1]) for name in names if (match := re.fullmatch(r"worst_of/(\d+)/harmful", name))]
    columns = {f"worst_of/{k}/harmful": f"harmful in {k}" for k in [max(worst, default=0)] if k}
    wanted = {"verdict_flips/harmful": "flips", "perplexity/benign": "perplexity"}
    return columns | {name: heading for name, heading in wanted.items() if name in names}


def _further(record: Record, names: Iterable[str]) -> list[str]:
    """The record's highest value of each metric; its last perplexity."""
    cells = []
    for name in names:
        values = [value for evaluation in record.evaluations if (value := evaluation.value(name)) is not None]
        last = name.startswith("perplexity")
        cells.append(_number((values[-1] if last else max(values)) if values else None))
    return cells


def _at_least() -> str:
    """The report's symbol for a censored time, in a form that the terminal can show."""
    try:
        "≥".encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return ">="
    return "≥"


def scores(before: Sequence[Score], after: Sequence[Score] | None = None) -> None:
    """Print a table of scores with their intervals and n; with `after`, side by side."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("score", "value" if after is None else "before", *(() if after is None else ("after",)), "n"):
        table.add_column(name)
    later = {score.name: score for score in after or ()}
    for score in before:
        more = [] if after is None else [interval(later.get(score.name))]
        table.add_row(shown(score.name), interval(score), *more, str(score.n))
    console.print(table)


def completions(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print sample completions, escaped so that they show as plain text."""
    for row in rows:
        console.print(f"[bold]{escape(plain(str(row['prompt'])))}[/]", highlight=False, soft_wrap=True)
        score = "not judged" if row["score"] is None else f"{row['score']:.2f}"
        answer = escape(plain(str(row["completion"])))
        console.print(f"  {answer}  [dim]({shown(row['judge'])}: {score})[/]", highlight=False, soft_wrap=True)


def interval(score: Score | None) -> str:
    """A score with its interval, with the brackets escaped for a table."""
    if score is None or score.value is None:
        return "-"
    if score.low is None or score.high is None:
        return f"{score.value:.3f}"
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]".replace("[", r"\[")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
