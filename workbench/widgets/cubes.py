"""Scores of a study as one block of numbers, so that a control answers in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from workbench.rows import KEYS


@dataclass(frozen=True, eq=False)
class ScoreCube:
    """All scores of a study.

    Attributes:
        rows: the keys, a row for each prompt, numbered from 0.
        layers: block indices.
        positions: token positions.
        directions: names without the place: `harmfulness/mean_difference`.
        values: float32 `[direction, position, layer, prompt]`, residual-stream units; NaN where there is no score.
    """

    rows: pd.DataFrame
    layers: tuple[int, ...]
    positions: tuple[str, ...]
    directions: tuple[str, ...]
    values: np.ndarray

    @classmethod
    def of(cls, scores: pd.DataFrame) -> ScoreCube:
        """From a study's `scores` table; where a score is given twice the later one counts."""
        full, names = scores["direction"].factorize()
        short = [str(name).rsplit("/", 2)[0] for name in names]
        directions = list(dict.fromkeys(short))
        direction = np.array([directions.index(name) for name in short], dtype=int)[full]
        prompt, _ = scores["prompt_id"].factorize()
        layer, layers = scores["layer"].factorize(sort=True)
        position, positions = scores["position"].factorize()
        first = np.unique(prompt, return_index=True)[1]
        rows = scores.iloc[first][[key for key in KEYS if key in scores]].reset_index(drop=True)
        values = np.full((len(directions), len(positions), len(layers), len(rows)), np.nan, dtype=np.float32)
        values[direction, position, layer, prompt] = scores["score"].to_numpy(dtype=np.float32)
        return cls(rows, tuple(map(int, layers)), tuple(map(str, positions)), tuple(directions), values)

    def at(self, layer: int, position: str, direction: str) -> np.ndarray:
        """Scores at one place, `[prompt]`."""
        return self.through(position, direction)[self.layers.index(layer)]

    def through(self, position: str, direction: str) -> np.ndarray:
        """Scores at every layer, `[layer, prompt]`."""
        return self.values[self.directions.index(direction), self.positions.index(position)]
