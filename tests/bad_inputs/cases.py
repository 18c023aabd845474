"""The catalogue: every bad input, by kind."""

from importlib import import_module

from harness import Case

MODULES = ("data_cases", "model_cases", "judge_cases", "settings_cases", "file_cases", "gate_cases")
CASES: list[Case] = [case for name in MODULES for case in import_module(name).cases()]

_ids = [case.id for case in CASES]
_twice = sorted({name for name in _ids if _ids.count(name) > 1})
if _twice:
    raise ValueError(f"two cases are called {_twice[0]}")
