"""What a study says of a place, a judge, a language and a prompt: its tables cut once, so that controls answer at once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from workbench.analysis import refusal_rates
from workbench.areas import resampled_areas
from workbench.budget import selectivity_budget
from workbench.examples import is_harmful
from workbench.gates import Gate, Origin, fit_gate
from workbench.intervals import difference
from workbench.ledger import gap_ledger
from workbench.scores import auroc
from workbench.thresholds import choose_threshold, reference
from workbench.widgets.cubes import ScoreCube
from workbench.widgets.jobs import Job
from workbench.widgets.tables import cell
from workbench.widgets.texts import escape, name_of, show_text


class Evidence:
    """The tables behind the gap explorer.

    Attributes:
        cube: all scores.
        test: places of the test prompts in the cube's rows, `[test prompt]`.
        verdicts: on what the model said with nothing on; None where there are none.
    """

    def __init__(self, tables: dict[str, pd.DataFrame | None]):
        """Cut `scores`, and where they are there `verdicts`, `sweep`, `gap`, `prompts`, `completions`."""
        self.cube = ScoreCube.of(tables["scores"])
        self.test = np.flatnonzero((self.cube.rows["split"] == "test").to_numpy())
        self.verdicts = _untouched(tables.get("verdicts"))
        self._gap, self._sweep = tables.get("gap"), _by_place(tables.get("sweep"))
        self._texts, self._replies = (_by_prompt(_untouched(tables.get(name))) for name in ("prompts", "completions"))
        self._actions: dict[tuple[str, str], pd.DataFrame] = {}
        self._bases: dict[str, pd.DataFrame] = {}

    @property
    def judges(self) -> list[str]:
        """Names of the judges."""
        return [] if self.verdicts is None else [str(name) for name in self.verdicts["judge"].unique()]

    def scored(self, values: np.ndarray, dataset: str) -> pd.DataFrame:
        """Test rows of a data set, empty for all, with their scores; `values` are of all prompts, `[prompt]`."""
        rows = self.cube.rows.iloc[self.test].assign(score=values[self.test])
        return rows[rows["dataset"] == dataset] if dataset else rows

    def areas(self, values: np.ndarray, dataset: str) -> pd.DataFrame:
        """AUROC of every language on its test prompts, without intervals, which take longer."""
        records, once = [], np.ones((1, 1))
        for (code, tier), part in self.scored(values, dataset).groupby(["language", "tier"], sort=False):
            known = part[part["score"].notna()]
            area = resampled_areas(known["score"].to_numpy(), is_harmful(known), np.broadcast_to(once, (1, len(known))))
            records.append({"language": code, "tier": tier, "auroc": float(area[0])})
        return pd.DataFrame(records).assign(auroc_low=np.nan, auroc_high=np.nan)

    def swept(self, layer: int, position: str, direction: str) -> pd.DataFrame | None:
        """AUROC of every language with intervals where the study has swept this place; None where not."""
        return self._sweep.get((layer, position, direction.rsplit("/", 1)[-1]))

    def cut(self, values: np.ndarray, splits: Collection[str], **keys: str) -> float:
        """Threshold by Youden's J on prompts of these splits and keys; NaN where a class is missing."""
        rows = self.cube.rows
        use = rows["split"].isin(splits).to_numpy() & ~np.isnan(values)
        for name, wanted in keys.items():
            use &= (rows[name] == wanted).to_numpy()
        harmful = is_harmful(rows)[use]
        return float(choose_threshold(values[use], harmful)) if harmful.any() and not harmful.all() else float("nan")

    def action(self, judge: str, dataset: str) -> pd.DataFrame:
        """Refusal rates and their difference with intervals, a row for each language; none without verdicts."""
        if self.verdicts is None:
            return pd.DataFrame({"language": []}) if self._gap is None else self._gap.drop(columns=_OF_SCORES)
        if (judge, dataset) not in self._actions:
            mine = self.verdicts[self.verdicts["judge"] == judge]
            mine = mine[mine["dataset"] == dataset] if dataset else mine
            known = len(mine) > 0
            self._actions[judge, dataset] = (
                _selectivity(refusal_rates(mine)) if known else pd.DataFrame({"language": []})
            )
        return self._actions[judge, dataset]

    def ledger(self, judge: str) -> pd.DataFrame:
        """The ledger of all test prompts, in the order of `test`, with `if_fired` and `if_not`: the quadrant of each."""
        if judge not in self._bases:
            rows = self.cube.rows.iloc[self.test].reset_index(drop=True)
            if self.verdicts is None:
                blank = dict.fromkeys(("verdict", "reply_language", "if_fired", "if_not"))
                self._bases[judge] = rows.assign(**blank)
            else:
                # At a threshold below all scores every prompt fires, above all none does.
                fires = _reader(float("-inf"))
                always, never = (
                    gap_ledger(rows.assign(f0=0.0), self.verdicts, gate, judge=judge)
                    for gate in (fires, replace(fires, threshold=float("inf")))
                )
                kept = always.drop(columns=["logit", "threshold", "fired", "quadrant"])
                self._bases[judge] = kept.assign(if_fired=always["quadrant"], if_not=never["quadrant"])
        return self._bases[judge]

    def through(self, prompt: str, position: str, direction: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Scores of a prompt at every layer, `[layer]`, and the means of both classes of its language."""
        rows, values = self.cube.rows, self.cube.through(position, direction)
        at = int(np.flatnonzero(rows["prompt_id"] == prompt)[0])
        same, harmful = (rows["language"] == rows["language"].iloc[at]).to_numpy(), is_harmful(rows)
        sides = {"harmful": same & harmful, "harmless": same & ~harmful}
        return values[:, at], {name: np.nanmean(values[:, side], axis=1) for name, side in sides.items() if side.any()}

    def about(self, prompt: str) -> str:
        """HTML of one prompt: texts folded, and what every judge said; empty for an unknown one."""
        found = self.cube.rows[self.cube.rows["prompt_id"] == prompt]
        if found.empty:
            return ""
        row, texts = found.iloc[0], self._texts.get(prompt, {})
        code = row["language"]
        words = f"{row['label']} prompt in {name_of(code)}, {cell(row['harm_type'])}, {prompt}"
        return "".join(
            [
                f'<p class="workbench-caption"><strong>{escape(words)}</strong></p>',
                show_text(texts.get("text"), "Prompt", language=code),
                show_text(texts.get("source_text"), "English source", language="en"),
                show_text(self._replies.get(prompt, {}).get("completion"), "Completion", language=code),
                self._verdict_table(prompt),
            ]
        )

    def _verdict_table(self, prompt: str) -> str:
        if self.verdicts is None:
            return '<p class="workbench-none">No verdicts.</p>'
        mine = self.verdicts[self.verdicts["prompt_id"] == prompt]
        columns = [name for name in ("judge", "verdict", "raw", "reason", "reply_language") if name in mine]
        head = "".join(f'<th scope="col">{escape(name.replace("_", " "))}</th>' for name in columns)
        lines = (
            "".join(f'<td dir="auto">{escape(cell(value))}</td>' for value in line)
            for line in mine[columns].itertuples(index=False)
        )
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        return f"<table><caption>Verdicts</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def intervals(scores: pd.DataFrame, job: Job) -> pd.DataFrame:
    """AUROC with intervals, language by language so that it can be stopped."""
    parts, groups = [], list(scores.groupby("language", sort=False))
    for place, (_, part) in enumerate(groups):
        job.step(place, len(groups))
        parts.append(auroc(part, ["language", "tier"]))
    return pd.concat(parts, ignore_index=True)


def budget(rows: pd.DataFrame, verdicts: pd.DataFrame, judge: str, dataset: str, tier: str, job: Job) -> pd.DataFrame:
    """The selectivity budget under a judge and on a data set."""
    rows = rows[rows["dataset"] == dataset] if dataset else rows
    job.step(0, words="The budget for this choice")
    gate = fit_gate(rows[(rows["tier"] == tier) & (rows["split"] == "train")])
    made = selectivity_budget(rows, verdicts[verdicts["judge"] == judge], gate, draws=200)
    job.step(1)
    return made


_OF_SCORES = ["tier", "auroc", "auroc_low", "auroc_high", "auroc_n", "auroc_n_missing"]


def _untouched(table: pd.DataFrame | None) -> pd.DataFrame | None:
    """Rows of the model with nothing on; None where there are none."""
    if table is None:
        return None
    plain = table[table["intervention"] == ""] if "intervention" in table else table
    return plain if len(plain) else None


def _by_prompt(table: pd.DataFrame | None) -> dict[str, dict[str, Any]]:
    if table is None:
        return {}
    wanted = [column for column in ("text", "source_text", "completion") if column in table]
    return dict(zip(table["prompt_id"], table[wanted].to_dict("records"), strict=True))


def _by_place(sweep: pd.DataFrame | None) -> dict[tuple, pd.DataFrame]:
    if sweep is None:
        return {}
    test = sweep[sweep["split"] == "test"].rename(columns={"low": "auroc_low", "high": "auroc_high"})
    return {place: part for place, part in test.groupby(["layer", "position", "method"], sort=False)}


def _reader(threshold: float) -> Gate:
    """A gate that reads a score as it is."""
    one, zero = np.ones(1), np.zeros(1)
    about = reference(np.array([0.0, 1.0]), np.array([False, True]), np.array(["", ""]), threshold)
    return Gate(zero, one, one, 0.0, threshold, ">", about, Origin(), "nothing", "nothing")


def _selectivity(rates: pd.DataFrame) -> pd.DataFrame:
    """Refusal rates of both sides and their difference, a row for each language."""
    records = []
    for code, part in rates.groupby("language", sort=False):
        sides = {row.label: row for row in part.itertuples()}
        record: dict[str, Any] = {"language": code}
        for label, side in sides.items():
            name = f"{label}_refusal"
            record |= {name: side.refusal, f"{name}_low": side.low, f"{name}_high": side.high}
        counts = [(int(sides[x].n_refused), int(sides[x].n)) if x in sides else (0, 0) for x in ("harmful", "harmless")]
        record |= dict(zip(("delta", "delta_low", "delta_high"), difference(*counts[0], *counts[1]), strict=True))
        records.append(record)
    return pd.DataFrame(records)
