"""One frozen description of a study, the order of its steps, and the tables it leaves.

The tables are Parquet files in the study's folder, beside `study.json`. Every per-prompt table carries `rows.KEYS`.

| table | a row is | columns beside the keys |
|---|---|---|
| `prompts` | a prompt | `text`, `source_text`, `review`, `n_chars`, `n_tokens` |
| `scores` | prompt x layer x position x direction | `layer`, `position`, `direction`, `score` (residual-stream units) |
| `sweep` | language x layer x position x method, on `val` and on `test` | `sweeps.SURFACE` |
| `controls` | control x language, at the working place, on `test` | `control`, `auroc`, `low`, `high`, `n`, `interval` |
| `cosines` | two directions, at a layer and position | `similarities.COLUMNS` |
| `refusals` | a language, at the working layer and `last_prompt` | counts, `defined`, `length`, `cosine` with harm, `reason` |
| `u_scores` | language x layer x position, on `val` | `u_score`, `matched`, `mismatched`, `low`, `high`, `n` |
| `features` | prompt, at the working layer and position | `f0` .. `f{rank-1}` of the harm subspace, map coordinates `pca_x`, `pca_y` |
| `maps` | prompt x layer, at the working position | `pca_x`, `pca_y`, axes aligned; principal components `p0` .. `p9` |
| `completions` | prompt x intervention | `text`, `model`, `intervention`, `completion`, `n_new_tokens`, `finish`, gate trace |
| `verdicts` | completion x judge | `model`, `intervention`, `judge`, `verdict`, `raw`, `reason`, `reply_language` |
| `gap` | a language | `analysis.GAP_COLUMNS` |
| `confounds` | a language | what length and tokenisation explain: `confounds.ConfoundPanel.languages` |
| `gap_without` | a language x what is dropped | the gap table again without flagged prompts: `dropped` |
| `ledger` | a test prompt | `score`, `logit`, `threshold`, `fired`, `verdict`, a verdict per judge, `reply_language`, `quadrant` |
| `budget` | a language x side x term | `budget.COLUMNS`, long |
| `fewshot` | a gate x language x budget | `curves.CURVE_COLUMNS`, long |
| `allocation` | a way to spend examples x language | `allocations.COLUMNS`, long |

The tables of `experiments` (`steered`, `effects`, `utility`, `strengths`, `layers`, `inversion`) are described there.
`run` leaves the tables down to `gap_without` and needs a model; `analyse` makes the others from them and needs none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from workbench.accuracies import comprehension
from workbench.activations import Activations, cache_activations
from workbench.allocations import allocation
from workbench.analysis import gap_table
from workbench.budget import selectivity_budget
from workbench.completions import complete
from workbench.confounds import confound_panel
from workbench.contrasts import first_component, mean_difference
from workbench.directions import fit_direction
from workbench.errors import FitError, WorkbenchError, nearest
from workbench.examples import feature_columns
from workbench.fewshot import RANKS, few_shot
from workbench.gates import fit_gate
from workbench.judges import judge, lexicon_judge
from workbench.ledger import gap_ledger
from workbench.maps import components, coordinates
from workbench.measures import BASELINE
from workbench.model import describe, load_model
from workbench.nulls import controls
from workbench.prompts import EMBEDDED, load_prompts
from workbench.provenance import Provenance
from workbench.refusals import fit_refusals
from workbench.scores import features, project
from workbench.similarities import compare_directions
from workbench.subspaces import fit_subspace
from workbench.sweeps import cells, surface
from workbench.translations import u_scores
from workbench.weights import MODELS

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

TABLES = (
    *("prompts", "scores", "sweep", "controls", "cosines", "refusals", "u_scores", "features", "maps"),
    *("completions", "verdicts", "gap", "confounds", "gap_without"),
    *("ledger", "budget", "fewshot", "allocation"),
    *("steered", "effects", "utility", "strengths", "layers", "inversion"),
)
METHODS = (mean_difference, first_component)
"""Ways to fit the harmfulness direction; the first is the one that gap tables, ledgers and gates use."""

_DRAWS = 400
"""Bootstrap resamples behind each interval of the sweep, which has thousands of cells."""

RANK = 10
"""Dimensions of the harm subspace that a study's features are coordinates in, where there are languages enough."""


@dataclass(frozen=True)
class Study:
    """What a study is made of; two equal descriptions give equal tables.

    Attributes:
        model: as for `load_model`.
        prompts: as for `load_prompts`.
        languages: codes; None takes all that the prompt set has.
        test_pairs_per_type: so many test pairs of each harm type; None takes all.
        layer: working layer; None takes the model's own (`MODELS`), or two thirds of the depth for others.
        position: working position.
        source_tier: tier whose languages the harmfulness direction is fitted on.
        completed: splits whose prompts are completed; refusal directions need some that are not test.
        max_new_tokens: length of completions.
    """

    model: str = "qwen2.5-coder-0.5b"
    prompts: str = EMBEDDED
    languages: tuple[str, ...] | None = None
    test_pairs_per_type: int | None = None
    layer: int | None = None
    position: str = "last_prompt"
    source_tier: str = "high"
    completed: tuple[str, ...] = ("test",)
    max_new_tokens: int = 32

    def working_layer(self, provenance: Provenance) -> int:
        """The layer that directions and gates are read at, 0-based."""
        if self.layer is not None:
            return self.layer
        known = MODELS.get(self.model)
        return known.layer if known else (2 * provenance.n_layers) // 3


