"""Widgets: one app per file, each opened on a saved study; names are resolved on first use.

A widget draws a study's tables and calls the functions of the package; it computes nothing of its own.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "GapExplorer": "gap_explorer",
    "DirectionLab": "direction_lab",
    "RecalibrationStudio": "recalibration_studio",
    "SteeringBench": "steering_bench",
    "ActivationMap": "activation_map",
    "Annotator": "annotator",
    "AllocationExplorer": "allocation_explorer",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'workbench.widgets' has no attribute {name!r}")
    return getattr(importlib.import_module(f"workbench.widgets.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
