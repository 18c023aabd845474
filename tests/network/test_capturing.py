"""Recording a step on the device, asked of a stand-in for CUDA."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from holdfast.network.capturing import recorder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked of `torch.cuda`, in order; graphs are numbered."""
    events: list[Any] = []

    def stream(name: str) -> Any:
        return SimpleNamespace(name=name, wait_stream=lambda other: events.append(f"{name} waits for {other.name}"))

    @contextmanager
    def on(one: Any) -> Any:
        events.append(f"on {one.name}")
        yield
        events.append(f"off {one.name}")

    @contextmanager
    def graph(made: Any, *, pool: str, stream: Any, capture_error_mode: str) -> Any:
        assert capture_error_mode == "thread_local"  # other threads, as a data loader's, go on
        events.append(f"record {made.number} on {stream.name} in {pool}")
        yield
        events.append("recorded")

    def made() -> Any:
        number = sum(str(event).startswith("record ") for event in events) + 1
        return SimpleNamespace(number=number, replay=lambda: events.append(f"replay {number}"))

    main = stream("main")
    for name, stand_in in {
        "Stream": lambda device: stream("side"),
        "graph_pool_handle": lambda: "the pool",
        "current_stream": lambda device: main,
        "stream": on,
        "CUDAGraph": made,
        "graph": graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return events


def test_a_step_is_recorded_after_warm_ups_that_are_undone_and_then_runs_without_python(asked: list[Any]) -> None:
    record = recorder(torch.device("cuda"))
    again = record(lambda: asked.append("step"), lambda: asked.append("restore"))
    warm_up = ["side waits for main", "on side", *["step", "restore"] * 2, "off side", "main waits for side"]
    assert asked == [*warm_up, "record 1 on side in the pool", "step", "recorded"]
    asked.clear()
    again()
    assert asked == ["replay 1"]


def test_several_steps_share_a_stream_and_memory(asked: list[Any]) -> None:
    record = recorder(torch.device("cuda"))
    for _ in range(2):
        record(lambda: None, lambda: None)
    assert [event for event in asked if event.startswith("record ")] == [
        "record 1 on side in the pool",
        "record 2 on side in the pool",
    ]


def test_where_nothing_is_recorded_the_step_itself_is_called(asked: list[Any]) -> None:
    assert recorder(torch.device("cpu"))(asked.clear, pytest.fail) == asked.clear
