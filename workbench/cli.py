"""The same verbs from a shell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench import cli_prompts, cli_store
from workbench.printing import mistakes_in_words, print_budget, print_gap, print_tiers, say

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.study import Study, StudyFolder

app = typer.Typer(
    help="Where does a chat model's safety get lost in translation: in representation or in action?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_store.app, name="store")
app.add_typer(cli_prompts.app, name="prompts")

FOLDER = Annotated[Path, typer.Option(help="Folder of a study that was run.")]
PAIRS = Annotated[int, typer.Option(help="Pairs of each harm type; 0 takes all.")]
MODEL = Annotated[str, typer.Option(help="Alias, hub id, local folder or GGUF file.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the tables go.")] = Path("results/demo"),
    model: MODEL = "qwen2.5-coder-0.5b",
) -> None:
    """The main job in minutes: train and validation prompts and two test pairs per harm type, in every language."""
    from workbench.study import Study

    with mistakes_in_words():
        _run(Study(model=model, test_pairs_per_type=2), out)


@app.command()
def study(
    out: Annotated[Path, typer.Option(help="Where the tables go.")] = Path("results/study"),
    model: MODEL = "qwen2.5-coder-0.5b",
) -> None:
    """The default study: every prompt in every language."""
    from workbench.study import Study

    with mistakes_in_words():
        _run(Study(model=model, completed=("val", "test")), out)


@app.command()
def analyse(
    study: FOLDER = Path("results/demo"),
) -> None:
    """Where selectivity goes, from a study's tables alone: ledger, selectivity budget, few-shot curves."""
    from workbench.allocations import allocation_in_words
    from workbench.study import analyse as make_tables
    from workbench.study import open_study

    with mistakes_in_words():
        done = make_tables(open_study(study), say=say)
        print_budget(done.budget)
        if (done.path / "allocation.parquet").exists():
            typer.echo(f"\n{allocation_in_words(done.allocation)}")
        typer.echo(f"\nThe tables are in {done.path}/.")


@app.command()
def steer(
    study: FOLDER = Path("results/demo"),
    pairs: PAIRS = 2,
    strength: Annotated[float, typer.Option(help="The paper's lambda: of add, and of the conditional gate.")] = 1.0,
) -> None:
    """Complete the test prompts under each repair: nothing, add, ablate, CAST, AdaSteer, the conditional gate."""
    from workbench.effects import UNITS
    from workbench.experiments import steer_study

    with mistakes_in_words():
        done = steer_study(*_with_model(study), pairs_per_type=pairs or None, strength=strength, say=say)
        print_tiers(done.effects, UNITS, "Effect, damage and cost of each repair by tier (95 % intervals)")
        typer.echo(f"\nThe tables effects and steered are in {study}/.")


@app.command()
def utility(
    study: FOLDER = Path("results/demo"),
    questions: Annotated[str, typer.Option(help="knowledge, global-mmlu, or a file.")] = "knowledge",
    per_language: Annotated[int, typer.Option(help="Questions of each language; 0 takes all.")] = 0,
    repaired: Annotated[bool, typer.Option(help="Also with repairs on.")] = True,
) -> None:
    """Multiple-choice accuracy by language, with and without repairs; comprehension in the selectivity budget."""
    from workbench.experiments import utility_study

    with mistakes_in_words():
        opened, model = _with_model(study)
        about = {"questions": questions, "per_language": per_language or None, "repaired": repaired}
        done = utility_study(opened, model, **about, say=say)
        print_tiers(done.utility, {"accuracy": "share"}, "Accuracy by tier (95 % intervals); guessing gives 25 %")
        typer.echo(f"\nThe table utility is in {study}/. Run `workbench analyse` again for the comprehension column.")


@app.command()
def sweep(study: FOLDER = Path("results/demo"), pairs: PAIRS = 1) -> None:
    """Refusal and damage against the strength of the added direction, on validation prompts."""
    from workbench.effects import UNITS, trade_off
    from workbench.experiments import sweep_study

    with mistakes_in_words():
        done = sweep_study(*_with_model(study), pairs_per_type=pairs or None, say=say)
        units = {measure: unit for measure, unit in UNITS.items() if measure != "seconds"}
        print_tiers(done.strengths, units, "Effect and damage by strength, in shares of the gap, and tier")
        front = trade_off(done.strengths)
        best = front[front["on_front"] & (front["language"] == "")]
        for tier, part in best.groupby("tier", sort=False):
            typer.echo(f"On the Pareto front of Delta against perplexity, {tier}: {', '.join(part['name'])}.")


@app.command()
def layers(study: FOLDER = Path("results/demo"), pairs: PAIRS = 1) -> None:
    """Choose the layer by ablating the direction at each, on validation prompts."""
    from workbench.ablations import LAYER_UNITS, choose_by_ablation
    from workbench.experiments import layers_study

    with mistakes_in_words():
        done = layers_study(*_with_model(study), pairs_per_type=pairs or None, say=say)
        named = done.layers.assign(name=done.layers["layer"].astype("string").fillna("none"))
        print_tiers(named, LAYER_UNITS, "Refusal with the direction of a layer ablated, by tier")
        typer.echo(f"\nChosen: layer {choose_by_ablation(done.layers)}. The table layers is in {study}/.")


@app.command()
def invert(study: FOLDER = Path("results/demo"), pairs: PAIRS = 2) -> None:
    """Ask the model whether requests are harmful, with the harmfulness and the refusal direction added and taken away."""
    from workbench.experiments import invert_study
    from workbench.inversions import INVERSION_UNITS

    with mistakes_in_words():
        done = invert_study(*_with_model(study), pairs_per_type=pairs or None, say=say)
        print_tiers(done.inversion, INVERSION_UNITS, "What the model says of harm, by tier")


@app.command()
def fetch(model: MODEL = "qwen2.5-coder-0.5b") -> None:
    """Fetch a model and unpack its weights, so that later loads take seconds."""
    from workbench.model import prepare

    with mistakes_in_words():
        typer.echo(f"{model} is at {prepare(model)}")


def _run(what: Study, out: Path) -> None:
    from workbench.study import run

    _report(run(what, out, say=say))


def _with_model(folder: Path) -> tuple[StudyFolder, TransformerBridge]:
    """A study that was run, and its model."""
    from workbench.model import load_model
    from workbench.study import open_study

    opened = open_study(folder)
    say(f"Loading {opened.study.model}")
    return opened, load_model(opened.study.model)


def _report(done: StudyFolder) -> None:
    """The gap table, its figure, and what it says."""
    from workbench.analysis import in_words, tier_means
    from workbench.plots import overview

    gap = done.gap
    print_gap(gap)
    figure = overview(tier_means(gap), gap)
    for suffix in ("pdf", "png"):
        figure.savefig(done.path / f"refusal_and_auroc_by_tier.{suffix}", dpi=200)
    typer.echo(f"\n{in_words(gap)}")
    typer.echo(
        f"\nTables and figure are in {done.path}/. Next: look at {done.path}/refusal_and_auroc_by_tier.png, then run "
        "`make lab` and open 01_first_look.ipynb."
    )
