import re

from browser.pages import choose, click_point, press

OPEN = "from workbench.widgets import GapExplorer\nw = GapExplorer({!r}{})\nw"


def test_a_click_on_a_language_a_quadrant_and_a_row_leads_from_all_languages_to_one_prompt(lab, study_folder):
    lab.open(OPEN.format(str(study_folder()), ""))
    lab.page.wait_for_selector(".workbench-panel .js-plotly-plot .scatterlayer .point")
    lab.shoot("gap_explorer_opened")
    codes = lab.ask("list(w.gap.data[2].text)")
    click_point(lab, 0, 2, 0)
    lab.wait_for("w.language", codes[0])
    press(lab, re.compile("knows and answers"))
    lab.wait_for("w.quadrant", "knows and answers")
    n = lab.ask("w.selection_count")
    assert n == lab.ask("len(w.selection.query(\"quadrant == 'knows and answers' and language == @w.language\"))") > 0
    row = lab.page.locator(".workbench-rows tbody tr").first
    row.click()
    lab.wait_for("w.prompt", row.locator("td").first.inner_text())
    assert lab.page.locator(".workbench-folded").count() >= 3
    assert not lab.page.locator(".workbench-text").first.is_visible()
    lab.page.locator(".workbench-folded summary").first.click()
    assert lab.page.locator(".workbench-text").first.is_visible()
    lab.shoot("gap_explorer_prompt")
    lab.assert_sound()


def test_every_control_changes_the_kernel_and_the_page(lab, study_folder):
    lab.open(OPEN.format(str(study_folder(judges=("lexicon", "other"))), ""))
    lab.page.wait_for_selector(".workbench-panel .js-plotly-plot .barlayer .point")
    title = lab.page.locator(".js-plotly-plot .xtitle").first
    choose(lab, "Position", "prompt_mean")
    lab.wait_for("w.position", "prompt_mean")
    title.get_by_text("prompt_mean").wait_for()
    choose(lab, "Direction", "harmfulness/first_component")
    lab.wait_for("w.direction", "harmfulness/first_component")
    before = lab.ask("w.layer")
    lab.page.locator(".workbench-panel .noUi-handle").first.focus()
    lab.page.keyboard.press("ArrowLeft")
    lab.wait_for("w.layer", before - 1)
    choose(lab, "Action", "harmful refusal")
    lab.wait_for("w.action", "harmful_refusal")
    choose(lab, "Budget of", "harmless")
    lab.wait_for("w.side", "harmless")
    choose(lab, "Language", "Swahili (sw)")
    lab.wait_for("w.language", "sw")
    choose(lab, "Judge", "other")
    lab.wait_for("w.judge", "other")
    choose(lab, "Data set", "planted")
    lab.wait_for("w.dataset", "planted")
    lab.wait_for("w.jobs.running", False, 60)
    press(lab, "At its own")
    lab.wait_for("abs(w.threshold - w._own) < w._slider.step", True)
    press(lab, "At the source's")
    lab.wait_for("abs(w.threshold - w._source) < w._slider.step", True)
    press(lab, "Next")
    lab.wait_for("w.ledger.grid.first", 10)
    press(lab, "Previous")
    lab.wait_for("w.ledger.grid.first", 0)
    assert lab.ask("w.error") == ""
    lab.assert_every_control_is_named()
    lab.assert_sound()


def test_dragging_the_line_moves_the_threshold_and_the_counts(lab, study_folder):
    lab.open(OPEN.format(str(study_folder()), ", language='sw'"))
    lab.page.wait_for_selector(".workbench-panel .js-plotly-plot .shapelayer path", state="attached")
    before = lab.ask("[w.threshold, int(w.selection['fired'].sum())]")
    place = lab.page.evaluate("""() => {
      const plot = document.querySelectorAll('.workbench-panel .js-plotly-plot')[2], full = plot._fullLayout;
      plot.scrollIntoView({ block: 'center' });
      const box = plot.getBoundingClientRect(), x = full.xaxis.d2p(full.shapes[0].x0);
      return [box.x + full.xaxis._offset + x, box.y + full.yaxis._offset + full.yaxis._length / 2];
    }""")
    lab.page.mouse.move(*place)
    lab.page.mouse.down()
    lab.page.mouse.move(place[0] - 60, place[1], steps=6)
    lab.page.mouse.up()
    lab.page.wait_for_timeout(800)
    after = lab.ask("[w.threshold, int(w.selection['fired'].sum())]")
    assert after[0] < before[0] - 0.1 and after[1] > before[1]
    assert after[1] == lab.ask("int((w.selection['score'] > w.threshold).sum())")
    lab.assert_sound()


def test_the_ledger_is_walked_with_the_keyboard_alone(lab, study_folder):
    lab.open(OPEN.format(str(study_folder()), ""))
    lab.page.locator(".workbench-rows tbody tr").first.focus()
    for _ in range(11):
        lab.page.keyboard.press("ArrowDown")
        lab.page.wait_for_timeout(150)
    lab.wait_for("w.ledger.chosen", 11)
    assert lab.ask("w.ledger.grid.first") == 10
    assert lab.page.evaluate("() => document.activeElement.dataset.place") == "11"
    lab.assert_sound()


def test_it_looks_right_in_the_dark_theme(lab, study_folder):
    lab.open(OPEN.format(str(study_folder()), ", language='ar'"))
    lab.page.wait_for_selector(".workbench-panel .js-plotly-plot .scatterlayer .point")
    lab.theme("dark")
    lab.shoot("gap_explorer_dark")
    fill = lab.page.evaluate("() => getComputedStyle(document.querySelector('.js-plotly-plot text.xtitle')).fill")
    assert "255" in fill, fill
    lab.assert_sound()
