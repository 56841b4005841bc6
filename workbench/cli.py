"""The same verbs from a shell."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    import pandas as pd

    from workbench.study import Study, StudyFolder

app = typer.Typer(
    help="Where does a chat model's safety get lost in translation: in representation or in action?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
store_app = typer.Typer(help="Look after what is kept of each model.", no_args_is_help=True)
app.add_typer(store_app, name="store")
prompts_app = typer.Typer(help="Look at prompt sets and check them.", no_args_is_help=True)
app.add_typer(prompts_app, name="prompts")

MODEL = Annotated[str, typer.Option(help="Alias, hub id, local folder or GGUF file.")]


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """Users' mistakes end in one line on what to do, not in a traceback."""
    try:
        yield
    except WorkbenchError as error:
        typer.secho(f"{type(error).__name__}: {error}", fg="red", err=True)
        raise typer.Exit(1) from error


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the tables go.")] = Path("results/demo"),
    model: MODEL = "qwen2.5-coder-0.5b",
) -> None:
    """The main job in minutes: train and validation prompts and two test pairs per harm type, in every language."""
    from workbench.study import Study

    with _in_words():
        _run(Study(model=model, test_pairs_per_type=2), out)


@app.command()
def study(
    out: Annotated[Path, typer.Option(help="Where the tables go.")] = Path("results/study"),
    model: MODEL = "qwen2.5-coder-0.5b",
) -> None:
    """The default study: every prompt in every language."""
    from workbench.study import Study

    with _in_words():
        _run(Study(model=model, completed=("val", "test")), out)


@app.command()
def analyse(
    study: Annotated[Path, typer.Option(help="Folder of a study that was run.")] = Path("results/demo"),
) -> None:
    """Where selectivity goes, from a study's tables alone: ledger, selectivity budget, few-shot curves."""
    from workbench.allocations import allocation_in_words
    from workbench.study import analyse as make_tables
    from workbench.study import open_study

    with _in_words():
        done = make_tables(open_study(study), say=_say)
        _print_budget(done.budget)
        if (done.path / "allocation.parquet").exists():
            typer.echo(f"\n{allocation_in_words(done.allocation)}")
        typer.echo(f"\nThe tables are in {done.path}/.")


def _print_budget(budget: pd.DataFrame) -> None:
    """Terms of Delta by language, points."""
    from rich.console import Console
    from rich.table import Table

    from workbench.budget import TERMS
    from workbench.languages import LANGUAGES

    table = Table(title="Selectivity budget of Delta by language, points (95 % intervals); the terms add up to 100")
    for name in ("language", "tier", *TERMS, "n", "reading"):
        table.add_column(name, justify="right" if name in (*TERMS, "n") else "left")
    part = budget[(budget["side"] == "delta") & (budget["relative_to"] == "")]
    for code, rows in part.groupby("language", sort=False):
        by_term = rows.set_index("measure")
        cells = [_cell(*by_term.loc[term, ["value", "low", "high"]], scale=1) for term in TERMS]
        first = rows.iloc[0]
        table.add_row(f"{code} {LANGUAGES[code].name}", first["tier"], *cells, str(first["n"]), first["reading"])
    Console(width=max(Console().width, 140)).print(table)


@app.command()
def fetch(model: MODEL = "qwen2.5-coder-0.5b") -> None:
    """Fetch a model and unpack its weights, so that later loads take seconds."""
    from workbench.model import prepare

    with _in_words():
        typer.echo(f"{model} is at {prepare(model)}")


def _run(what: Study, out: Path) -> None:
    from workbench.study import run

    _report(run(what, out, say=_say))


def _say(line: str) -> None:
    typer.secho(line, bold=True)


def _report(done: StudyFolder) -> None:
    """The gap table, its figure, and what it says."""
    from workbench.analysis import in_words, tier_means
    from workbench.plots import overview

    gap = done.gap
    _print_gap(gap)
    figure = overview(tier_means(gap), gap)
    for suffix in ("pdf", "png"):
        figure.savefig(done.path / f"refusal_and_auroc_by_tier.{suffix}", dpi=200)
    typer.echo(f"\n{in_words(gap)}")
    typer.echo(
        f"\nTables and figure are in {done.path}/. Next: look at {done.path}/refusal_and_auroc_by_tier.png, then run "
        "`make lab` and open 01_first_look.ipynb."
    )


def _print_gap(gap: pd.DataFrame) -> None:
    from rich.console import Console
    from rich.table import Table

    from workbench.languages import LANGUAGES

    table = Table(title="Representation and action by language, on held-out prompts (95 % intervals)")
    for name, justify in (
        ("language", "left"),
        ("tier", "left"),
        ("AUROC", "right"),
        ("harmful refused %", "right"),
        ("harmless refused %", "right"),
        ("Delta, points", "right"),
        ("n", "right"),
        ("missing", "right"),
        ("degenerate", "right"),
    ):
        table.add_column(name, justify=justify)
    for row in gap.itertuples():
        table.add_row(
            f"{row.language} {LANGUAGES[row.language].name}",
            row.tier,
            _cell(row.auroc, row.auroc_low, row.auroc_high, 1, 2),
            _cell(row.harmful_refusal, row.harmful_refusal_low, row.harmful_refusal_high),
            _cell(row.harmless_refusal, row.harmless_refusal_low, row.harmless_refusal_high),
            _cell(row.delta, row.delta_low, row.delta_high),
            str(row.delta_n),
            str(row.delta_n_missing),
            str(row.n_degenerate),
        )
    Console(width=max(Console().width, 130)).print(table)


