from browser.pages import choose, press

OPEN = "from workbench.widgets import ActivationMap\nw = ActivationMap({!r}{})\nw"
DRAWN = ".workbench-panel .js-plotly-plot .gl-canvas"


def test_a_lasso_leads_to_rows_and_a_row_to_its_folded_text(lab, study_folder):
    lab.open(OPEN.format(str(study_folder()), ", colour='label'"))
    lab.page.wait_for_selector(DRAWN, state="attached")
    lab.page.wait_for_timeout(1000)
    lab.shoot("activation_map_opened")
    box = lab.page.evaluate("""() => {
      const plot = document.querySelector('.workbench-panel .js-plotly-plot'), full = plot._fullLayout;
      plot.scrollIntoView({ block: 'center' });
      const box = plot.getBoundingClientRect();
      return [box.x + full.xaxis._offset, box.y + full.yaxis._offset, full.xaxis._length, full.yaxis._length];
    }""")
    x, y, wide, high = box
    corners = [(0.02, 0.02), (0.5, 0.02), (0.5, 0.98), (0.02, 0.98), (0.02, 0.05)]
    lab.page.mouse.move(x + corners[0][0] * wide, y + corners[0][1] * high)
    lab.page.mouse.down()
    for across, down in corners[1:]:
        lab.page.mouse.move(x + across * wide, y + down * high, steps=8)
    lab.page.mouse.up()
    lab.wait_for("w.selection_count > 0", True)
    # The left half of the map is what the lasso was drawn round.
    assert lab.ask("float(w.selection['x'].max()) <= sum(w.map.layout.xaxis.range) / 2 + 0.1")
    assert lab.ask("w.ledger.grid.total == w.selection_count")
    lab.page.locator(".workbench-rows tbody tr").first.click()
    lab.page.wait_for_selector(".workbench-folded")
    assert not lab.page.locator(".workbench-text").first.is_visible()
    lab.page.locator(".workbench-folded summary").first.click()
    assert lab.page.locator(".workbench-text").first.is_visible()
    lab.shoot("activation_map_chosen")
    press(lab, "Clear")
    lab.wait_for("w.selection_count", 0)
    lab.assert_sound()


def test_every_control_changes_the_kernel_and_the_page(lab, study_folder):
    lab.open(OPEN.format(str(study_folder()), ""))
    lab.page.wait_for_selector(DRAWN, state="attached")
    choose(lab, "Colour by", "language")
    lab.wait_for("w.colour", "language")
    choose(lab, "Choose", "Swahili (sw)")
    lab.wait_for("set(w.selection['language']) == {'sw'}", True)
    choose(lab, "Prompts", "all prompts")
    lab.wait_for("w.split", "all")
    choose(lab, "Language", "Arabic (ar)")
    lab.wait_for("w.language", "ar")
    press(lab, "the same at all layers")
    lab.wait_for("w.scale", "same")
    press(lab, "UMAP")
    lab.wait_for("w.method", "umap")
    lab.page.get_by_text("not computed yet").wait_for()
    rule = lab.page.locator(".workbench-panel").get_by_label("Choose where", exact=True)
    rule.fill("label == 'harmful'")
    rule.press("Enter")
    lab.wait_for("set(w.selection['label']) == {'harmful'} and set(w.selection['language']) == {'ar'}", True)
    rule.fill("nonsense >")
    rule.press("Enter")
    lab.page.get_by_text("A rule must be a comparison of columns").wait_for()
    lab.assert_every_control_is_named()
    lab.assert_sound()


def test_hostile_texts_stay_texts_in_the_dark_theme(lab, study_folder):
    import synthetic

    folder = study_folder(languages=("en", "ar"), texts=synthetic.NASTY, quick=True)
    lab.open(OPEN.format(str(folder), ", group='harmful'"))
    lab.page.wait_for_selector(DRAWN, state="attached")
    lab.theme("dark")
    lab.page.locator(".workbench-rows tbody tr").first.click()
    lab.page.wait_for_selector(".workbench-folded")
    for summary in lab.page.locator(".workbench-folded summary").all():
        summary.click()
    lab.shoot("activation_map_dark")
    lab.assert_sound()
