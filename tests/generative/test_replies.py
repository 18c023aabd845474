"""Replies that are kept in a file of the cache."""

from __future__ import annotations

import pytest

from holdfast.generative.replies import KeptReplies, Reply
from holdfast.records import HoldfastError


def test_a_cache_that_cannot_be_read_or_written_is_named_with_the_variable_to_set(monkeypatch, tmp_path):
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("in the place of the cache's folder")
    kept = KeptReplies.of("judge")
    says = rf"{kept.path}: replies cannot be kept there: .+; set HOLDFAST_CACHE to another folder"
    with pytest.raises(HoldfastError, match=says):
        kept.refresh()
    with pytest.raises(HoldfastError, match=says):
        kept.add("key", Reply("SCORE: 0", whole=True))


def test_what_one_process_keeps_another_knows_after_its_next_look(monkeypatch, tmp_path):
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path))
    one, other = KeptReplies.of("judge"), KeptReplies.of("judge")
    one.refresh()  # no file yet
    assert one.known == {}
    one.add("a", Reply("SCORE: 1", whole=True, prompt_tokens=3))
    other.refresh()
    assert other.known == {"a": Reply("SCORE: 1", whole=True, prompt_tokens=3)}