@dataclass(frozen=True)
class StudyFolder:
    """A study on disk: its description, and its tables as attributes (`opened.gap`, `opened.verdicts`, ...).

    Attributes:
        path: the folder.
        study: its description.
        provenance: the model.
    """

    path: Path
    study: Study
    provenance: Provenance

    def table(self, name: str) -> pd.DataFrame:
        """One table.

        Raises:
            WorkbenchError: the study has no such table.
        """
        file = self.path / f"{name}.parquet"
        if not file.exists():
            there = sorted(f.stem for f in self.path.glob("*.parquet"))
            raise WorkbenchError(f"The study {self.path} must have a table {name!r} to read it. {nearest(name, there)}")
        return pd.read_parquet(file)

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name.startswith("_") or name not in TABLES:
            raise AttributeError(name)
        return self.table(name)


def open_study(folder: Path | str) -> StudyFolder:
    """A study that was run before, from its folder; no model is loaded.

    Raises:
        WorkbenchError: there is no study in the folder.
    """
    path = Path(folder)
    try:
        about = json.loads((path / "study.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorkbenchError(
            f"A study's folder must hold study.json; {path}: {error}. Run `make demo` or workbench.run(Study(), folder) first."
        ) from error
    # JSON has no tuples.
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in about["study"].items()}
    return StudyFolder(path, Study(**fields), Provenance.from_json(json.dumps(about["provenance"])))


