"""The keys of a panel alone in a page, with a model that only notes what it is sent."""

import pytest

from workbench.widgets.keys import _STATIC

PAGE = """
<div class="workbench-panel">
  <div id="text">a text <details data-key="o"><summary>Show</summary>folded</details></div>
  <input id="field"><input id="tick" type="checkbox"><select id="list"><option>a<option>b</select><button id="button">B</button>
  <div id="here"></div>
</div><input id="outside">
"""
START = """
async ([source, caps]) => {
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const { render } = (await import(url)).default;
  window.sent = [];
  const state = { caps, label: "Keys", item: "one" };
  const model = { get: (name) => state[name], on() {}, off() {}, send: (said) => window.sent.push([said.key, said.item]) };
  window.state = state;
  window.remove = render({ model, el: document.getElementById("here") });
  await new Promise(requestAnimationFrame);
}
"""
CAPS = [["1 r", "refusal"], ["o space", "open"], ["b ArrowLeft", "back"]]


@pytest.fixture
def page(chromium):
    page = chromium.new_page()
    page.set_content(PAGE)
    page.evaluate(START, [(_STATIC / "keys.js").read_text(encoding="utf-8"), CAPS])
    yield page
    page.close()


def sent(page):
    return page.evaluate("() => window.sent.splice(0)")


def test_keys_are_sent_with_what_was_on_the_screen(page):
    page.focus(".workbench-keys")
    for key in ("1", "r", "R", " ", "ArrowLeft", "x", "7"):
        page.keyboard.press(key)
    assert sent(page) == [[key, "one"] for key in ("1", "r", "r", "space", "ArrowLeft")]
    page.evaluate("() => { window.state.item = 'two'; }")
    page.keyboard.press("1")
    assert sent(page) == [["1", "two"]]


def test_fields_lists_and_buttons_keep_their_own_keys(page):
    page.focus("#field")
    page.keyboard.type("1 rob")
    assert page.input_value("#field") == "1 rob" and sent(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    assert sent(page) == [["1", "one"]]
    page.focus("#list")
    page.keyboard.press("b")
    page.focus("#button")
    page.keyboard.press("Space")
    page.focus("#tick")
    page.keyboard.press("Space")
    assert page.is_checked("#tick") and sent(page) == []
    page.keyboard.press("1")
    assert sent(page) == [["1", "one"]]
    page.focus("#outside")
    page.keyboard.press("1")
    assert sent(page) == []


def test_a_click_on_the_text_is_enough_to_listen_and_a_held_key_is_sent_once(page):
    page.click("#text", position={"x": 5, "y": 5})
    page.keyboard.down("1")
    page.keyboard.down("1")
    page.keyboard.down("1")
    page.keyboard.up("1")
    assert sent(page) == [["1", "one"]]


def test_shortcuts_of_the_notebook_and_the_browser_are_left_alone(page):
    page.focus(".workbench-keys")
    page.keyboard.press("Control+b")
    page.keyboard.press("Alt+1")
    assert sent(page) == []
    assert page.evaluate("() => document.querySelector('.workbench-panel').hasAttribute('data-lm-suppress-shortcuts')")


@pytest.mark.parametrize(
    ("key", "code"), [("ق", "KeyR"), ("к", "KeyR"), ("&", "Digit1"), ("١", "Digit1"), ("1", "Numpad1")]
)
def test_letters_and_digits_are_found_by_their_place_on_other_layouts(page, key, code):
    page.focus(".workbench-keys")
    page.evaluate(
        """([key, code]) => document.activeElement.dispatchEvent(
            new KeyboardEvent("keydown", { key, code, bubbles: true, cancelable: true }))""",
        [key, code],
    )
    assert sent(page) == [["r" if code == "KeyR" else "1", "one"]]


def test_a_folded_text_opens_through_the_kernel(page):
    page.click("summary")
    assert sent(page) == [["o", "one"]] and not page.evaluate("() => document.querySelector('details').open")


def test_removed_keys_are_silent(page):
    page.evaluate("() => window.remove()")
    page.focus(".workbench-keys")
    page.keyboard.press("1")
    assert sent(page) == []


def test_the_bar_names_every_key(page):
    words = page.inner_text(".workbench-keys")
    assert words.split() == ["1", "r", "refusal", "o", "Space", "open", "b", "←", "back"]
