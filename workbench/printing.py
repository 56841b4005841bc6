"""What commands print: tables for a terminal, steps, and users' mistakes in words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import typer

from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    import pandas as pd


def say(line: str) -> None:
    """A step."""
    typer.secho(line, bold=True)


@contextlib.contextmanager
def mistakes_in_words() -> Iterator[None]:
    """Users' mistakes end in one line on what to do, not in a traceback."""
    try:
        yield
    except WorkbenchError as error:
        typer.secho(f"{type(error).__name__}: {error}", fg="red", err=True)
        raise typer.Exit(1) from error


def print_budget(budget: pd.DataFrame) -> None:
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


def print_gap(gap: pd.DataFrame) -> None:
    """The gap table."""
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


def print_tiers(table: pd.DataFrame, units: Mapping[str, str], title: str) -> None:
    """A long table of measures: a row for each name and tier, a column for each measure that `units` has."""
    from rich.console import Console
    from rich.table import Table

    rows = table[(table["language"] == "") & (table["relative_to"] == "")]
    shown = Table(title=title)
    for name in ("", "tier", *units):
        shown.add_column(name.replace("_", " "), justify="left" if name in ("", "tier") else "right")
    for (name, tier), part in rows.groupby(["name", "tier"], sort=False):
        known = part.drop_duplicates("measure").set_index("measure")
        cells = [_measure(known, measure, unit) for measure, unit in units.items()]
        shown.add_row(str(name), tier or "all", *cells)
    Console(width=max(Console().width, 150)).print(shown)


def _measure(known: pd.DataFrame, measure: str, unit: str) -> str:
    """A cell: percent where the measure is a share, as it is where it is not."""
    if measure not in known.index:
        return "-"
    value, low, high = known.loc[measure, ["value", "low", "high"]].astype(float)
    return _cell(value, low, high, *((100, 0) if "share" in unit else (1, 2)))
