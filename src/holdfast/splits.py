"""The examples of a run, dealt out to those who may use them."""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast.records import Example, HoldfastError


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The examples a run may use; prompts of the four splits are disjoint.

    `harmful` examples have a `response` (what the attacker wants) and a `refusal`; `benign` ones a `response`.
    `tasks` are further harmless ones by name, each dealt out in the same way.
    """

    harmful: dict[str, list[Example]]
    benign: dict[str, list[Example]]
    tasks: dict[str, dict[str, list[Example]]] = field(default_factory=dict)

    def training_rows(self, task: str | None) -> list[Example]:
        """What somebody trains on: harmful rows of the attack split, or those of a harmless `task` (`benign`, too).

        Raises:
            HoldfastError: there is no such task.
        """
        if task is None:
            return self.harmful["attack"]
        known = {**self.tasks, "benign": self.benign}
        if task not in known:
            raise HoldfastError(f"there is no task {task!r} in this data; known: {', '.join(sorted(known))}")
        return known[task]["attack"]
