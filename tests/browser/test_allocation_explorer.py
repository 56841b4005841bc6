from browser.pages import choose, press
from browser.test_direction_lab import DRAWN, click_cell

OPEN = "from workbench.widgets import AllocationExplorer\nw = AllocationExplorer({!r}{})\nw"


def test_a_click_on_a_cell_chooses_language_and_type(lab, study_folder):
    lab.open(OPEN.format(str(study_folder()), ""))
    lab.page.wait_for_selector(DRAWN)
    lab.shoot("allocation_explorer_opened")
    pairs, kinds = lab.ask("['/'.join(pair) for pair in w.pairs]"), lab.ask("w.kinds")
    click_cell(lab, 0, 0, 2)
    lab.wait_for("[w.pair, w.harm_type]", [pairs[-1], kinds[2]])
    click_cell(lab, 2, 7, 5)
    lab.wait_for("[w.source, w.harm_type]", [kinds[0], kinds[5]])
    assert lab.ask("list(w.selection['allocation'])") == ["broad", "deep"]
    lab.shoot("allocation_explorer_picked")
    lab.assert_sound()


def test_every_control_changes_the_kernel_and_the_page(lab, study_folder):
    lab.open(OPEN.format(str(study_folder()), ""))
    lab.page.wait_for_selector(DRAWN)
    press(lab, "false alarms")
    lab.wait_for("w.measure", "false_alarms")
    lab.page.get_by_text("harmless prompts stopped (%)").first.wait_for()
    choose(lab, "Language", "Yoruba (yo)")
    lab.wait_for("w.pair", "yo/yo")
    choose(lab, "Deep from", "fraud")
    lab.wait_for("w.source", "fraud")
    choose(lab, "Harm type", "hate")
    lab.wait_for("w.harm_type", "hate")
    assert lab.ask("w.selection_count") == 2
    lab.page.locator(".workbench-panel").get_by_role("button", name="deep", exact=True).click()
    lab.wait_for("w.second", "deep")
    lab.assert_every_control_is_named()
    lab.assert_sound()


def test_it_looks_right_in_the_dark_theme(lab, study_folder):
    lab.open(OPEN.format(str(study_folder()), ""))
    lab.page.wait_for_selector(DRAWN)
    lab.theme("dark")
    lab.shoot("allocation_explorer_dark")
    lab.assert_sound()
