"""How long the kernel takes to answer each control of each widget. `python -m tests.benchmarks.widgets [--study FOLDER]`.

A widget is opened on a study of the default size, 23 languages and 128 prompts each, and every control it has is moved
through its values: dropdowns and sliders to each of some twenty values, tables from row to row and page to page, buttons
pressed, clicks on points of its figures. Timed is the wait until the kernel is free for the next message, with whatever
is sent to the page; work in the background is waited for between two moves and not counted. The claim: median under 100
ms, 95 % under 250 ms. Exits with 1 where it does not hold. Seconds are of the clock: run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path

import ipywidgets
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import synthetic

import workbench.widgets
from workbench.languages import LANGUAGES
from workbench.study import open_study
from workbench.widgets.base import Panel
from workbench.widgets.tables import Grid

MOVES = 20
MEDIAN, MOST = 0.100, 0.250
_BACKGROUND = 300


def moves(control, rounds=MOVES):
    """Functions that move a control to one value after another."""
    if isinstance(control, ipywidgets.Button):
        return [control.click] * min(rounds, 5)
    if isinstance(control, Grid):
        places = np.linspace(0, max(control.total - 1, 0), rounds).astype(int) if control.total else []
        return [lambda at=int(at): setattr(control, "chosen", at) for at in places]
    if isinstance(control, ipywidgets.SelectMultiple):
        values = [(value,) for _, value in control._options_full] + [()]
    elif hasattr(control, "_options_full"):
        values = [value for _, value in control._options_full]
    elif isinstance(control, ipywidgets.Checkbox | ipywidgets.ToggleButton):
        values = [True, False]
    elif hasattr(control, "min") and hasattr(control, "max"):
        values = list(np.linspace(control.min, control.max, rounds))
        values = (
            [int(value) for value in values] if isinstance(control.value, int) else [float(value) for value in values]
        )
    elif isinstance(control.value, str):
        values = [control.value + "a", control.value]
    else:
        return []
    cycle = itertools.islice(itertools.cycle(values), min(rounds, 2 * len(values)))
    return [lambda value=value: setattr(control, "value", value) for value in cycle]


def clicks(figure, rounds=MOVES):
    """Functions that click points all over a figure, as a page would report them."""
    made = []
    for at, trace in enumerate(figure.data):
        n = len(trace.x) if getattr(trace, "x", None) is not None else 0
        made += [lambda at=at, k=int(k): _click(figure, at, k) for k in np.linspace(0, n - 1, min(n, 4))]
    return made[:rounds] if figure._on_point else []


def _click(figure, trace, point):
    # A redraw may have left fewer points than there were.
    if trace < len(figure.data) and point < len(figure.data[trace].x):
        figure.click(trace, point)


def timed(panel: Panel) -> dict[str, list[float]]:
    """Seconds of every move of every control."""
    found: dict[str, list[float]] = {}
    targets = {name: moves(control) for name, control in panel.controls.items()}
    targets |= {f"click on {name}": clicks(figure) for name, figure in panel.figures.items()}
    for figure in panel.figures.values():
        figure.drawn = True  # as in a page: changes are sent, not whole figures
    for name, calls in targets.items():
        for call in calls:
            start = time.perf_counter()
            call()
            found.setdefault(name, []).append(time.perf_counter() - start)
            if panel.jobs.running:
                panel.jobs.wait(_BACKGROUND)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", help="folder of a saved study; a synthetic one by default")
    parser.add_argument("--only", nargs="*", help="names of widgets")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.study:
            study = open_study(args.study)
        else:
            codes = [code for code, language in LANGUAGES.items() if language.tier != "outside"]
            study = synthetic.study(folder, codes, judges=("lexicon", "other"), n_layers=24, rank=10)
        everything: list[float] = []
        for name in args.only or workbench.widgets.__all__:
            try:
                panel = getattr(workbench.widgets, name)(study)
            except ModuleNotFoundError as error:
                print(f"{name}: {error}")
                continue
            seconds = timed(panel)
            print(f"\n{name}")
            for control, values in seconds.items():
                middle, top = 1000 * np.median(values), 1000 * max(values)
                print(f"  {control:44s} {len(values):3d} moves  median {middle:6.0f} ms  most {top:6.0f} ms")
            everything += [value for values in seconds.values() for value in values]
        median, most = np.median(everything), np.quantile(everything, 0.95)
        slow = median > MEDIAN or most > MOST
        print(
            f"\nall controls, {len(everything)} moves: median {1000 * median:.0f} ms, 95 % under {1000 * most:.0f} ms"
        )
        print("slower than claimed" if slow else "as claimed: median under 100 ms, 95 % under 250 ms")
    return int(slow)


if __name__ == "__main__":
    raise SystemExit(main())
