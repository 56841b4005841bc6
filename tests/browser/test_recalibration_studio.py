from browser.pages import choose, click_point, press

OPEN = "from workbench.widgets import RecalibrationStudio\nw = RecalibrationStudio({!r}{})\nw"


def test_clicked_and_proposed_examples_move_the_threshold(lab, study_folder):
    lab.open(OPEN.format(str(study_folder()), ""))
    lab.page.wait_for_selector(".workbench-panel .js-plotly-plot .scatterlayer .point", state="attached")
    click_point(lab, 0, 2, 3)
    lab.wait_for("len(w.examples)", 1)
    click_point(lab, 0, 3, 4)
    lab.wait_for("w.selection_count", 2)
    lab.page.get_by_text("1 harmful and 1 harmless examples chosen").wait_for()
    assert lab.ask("w._gates['recalibrated'].threshold != w._gates['source'].threshold")
    lab.shoot("recalibration_studio_two_examples")
    press(lab, "Propose examples")
    lab.wait_for("sorted(w.examples) == sorted(w._pool.propose(1))", True)
    press(lab, "Clear")
    lab.wait_for("w.examples", [])
    lab.assert_sound()


def test_every_control_changes_the_kernel_and_the_page(lab, study_folder, tmp_path):
    lab.open(OPEN.format(str(study_folder()), ""))
    choose(lab, "Language", "Arabic (ar)")
    lab.wait_for("w.language", "ar")
    lab.page.get_by_text("Arabic (ar): 0 harmful").wait_for()
    lab.page.locator(".workbench-panel .noUi-handle").first.focus()
    lab.page.keyboard.press("ArrowRight")
    lab.wait_for("w.per_class", 2)
    press(lab, "Propose examples")
    lab.wait_for("w.selection_count", 4)
    press(lab, "Clear")
    row = lab.page.locator(".workbench-rows tbody tr").nth(2)
    row.click()
    lab.page.locator(".workbench-folded summary").first.wait_for()
    press(lab, "Take or drop this row")
    lab.wait_for("w.examples", [row.locator("td").last.inner_text()])
    press(lab, "Next")
    lab.wait_for("w.pool_table.grid.first", 10)
    press(lab, "Previous")
    lab.wait_for("w.pool_table.grid.first", 0)
    choose(lab, "Gate", "mixture")
    lab.wait_for("w.variant", "mixture")
    box = lab.page.locator(".workbench-panel").get_by_label("File", exact=True)
    box.fill(str(tmp_path / "gate.safetensors"))
    box.press("Enter")
    lab.wait_for("w.path", str(tmp_path / "gate.safetensors"))
    press(lab, "Export the gate")
    lab.page.get_by_text("Written:").wait_for()
    assert (tmp_path / "gate.safetensors").exists()
    lab.assert_every_control_is_named()
    lab.assert_sound()


def test_a_mistake_is_said_in_the_widget_which_lives_on(lab, study_folder):
    lab.open(OPEN.format(str(study_folder()), ""))
    press(lab, "Export the gate")
    lab.page.get_by_role("alert").get_by_text("needs an example of each class").wait_for()
    press(lab, "Propose examples")
    lab.page.get_by_role("alert").wait_for(state="detached")
    lab.assert_sound()


def test_it_looks_right_in_the_dark_theme(lab, study_folder):
    lab.open(OPEN.format(str(study_folder()), ""))
    press(lab, "Propose examples")
    lab.wait_for("w.selection_count", 2)
    lab.theme("dark")
    lab.shoot("recalibration_studio_dark")
    lab.assert_sound()
