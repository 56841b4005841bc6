from browser.pages import choose, press

OPEN = "from workbench.widgets import DirectionLab\nw = DirectionLab({!r}{})\nw"
DRAWN = ".workbench-panel .js-plotly-plot .heatmaplayer image"


def click_cell(lab, figure, row, column):
    """Click a cell of the n-th figure, counted from below, where it is drawn."""
    place = lab.page.evaluate(
        """([figure, row, column]) => {
          const plot = document.querySelectorAll('.workbench-panel .js-plotly-plot')[figure], full = plot._fullLayout;
          plot.scrollIntoView({ block: 'center' });
          const box = plot.getBoundingClientRect(), trace = plot._fullData[0];
          return [box.x + full.xaxis._offset + full.xaxis.d2p(trace.x[column]),
                  box.y + full.yaxis._offset + full.yaxis.d2p(trace.y[row])];
        }""",
        [figure, row, column],
    )
    lab.page.mouse.move(place[0] - 3, place[1])
    lab.page.mouse.move(*place)
    lab.page.wait_for_timeout(150)
    lab.page.mouse.click(*place)


def test_a_click_on_a_cell_sets_the_working_direction(lab, study_folder):
    lab.open(OPEN.format(str(study_folder()), ""))
    lab.page.wait_for_selector(DRAWN)
    lab.shoot("direction_lab_opened")
    click_cell(lab, 0, 2, 1)
    lab.wait_for("[w.position, w.layer]", ["last_instruction", 1])
    click_cell(lab, 1, 0, 3)
    lab.wait_for("[w.group, w.layer]", ["yo", 3])
    lab.page.get_by_text("harmfulness/mean_difference/3/last_instruction").wait_for()
    assert lab.ask("list(w.selection['language'])") == ["yo"]
    lab.shoot("direction_lab_picked")
    lab.assert_sound()


def test_every_control_changes_the_kernel_and_the_page(lab, study_folder):
    lab.open(OPEN.format(str(study_folder()), ""))
    lab.page.wait_for_selector(DRAWN)
    choose(lab, "Position", "prompt_mean")
    lab.wait_for("w.position", "prompt_mean")
    choose(lab, "Method", "first_component")
    lab.wait_for("w.method", "first_component")
    choose(lab, "Judged on", "test")
    lab.wait_for("w.split", "test")
    lab.page.get_by_text("These are test prompts").wait_for()
    choose(lab, "Show", "low tier, mean")
    lab.wait_for("w.group", "tier:low")
    press(lab, "tiers")
    lab.wait_for("w.rows", "tiers")
    choose(lab, "Cosines of", "everything")
    lab.wait_for("w.among", "everything")
    before = lab.ask("w.layer")
    lab.page.locator(".workbench-panel .noUi-handle").first.focus()
    lab.page.keyboard.press("ArrowLeft")
    lab.wait_for("w.layer", before - 1)
    press(lab, "Best on validation")
    lab.wait_for("w.error", "")
    lab.assert_every_control_is_named()
    lab.assert_sound()


def test_it_looks_right_in_the_dark_theme(lab, study_folder):
    lab.open(OPEN.format(str(study_folder()), ", among='harmfulness and refusal', group='sw'"))
    lab.page.wait_for_selector(DRAWN)
    lab.theme("dark")
    lab.shoot("direction_lab_dark")
    lab.assert_sound()