def run(
    study: Study,
    folder: Path | str,
    model: TransformerBridge | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> StudyFolder:
    """Run a study and leave its tables in `folder`; what the store has already is not computed again.

    A folder that holds the same study of the same prompts, made by this very code, is opened as it is.

    Args:
        study: what to run.
        folder: where the tables go; replaced table by table, each whole or not at all.
        model: the model, if it is loaded already.
        say: called with a line on each step.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    prompts = load_prompts(study.prompts, study.languages, test_pairs_per_type=study.test_pairs_per_type)
    recipe = _recipe(study, prompts)
    if model is None and _made_by(path) == recipe:
        say(f"{path} holds this study already")
        return open_study(path)
    if model is None:
        say(f"Loading {study.model}")
        model = load_model(study.model)
    say(f"Caching activations of {len(prompts)} prompts in {prompts['language'].nunique()} languages")
    acts = cache_activations(model, prompts)
    (path / "study.json").unlink(missing_ok=True)  # until the tables are whole again
    write_table(path, "prompts", acts.rows.drop(columns="row_key"))
    asked = prompts[prompts["split"].isin(study.completed)].reset_index(drop=True)
    say(f"Completing {len(asked)} prompts ({', '.join(study.completed)})")
    completions = complete(model, asked, max_new_tokens=study.max_new_tokens)
    write_table(path, "completions", completions)
    verdicts = judge(completions, lexicon_judge())
    write_table(path, "verdicts", verdicts)
    provenance = describe(model)
    tables = represent(acts, study, verdicts, say)
    for name, table in tables.items():
        write_table(path, name, table)
    judged = working_scores(tables["scores"], study, provenance, "test"), _of_test(verdicts)
    write_table(path, "gap", gap_table(*judged))
    say("Looking for what length and tokenisation explain")
    panel = confound_panel(prompts, *judged, model)
    write_table(path, "confounds", panel.languages)
    write_table(path, "gap_without", panel.gaps)
    about = {
        "study": dataclasses.asdict(study),
        "provenance": json.loads(provenance.to_json()),
        "recipe": recipe,
    }
    (path / "study.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return open_study(path)


def _recipe(study: Study, prompts: pd.DataFrame) -> str:
    """Digest of all that a study's tables follow from but the model's weights: description, prompts, code and data."""
    digest = hashlib.sha256(repr((study, *prompts["prompt_id"])).encode())
    package = Path(__file__).parent
    for file in sorted(package.rglob("*")):
        if file.suffix in (".py", ".toml", ".csv"):
            digest.update(str(file.relative_to(package)).encode() + file.read_bytes())
    return digest.hexdigest()


def _made_by(path: Path) -> str | None:
    """The recipe of a study that was finished in this folder; `study.json` is written last."""
    try:
        return json.loads((path / "study.json").read_text(encoding="utf-8")).get("recipe")
    except (OSError, ValueError):
        return None


def represent(
    acts: Activations, study: Study, verdicts: pd.DataFrame, say: Callable[[str], None] = lambda line: None
) -> dict[str, pd.DataFrame]:
    """The tables that describe representation, by name: all that is read from vectors and not from replies."""
    say(f"Fitting the harmfulness direction on the {study.source_tier} tier at every layer and position")
    here = acts.sel(layer=study.working_layer(acts.provenance), position=study.position)
    scores = score_everywhere(acts, study.source_tier)
    say("Judging it on validation and test prompts, beside its controls")
    fit = {"tier": study.source_tier, "split": "train"}
    return {
        "scores": scores,
        "sweep": pd.concat([surface(scores, split, draws=_DRAWS) for split in ("val", "test")], ignore_index=True),
        "controls": controls(here, fit, on={"split": "test"}),
        "cosines": compare_directions(acts, study.source_tier, verdicts),
        "refusals": _refusals(acts, study, verdicts),
        "u_scores": _u_scores(acts),
        "features": subspace_features(here, study),
        "maps": _maps(acts.sel(position=study.position)),
    }


def working_scores(scores: pd.DataFrame, study: Study, provenance: Provenance, split: str) -> pd.DataFrame:
    """Scores on the default direction at the working layer and position."""
    place = (scores["layer"] == study.working_layer(provenance)) & (scores["position"] == study.position)
    default = scores["direction"].str.split("/").str[1] == mean_difference.__name__
    return scores[place & default & (scores["split"] == split)]


def _of_test(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["split"] == "test"].reset_index(drop=True)


def _refusals(acts: Activations, study: Study, verdicts: pd.DataFrame) -> pd.DataFrame:
    """Which languages have a refusal direction, and why the others have none; of prompts that are not test."""
    here = acts.sel(layer=study.working_layer(acts.provenance), position="last_prompt")
    harm = fit_direction(here.sel(tier=study.source_tier, split="train"))
    return fit_refusals(here.sel(split=["train", "val"]), verdicts[verdicts["split"] != "test"], harm).table


def _u_scores(acts: Activations) -> pd.DataFrame:
    """Where translations lie close together; nothing where there are none to compare."""
    try:
        return u_scores(acts.sel(split="val"))
    except FitError:
        return pd.DataFrame(columns=["language", "layer", "position", "u_score"])


def _maps(acts: Activations) -> pd.DataFrame:
    """Map coordinates and principal components of every layer, at the working position."""
    few = components(acts)
    return few.assign(**coordinates(acts)[["pca_x", "pca_y"]].astype("float32"))


def subspace_features(here: Activations, study: Study) -> pd.DataFrame:
    """Coordinates of every prompt in the harm subspace of the source tier, and on a map, at the working place."""
    source = here.sel(tier=study.source_tier, split="train")
    space = fit_subspace(source, rank=min(RANK, source.rows["language"].nunique()))
    table = features(here, space)
    places = coordinates(here).set_index("prompt_id")[["pca_x", "pca_y"]]
    return table.join(places, on="prompt_id")


def score_everywhere(acts: Activations, source_tier: str) -> pd.DataFrame:
    """Scores of every prompt at every layer and position, each on the directions fitted there on `source_tier`'s train rows."""
    parts = []
    for here in cells(acts):
        source = here.sel(tier=source_tier, split="train")
        methods = METHODS if source.rows["language"].nunique() > 1 else METHODS[:1]
        parts += [project(here, fit_direction(source, method)) for method in methods]
    return pd.concat(parts, ignore_index=True)


def write_table(folder: Path, name: str, table: pd.DataFrame) -> None:
    """Write a table under a temporary name and rename it, so that a reader never sees half of one."""
    partial = folder / f".{name}.parquet.tmp"
    table.to_parquet(partial, index=False)
    os.replace(partial, folder / f"{name}.parquet")


def _comprehension(opened: StudyFolder) -> dict[str, float]:
    """Accuracy on general-knowledge questions by language, where it was measured."""
    if not (opened.path / "utility.parquet").exists():
        return {}
    return comprehension(opened.utility[opened.utility["name"] == BASELINE])


def analyse(opened: StudyFolder, say: Callable[[str], None] = lambda line: None) -> StudyFolder:
    """Make the tables that need no model: the ledger, the selectivity budget, the few-shot curves.

    The gate is fitted on the source tier's training rows; a language's own threshold comes from its train and
    validation rows, never from those it is judged on.
    """
    study, rows, verdicts = opened.study, opened.features, _of_test(opened.verdicts)
    gate = fit_gate(rows[(rows["tier"] == study.source_tier) & (rows["split"] == "train")])
    working = working_scores(opened.scores, study, opened.provenance, "test")
    say("Gap ledger: what the gate and the model did with each test prompt")
    write_table(opened.path, "ledger", gap_ledger(rows, verdicts, gate, working))
    say("Selectivity budget: what stands between each language and perfect selectivity")
    write_table(opened.path, "budget", selectivity_budget(rows, verdicts, gate, comprehension=_comprehension(opened)))
    say("Few-shot curves: gates at 0 to 32 examples per class")
    rank = len(feature_columns(rows))
    curves = few_shot(rows, ranks=[r for r in RANKS if r <= rank]).curves
    write_table(opened.path, "fewshot", curves)
    # Eight examples of one type must be found outside a fold of a quarter of its pairs: the demo has too few.
    if (rows["tier"] == "low").any() and rows.groupby("harm_type")["pair_id"].nunique().min() >= 12:
        say("Allocation: the same few examples over all harm types, or all from one")
        write_table(opened.path, "allocation", allocation(rows))
    return opened
