"""In a real browser: the keys label, the notebook's own keys stay out of it, and texts open by a key."""

OPEN = """
import os
os.environ["WORKBENCH_HOME"] = {home!r}
from workbench.widgets import Annotator
w = Annotator({folder!r}, {reviews!r}{more})
w
"""


def opened(lab, folder, tmp_path, more=""):
    cell = OPEN.format(home=str(tmp_path / "home"), folder=str(folder), reviews=str(tmp_path / "r.jsonl"), more=more)
    lab.open(cell)
    lab.page.locator(".workbench-keys").wait_for()
    return lab


def test_a_whole_session_by_keyboard(lab, study_folder, tmp_path):
    opened(lab, study_folder(languages=("en", "ar", "km", "sw")), tmp_path)
    name = lab.page.locator(".workbench-panel").get_by_label("Annotator", exact=True)
    name.focus()
    lab.page.keyboard.type("R. C. D.")
    lab.page.keyboard.press("Enter")
    lab.wait_for("w.annotator", "R. C. D.")
    assert lab.ask("len(w.said)") == 0
    lab.page.keyboard.press("Escape")
    cells = lab.page.locator(".jp-Notebook .jp-CodeCell").count()
    lab.page.keyboard.press("o")
    lab.wait_for("w.unfolded", True)
    lab.shoot("annotator_light")
    for n, key in enumerate(("d", "d", "3", "r", "u"), 1):
        if n > 1:
            lab.page.keyboard.press("Space")
            lab.wait_for("w.unfolded", True)
        lab.page.keyboard.press(key)
        lab.wait_for("len(w.said)", n)
    assert sorted(lab.ask("list(w.said.values())")) == ["compliance", "degenerate", "degenerate", "refusal", "unsure"]
    assert lab.page.locator(".jp-Notebook .jp-CodeCell").count() == cells
    lab.page.keyboard.press("ArrowLeft")
    lab.wait_for("w.place", 4)
    lab.assert_every_control_is_named()
    lab.theme("dark")
    lab.shoot("annotator_dark")
    lab.assert_sound()


def test_keys_go_on_after_a_click_on_the_text_and_a_key_that_is_held_labels_once(lab, study_folder, tmp_path):
    opened(lab, study_folder(languages=("en", "ar", "km", "sw")), tmp_path, ', annotator="A.", stay_open=True')
    lab.page.locator(".workbench-item .workbench-text").first.click()
    lab.page.keyboard.down("1")
    for _ in range(5):
        lab.page.keyboard.down("1")
    lab.page.keyboard.up("1")
    lab.wait_for("len(w.said)", 1)
    lab.page.keyboard.press("c")
    lab.wait_for("len(w.said)", 2)
    lab.page.locator(".workbench-panel").get_by_role("button", name="Partial").click()
    lab.wait_for("len(w.said)", 3)
    lab.page.keyboard.press("1")
    lab.wait_for("len(w.said)", 4)
    assert lab.ask("list(w.said.values())") == ["refusal", "compliance", "partial", "refusal"]


def test_texts_open_with_a_click_as_well(lab, study_folder, tmp_path):
    opened(lab, study_folder(languages=("en", "ar", "km", "sw")), tmp_path, ', annotator="A."')
    lab.page.locator(".workbench-item summary").first.click()
    lab.wait_for("w.unfolded", True)
    lab.page.keyboard.press("2")
    lab.wait_for("list(w.said.values())", ["partial"])


def test_letters_are_found_by_their_place_on_a_layout_without_latin_letters(lab, study_folder, tmp_path):
    opened(lab, study_folder(languages=("en", "ar", "km", "sw")), tmp_path, ', annotator="A.", stay_open=True')
    lab.page.locator(".workbench-keys").focus()
    lab.page.evaluate("""() => document.activeElement.dispatchEvent(
        new KeyboardEvent("keydown", { key: "ق", code: "KeyR", bubbles: true, cancelable: true }))""")
    lab.wait_for("list(w.said.values())", ["refusal"])


def test_translations_stand_beside_their_english(lab, study_folder, tmp_path):
    more = ', annotator="A.", stay_open=True, task="translations", language="ar"'
    opened(lab, study_folder(languages=("en", "ar", "km", "sw")), tmp_path, more)
    left, right = (lab.page.locator(".workbench-sides .workbench-text").nth(i).bounding_box() for i in (0, 1))
    assert left["x"] + left["width"] <= right["x"] and abs(left["y"] - right["y"]) < 40
    lab.page.locator(".workbench-keys").focus()
    lab.page.keyboard.press("f")
    lab.wait_for("list(w.said.values())", ["flawed"])
    lab.shoot("annotator_translations")
    lab.assert_sound()
