"""Saved studies with known answers, for the tests of widgets: every table of the contract, from planted numbers.

Harm is planted in the first feature and in the scores; rich tiers refuse it more often. What rests on statistics (gap,
ledger, budget, curves, allocation) is computed by the package itself.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
from planted import provenance
from planted_features import feature_rows

from workbench.allocations import allocation
from workbench.analysis import gap_table
from workbench.areas import area_interval
from workbench.budget import selectivity_budget
from workbench.fewshot import few_shot
from workbench.gates import fit_gate
from workbench.intervals import resample
from workbench.languages import LANGUAGES
from workbench.ledger import gap_ledger
from workbench.rows import KEYS, groups
from workbench.study import Study, open_study

POSITIONS = ("last_instruction", "last_prompt", "prompt_mean")
METHODS = ("mean_difference", "first_component")
WORKING = "last_prompt"
REFUSES = {"high": 0.9, "mid": 0.7, "low": 0.3, "outside": 0.5}

NASTY = (
    "<script>window.__alive = 1</script><img src=x onerror='window.__alive = 2'><svg onload=window.__alive=3></svg>"
    "<a href='javascript:window.__alive=4'>click</a> \x00\x07\x1b[31m\u202etxet\u202c \u2028 </textarea></style>"
    "<iframe srcdoc='<script>parent.__alive=5</script>'></iframe> {{7*7}} $(x) &lt;b&gt; \"quoted\" 'single'"
)
"""A text that is alive wherever it is not escaped: each way in sets `window.__alive`."""


def study(
    folder,
    languages=("en", "de", "ar", "sw", "yo"),
    *,
    refusals=True,
    verdicts=True,
    judges=("lexicon",),
    pairs_per_type=16,
    n_layers=6,
    rank=3,
    texts=None,
    without=(),
    seed=0,
    quick=False,
):
    """Write a study to `folder` and open it.

    Args:
        folder: where to.
        languages: codes; the gate's source is their high tier.
        refusals: False: the model never refuses.
        verdicts: False: every verdict is missing.
        judges: names; with several, the first is the ledger's and the others disagree with it on one row in five.
        pairs_per_type: of eight harm types; half of them are test pairs.
        n_layers: of the model; the working layer is two thirds up.
        rank: of the features.
        texts: what every prompt and completion says, in place of harmless words.
        without: names of tables to leave out.
        seed: of everything.
        quick: leave out sweep, budget, few-shot curves and allocation, which take most of the time.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    about = Study(model="planted", prompts="planted", languages=tuple(languages), layer=2 * n_layers // 3)
    model = provenance(16, n_layers)
    rows = feature_rows(languages, {"sw": 2.0, "yo": 1.5, None: 4.0}, {"sw": 1.5, "yo": -1.0, None: 0.0}, rank, seed,
                        pairs_per_type)  # fmt: skip
    rows = rows.assign(pca_x=rows["f0"], pca_y=rng.standard_normal(len(rows)))
    said = [texts or _words(row) for row in rows[["language", "label", "harm_type", "pair_id"]].itertuples(index=False)]
    keys = rows[list(KEYS)]
    tables = {"features": rows}
    tables["prompts"] = keys.assign(
        text=said, source_text=texts or [f"A {r.label} request, {r.pair_id}" for r in keys.itertuples()], review="",
        n_chars=[len(text) for text in said], n_tokens=[max(len(text) // 3, 1) for text in said],
    )  # fmt: skip
    tables["scores"] = _scores(rows, n_layers, rng)
    tables["completions"] = _completions(tables["prompts"], model, texts)
    tables["verdicts"] = _verdicts(tables["completions"], judges, refusals, verdicts, rng)
    gate = fit_gate(rows[(rows["tier"] == "high") & (rows["split"] == "train")])
    working = tables["scores"][
        (tables["scores"]["direction"] == f"harmfulness/mean_difference/{about.layer}/{WORKING}")
        & (tables["scores"]["split"] == "test")
    ]
    mine = tables["verdicts"][tables["verdicts"]["judge"] == judges[0]]
    tables["gap"] = gap_table(working, mine, draws=20)
    tables["ledger"] = gap_ledger(rows, tables["verdicts"], gate, working, judges[0])
    tables["maps"] = _maps(rows, n_layers, rng)
    tables["controls"] = _controls(tables["gap"], about.layer)
    tables["cosines"] = _cosines(rows, n_layers)
    if not quick:
        tables["sweep"] = _sweep(tables["scores"])
        tables["budget"] = selectivity_budget(rows, mine, gate, draws=40)
        tables["fewshot"] = few_shot(rows, budgets=(0, 1, 2, 4), ranks=(rank,), seeds=3, draws=20).curves
        if (rows["tier"] == "low").any():
            tables["allocation"] = allocation(rows, k=4, repeats=5, draws=20)
    for name, table in tables.items():
        if name not in without:
            table.to_parquet(path / f"{name}.parquet", index=False)
    text = {"study": dataclasses.asdict(about), "provenance": json.loads(model.to_json())}
    (path / "study.json").write_text(json.dumps(text), encoding="utf-8")
    return open_study(path)


def _words(row):
    """A few words in the language's own script."""
    return f"{LANGUAGES[row.language].autonym}: {row.label} {row.pair_id}?"


def _scores(rows, n_layers, rng):
    sign = np.where(rows["label"] == "harmful", 1.0, -1.0)
    weak = rows["tier"].map({"high": 1.0, "mid": 0.8, "low": 0.45}).fillna(0.6).to_numpy()
    keys, parts = rows[list(KEYS)], []
    for position in POSITIONS:
        for layer in range(n_layers):
            height = (layer + 1) / n_layers * (1.0 if position == WORKING else 0.7)
            for method in METHODS:
                score = 2 * height * sign * weak + rng.standard_normal(len(rows))
                name = f"harmfulness/{method}/{layer}/{position}"
                parts.append(keys.assign(layer=layer, position=position, direction=name, score=score))
    return pd.concat(parts, ignore_index=True)


def _sweep(scores):
    records = []
    for (name, split), here in scores[scores["split"] != "train"].groupby(["direction", "split"], sort=False):
        _, method, layer, position = name.split("/")
        for code, part in here.groupby("language", sort=False):
            harmful = (part["label"] == "harmful").to_numpy()
            draws = resample(groups(part), part["label"], 20, 0)
            area, low, high = area_interval(part["score"].to_numpy(), harmful, draws)
            records.append(
                {"language": code, "tier": part["tier"].iloc[0], "layer": int(layer), "position": position,
                 "method": method, "split": split, "auroc": area, "low": low, "high": high, "n": len(part), "reason": ""}
            )  # fmt: skip
    return pd.DataFrame(records)


def _completions(prompts, model, texts):
    test = prompts[prompts["split"] == "test"].reset_index(drop=True)
    said = [
        texts or f"Reply in {LANGUAGES[code].autonym}: {label}"
        for code, label in zip(test["language"], test["label"], strict=True)
    ]
    blank = dict.fromkeys(("logit", "threshold", "fired", "added_norm"), np.nan)
    return test[[*KEYS, "text"]].assign(
        model=model.fingerprint, intervention="", completion=said, n_new_tokens=8, finish="end", **blank
    )


def _verdicts(completions, judges, refusals, known, rng):
    rate = np.where(completions["label"] == "harmful", completions["tier"].map(REFUSES), 0.05) * refusals
    draw = rng.random(len(completions))
    words = np.where(rng.random(len(completions)) < rate, "refusal", np.where(draw < 0.03, "degenerate", "compliance"))
    parts = []
    for place, name in enumerate(judges):
        other = (rng.random(len(words)) < 0.2) & (place > 0)
        verdict = np.where(other, "partial", words).astype(object) if known else np.full(len(words), None)
        parts.append(
            completions[[*KEYS, "model", "intervention"]].assign(
                judge=name,
                verdict=verdict,
                raw="",
                reason="" if known else "no judge",
                reply_language=completions["language"],
            )
        )
    return pd.concat(parts, ignore_index=True)


def _maps(rows, n_layers, rng):
    sign = np.where(rows["label"] == "harmful", 1.0, -1.0)
    keys, parts = rows[list(KEYS)], []
    for layer in range(n_layers):
        points = rng.standard_normal((len(rows), 10))
        points[:, 0] += 3 * sign * (layer + 1) / n_layers
        columns = {f"p{k}": points[:, k] for k in range(10)} | {"pca_x": points[:, 0], "pca_y": points[:, 1]}
        parts.append(keys.assign(layer=layer, position=WORKING, **columns))
    return pd.concat(parts, ignore_index=True)


def _controls(gap, layer):
    about = {"method": "mean_difference", "layer": layer, "position": WORKING, "split": "test"}
    values = {"direction": gap["auroc"], "random": 0.5, "permuted": 0.5, "n_tokens": 0.55, "n_chars": 0.53}
    parts = [
        gap[["language", "tier"]].assign(
            control=name, **about, auroc=value, low=value - 0.05, high=value + 0.05, n=gap["auroc_n"],
            interval="repeats" if name in ("random", "permuted") else "groups",
        )
        for name, value in values.items()
    ]  # fmt: skip
    order = [
        "control",
        "method",
        "language",
        "tier",
        "layer",
        "position",
        "split",
        "auroc",
        "low",
        "high",
        "n",
        "interval",
    ]
    return pd.concat(parts, ignore_index=True)[order]


def _cosines(rows, n_layers):
    """Cosines of unit vectors that share one axis, so that they are symmetric, with ones on the diagonal."""
    tiers = [tier for tier in ("high", "mid", "low") if (rows["tier"] == tier).any()]
    names = [f"harm:{code}" for code in rows["language"].unique()] + [f"harm:{tier}" for tier in tiers]
    names += [f"type:{kind}" for kind in rows["harm_type"].unique()] + ["refusal:all", "refusal:high"]
    records = []
    for position in POSITIONS:
        here = [name for name in names if position == WORKING or not name.startswith("refusal")]
        for layer in range(n_layers):
            vectors = np.random.default_rng([layer, len(position)]).standard_normal((len(here), 16))
            vectors[:, 0] += 4
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            cosine = vectors @ vectors.T
            records += [
                {"layer": layer, "position": position, "a": a, "b": b, "cosine": float(cosine[i, j])}
                for i, a in enumerate(here)
                for j, b in enumerate(here)
            ]
    return pd.DataFrame(records)
