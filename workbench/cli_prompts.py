"""`workbench prompts ...`: look at prompt sets and check them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from workbench.printing import mistakes_in_words

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(help="Look at prompt sets and check them.", no_args_is_help=True)


@app.command("check")
def prompts_check(
    name: Annotated[str, typer.Argument(help="A set as load_prompts names it.")] = "parallel-23",
    model: Annotated[
        str | None, typer.Option(help="Count lengths in this model's tokens, too.")
    ] = "qwen2.5-coder-0.5b",
) -> None:
    """Everything that can be checked without reading the language: a table with a row for each language."""
    from workbench.model import load_tokenizer
    from workbench.prompts import check_prompts, load_prompts

    with mistakes_in_words():
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


@app.command("show")
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

    with mistakes_in_words():
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
