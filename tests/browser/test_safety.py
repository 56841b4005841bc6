"""Hostile texts in every widget, and what is left of a widget in a saved notebook."""

import json
import time
from pathlib import Path

import pytest
import synthetic

import workbench.widgets

HERE = Path(workbench.widgets.__file__).parent
WIDGETS = [name for name, module in workbench.widgets._HOME.items() if (HERE / f"{module}.py").exists()]

# Elements and attributes that a text could bring to life; plotly's own drawings are svg, but carry no handlers.
_ALIVE = """() => {
  for (const folded of document.querySelectorAll('.workbench-panel details')) folded.open = true;
  const panel = document.querySelector('.workbench-panel');
  const tags = [...panel.querySelectorAll('script, iframe, object, embed, form, img, svg[onload], a[href^="javascript:"]')];
  const handlers = [...panel.querySelectorAll('*')].filter((e) => [...e.attributes].some((a) => /^on/i.test(a.name)));
  const hidden = [...panel.innerText]
    .filter((c) => /[\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u202a-\\u202e\\u2066-\\u2069]/.test(c));
  return [...tags, ...handlers].map((e) => e.outerHTML.slice(0, 150)).concat(hidden.map((c) => 'U+' + c.charCodeAt(0)));
}"""


@pytest.mark.parametrize("name", WIDGETS)
def test_no_text_comes_alive_in_any_widget(lab, study_folder, name):
    folder = study_folder(texts=synthetic.NASTY)
    lab.open(
        f"from workbench.widgets import {name}\nw = {name}({str(folder)!r})\nw",
        # Every table is walked, so that whatever shows a text shows one.
        "from workbench.widgets.tables import Grid\nfor c in list(w.controls.values()):\n"
        "    if isinstance(c, Grid) and c.total:\n        c.chosen = min(1, c.total - 1)",
    )
    lab.page.wait_for_selector(".workbench-panel .workbench-title")
    lab.page.wait_for_timeout(1500)
    alive = lab.page.evaluate(_ALIVE)
    assert not alive, alive
    lab.shoot(f"hostile_{name}")
    lab.assert_sound()


def test_a_saved_notebook_shows_the_last_view_without_a_kernel_and_without_widgets(lab, study_folder):
    lab.open(f"from workbench.widgets import GapExplorer\nw = GapExplorer({str(study_folder())!r})\nw")
    lab.page.wait_for_selector(".workbench-panel .js-plotly-plot .scatterlayer .point", state="attached")
    assert not lab.page.locator("[class^=workbench-still]").is_visible()
    first = _still(lab)
    lab.ask("setattr(w, 'layer', 1)")
    end = time.monotonic() + 60
    while _still(lab) == first:
        assert time.monotonic() < end, "the picture must follow the widget"
        lab.page.wait_for_timeout(500)
    saved = json.loads(lab.file.read_text("utf-8"))
    state = json.dumps(saved["metadata"]["widgets"])
    assert "AUROC at layer 1, last_prompt" in state
    # One copy of plotly for all figures: a notebook stays small enough to be kept.
    assert len(state) < 9_000_000
    del saved["metadata"]["widgets"]
    bare = lab.file.with_name("bare.ipynb")
    bare.write_text(json.dumps(saved), encoding="utf-8")
    lab.show(bare)
    picture = lab.page.locator("[class^=workbench-still] img")
    picture.wait_for()
    assert picture.bounding_box()["height"] > 100 and "the last view" in picture.get_attribute("alt")


def _still(lab):
    lab.command("docmanager:save")
    lab.page.wait_for_timeout(300)
    outputs = json.loads(lab.file.read_text("utf-8"))["cells"][0]["outputs"]
    return "".join(outputs[1]["data"]["text/html"]) if len(outputs) > 1 else ""
