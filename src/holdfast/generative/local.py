"""A local instruct model as a judge: asked in batches, the likeliest word each time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from holdfast.files.fingerprints import of_model
from holdfast.files.hub import commit_of, looks_local
from holdfast.generative.replies import Failure, Reply
from holdfast.records import Example, HoldfastError, Message


@dataclass(kw_only=True)
class LocalModel:
    """A model by folder, GGUF file, `package:NAME` or Hub id."""

    path: str
    revision: str | None
    max_new_tokens: int
    batch_size: int

    @cached_property
    def model(self) -> Any:
        """The model, loaded at first use.

        Raises:
            HoldfastError: it cannot be loaded.
        """
        from holdfast.network.models import load

        return load(self.path, revision=self.revision)

    @property
    def identity(self) -> str:
        """A hash of its content; for a Hub id the commit."""
        commit = None if looks_local(self.path) else commit_of(self.path, self.revision)
        return of_model(self.path) or f"{self.path}@{commit or self.revision or 'main'}"

    def replies(self, requests: Sequence[Sequence[Message]]) -> Iterator[tuple[int, Reply | Failure]]:
        """The reply to each request, with its place, in batches of similar length."""
        from holdfast.network.generate import Sampling, complete

        rows, lengths = [Example(prompt=tuple(request)) for request in requests], []
        for place, row in enumerate(rows):
            try:
                lengths.append((len(self.model.encode_prompt(row.prompt)), place))
            except HoldfastError as error:
                yield place, Failure(str(error), final=True)
        room = (self.model.context or 10**9) - self.max_new_tokens
        for length, place in lengths:
            if length > room:
                yield place, Failure(f"{length} tokens of question and answer, and the judge reads {room}", final=True)
        fitting = sorted(pair for pair in lengths if pair[0] <= room)
        sampling = Sampling(max_new_tokens=self.max_new_tokens, temperature=0.0)
        for start in range(0, len(fitting), self.batch_size):
            chosen = fitting[start : start + self.batch_size]
            completions = complete(self.model, [rows[place] for _, place in chosen], sampling, seed=0)
            for (length, place), answer in zip(chosen, completions, strict=True):
                yield place, Reply(answer.text, answer.finished, length, answer.num_tokens)
