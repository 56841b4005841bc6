"""`workbench store ...`: look after what is kept of each model."""

from __future__ import annotations

from typing import Annotated

import typer

from workbench.printing import mistakes_in_words

app = typer.Typer(help="Look after what is kept of each model.", no_args_is_help=True)


@app.command("list")
def store_list() -> None:
    """What is kept, and how large it is."""
    from workbench.store import find_stores, home

    with mistakes_in_words():
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


@app.command("verify")
def store_verify() -> None:
    """Read every shard of every store and compare it with its recorded checksums."""
    from workbench.store import find_stores

    with mistakes_in_words():
        problems = [f"{kept.path.name}: {problem}" for kept in find_stores() for problem in kept.verify()]
        for problem in problems:
            typer.secho(problem, fg="red", err=True)
        if problems:
            raise typer.Exit(1)
        typer.echo("Every shard is as it was written.")


@app.command("repair")
def store_repair() -> None:
    """Take damaged shards out, so that their rows are computed again when they are next asked for."""
    from workbench.store import find_stores

    with mistakes_in_words():
        for kept in find_stores():
            damaged = kept.repair()
            typer.echo(
                f"{kept.path.name}: {len(damaged)} damaged shards taken out{': ' if damaged else ''}{', '.join(damaged)}"
            )


@app.command("remove")
def store_remove(
    name: Annotated[str, typer.Argument(help="Name of the store, as `workbench store list` prints it.")],
    state: Annotated[
        str | None, typer.Option(help="Only what was made while this was on, as `workbench store list` prints it.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a whole store, or what was made under one state, after showing what it is."""
    import shutil

    from workbench.errors import StoreError, nearest
    from workbench.store import find_stores

    with mistakes_in_words():
        stores = {kept.path.name: kept for kept in find_stores()}
        if name not in stores:
            raise StoreError(f"A store must be there to be removed; there is no {name!r}. {nearest(name, stores)}")
        about = stores[name].summary()
        size = f"{about['bytes'] / 2**20:.0f} MiB at {about['path']}"
        typer.echo(f"{name}: {about['rows']} prompts, {about['completions']} completions, {size}")
        what = "all of it" if state is None else f"what was made under {state!r}"
        if yes or typer.confirm(f"Remove {what}?"):
            if state is None:
                shutil.rmtree(stores[name].path)
            else:
                stores[name].remove(state)
            typer.echo(f"Removed {what}.")