def _cell(value: float, low: float, high: float, scale: float = 100, digits: int = 0) -> str:
    if value != value:
        return "-"
    return f"{scale * value:.{digits}f} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


@store_app.command("list")
def store_list() -> None:
    """What is kept, and how large it is."""
    from workbench.store import find_stores, home

    with _in_words():
        stores = find_stores()
        for kept in stores:
            about = kept.summary()
            states = [state or "the model itself" for state in about["states"]]
            typer.echo(
                f"{kept.path.name}: {about['rows']} prompts, {about['columns']} columns of vectors in {about['shards']} shards, "
                f"{about['completions']} completions, {about['verdicts']} verdicts, {about['bytes'] / 2**20:.0f} MiB "
                f"({'; '.join(states) or 'no vectors'})"
            )
        if not stores:
            typer.echo(f"No stores under {home() / 'stores'}.")


@store_app.command("verify")
def store_verify() -> None:
    """Read every shard of every store and compare it with its recorded checksums."""
    from workbench.store import find_stores

    with _in_words():
        problems = [f"{kept.path.name}: {problem}" for kept in find_stores() for problem in kept.verify()]
        for problem in problems:
            typer.secho(problem, fg="red", err=True)
        if problems:
            raise typer.Exit(1)
        typer.echo("Every shard is as it was written.")


@store_app.command("repair")
def store_repair() -> None:
    """Take damaged shards out, so that their rows are computed again when they are next asked for."""
    from workbench.store import find_stores

    with _in_words():
        for kept in find_stores():
            damaged = kept.repair()
            typer.echo(
                f"{kept.path.name}: {len(damaged)} damaged shards taken out{': ' if damaged else ''}{', '.join(damaged)}"
            )


@store_app.command("remove")
def store_remove(
    name: Annotated[str, typer.Argument(help="Name of the store, as `workbench store list` prints it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a whole store, after showing what is in it."""
    import shutil

    from workbench.errors import StoreError, nearest
    from workbench.store import find_stores

    with _in_words():
        stores = {kept.path.name: kept for kept in find_stores()}
        if name not in stores:
            raise StoreError(f"A store must be there to be removed; there is no {name!r}. {nearest(name, stores)}")
        about = stores[name].summary()
        size = f"{about['bytes'] / 2**20:.0f} MiB at {about['path']}"
        typer.echo(f"{name}: {about['rows']} prompts, {about['completions']} completions, {size}")
        if yes or typer.confirm("Remove it?"):
            shutil.rmtree(stores[name].path)
            typer.echo("Removed.")


@prompts_app.command("check")
def prompts_check(
    name: Annotated[str, typer.Argument(help="A set as load_prompts names it.")] = "parallel-23",
    model: Annotated[
        str | None, typer.Option(help="Count lengths in this model's tokens, too.")
    ] = "qwen2.5-coder-0.5b",
) -> None:
    """Everything that can be checked without reading the language: a table with a row for each language."""
    from workbench.model import load_tokenizer
    from workbench.prompts import check_prompts, load_prompts

    with _in_words():
        tokenizer = load_tokenizer(model) if model else None
        report = check_prompts(load_prompts(name), tokenizer)
        _print_checks(report)
        if (report["count"] > 0).any():
            raise typer.Exit(1)


def _print_checks(report: pd.DataFrame) -> None:
    from rich.console import Console
    from rich.table import Table

    from workbench.languages import LANGUAGES

    table = Table(title="Checks by language")
    for name in ("language", "checks", "found", "what"):
        table.add_column(name)
    for code, part in report.groupby("language", sort=False):
        found = part[part["count"] > 0].rename(columns={"count": "n"})
        what = "\n".join(f"{row.check}: {row.n} ({row.examples})" for row in found.itertuples())
        name = f"{code} {LANGUAGES[code].name}" if code in LANGUAGES else str(code)
        table.add_row(name, str(len(part)), str(int(found["n"].sum())), what or "all clear")
    Console().print(table)


@prompts_app.command("show")
def prompts_show(
    language: Annotated[str, typer.Argument(help="Language code.")],
    harm_type: Annotated[str | None, typer.Option(help="Only this harm type.")] = None,
    name: Annotated[str, typer.Option("--set", help="A set as load_prompts names it.")] = "parallel-23",
) -> None:
    """Pairs side by side with their English."""
    from rich.console import Console
    from rich.table import Table

    from workbench.languages import LANGUAGES
    from workbench.prompts import load_prompts, pairs_table

    with _in_words():
        pairs = pairs_table(load_prompts(name, [language]), language, harm_type)
        # First-strong isolates keep right-to-left text in one piece beside the English, in terminals that know it.
        isolate = "\u2068{}\u2069" if LANGUAGES[language].rtl else "{}"
        table = Table(title=f"{LANGUAGES[language].name} ({LANGUAGES[language].autonym})", show_lines=True)
        for column in ("pair", "harmful", "harmless"):
            table.add_column(column)
        for row in pairs.itertuples():
            local = " (local)" if row.scope == "local" else ""
            table.add_row(
                f"{row.pair_id}\n{row.split}{local}",
                *(
                    f"{isolate.format(text)}\n[dim]{english}[/dim]"
                    for text, english in ((row.harmful, row.harmful_en), (row.harmless, row.harmless_en))
                ),
            )
        Console().print(table)
