"""In a real browser: a reply grows while one watches, can be stopped, and is coloured text in every script."""

import pytest

from browser.pages import press

BENCH = """
import threading, time
from workbench.benches import Reply, Token
from workbench.widgets import SteeringBench

class Talker:
    interventions = {{"add harm": None, "ablate harm": None}}
    typical = (-1.0, 2.0)
    def __call__(self, text, name, strength):
        tokens = [Token("<|user|>", "template", 0.0), Token(text, "prompt", 0.6), Token("<|assistant|>", "template", 1.4)]
        pieces = {pieces!r}
        for place, piece in enumerate(pieces):
            time.sleep({wait})
            push = {{"": 0.0, "add harm": strength, "ablate harm": -1.0}}[name]
            tokens.append(Token(piece, "reply", push + (place % 5) / 2 - 0.5))
            done = place == len(pieces) - 1
            trace = {{"logit": 1.32, "threshold": 0.4, "fired": True, "added_norm": 2.0}} if done and name else {{}}
            yield Reply("".join(pieces[: place + 1]), tuple(tokens), "end" if done else "", trace)

w = SteeringBench({folder!r}, Talker(){more})
w
"""
ARABIC = ["لا", " أست", "طيع", " المسا", "عدة", " في", " هذا", "."]
KHMER = ["ខ្", "ញុំ", "មិន", "អាច", "ជួយ", "រឿង", "នេះ", "បា", "នទេ"]


def code(folder, pieces, wait=0.02, more=""):
    return BENCH.format(folder=str(folder), pieces=pieces, wait=wait, more=more)


def test_default_and_steered_grow_side_by_side_in_both_themes(lab, study_folder):
    folder = study_folder(languages=("en", "ar", "km", "sw"))
    lab.open(code(folder, ARABIC, more=', language="ar", doses={"add harm": 1.5, "ablate harm": 1.0}'))
    lab.page.locator(".workbench-rows tbody tr").nth(1).click()
    lab.page.wait_for_function("() => document.querySelector('.workbench-ask textarea').value.length > 3")
    press(lab, "Generate")
    lab.wait_for("w.jobs.running", False)
    lab.wait_for("len(w.selection)", 3)
    token = lab.page.locator(".workbench-pane .workbench-text .workbench-token").first
    token.wait_for()
    assert token.get_attribute("title") == "-0.5"
    text = lab.page.locator(".workbench-pane .workbench-text").first
    assert text.inner_text() == "".join(ARABIC)
    assert text.evaluate("e => getComputedStyle(e).direction") == "rtl"
    lab.assert_every_control_is_named()
    lab.shoot("steering_bench_light")
    lab.theme("dark")
    lab.shoot("steering_bench_dark")
    lab.assert_sound()


def test_a_growing_reply_is_seen_and_stopped(lab, study_folder):
    lab.open(code(study_folder(languages=("en", "ar", "km", "sw")), KHMER * 20, wait=0.2, more=', text="Hi"'))
    press(lab, "Generate")
    lab.page.wait_for_function("() => document.querySelectorAll('.workbench-pane .workbench-token').length >= 3")
    lab.shoot("steering_bench_growing")
    assert lab.ask("w.jobs.running") is True
    press(lab, "Stop")
    lab.wait_for("list(w.selection['finish'])", ["stopped"])
    assert lab.page.get_by_role("button", name="Stop").count() == 0
    lab.assert_sound()


def test_a_sweep_by_keyboard_ends_as_points_and_a_table(lab, study_folder):
    folder = study_folder(languages=("en", "ar", "km", "sw"))
    lab.open(code(folder, ["No", ", I", " will", " not", "."], wait=0.0, more=', text="Hi", high=4.0, steps=5'))
    button = lab.page.locator(".workbench-panel").get_by_role("button", name="Sweep")
    button.focus()
    lab.page.keyboard.press("Enter")
    lab.wait_for("len(w.selection)", 6)
    row = lab.page.locator(".workbench-rows").nth(1).locator("tbody tr").first
    row.focus()
    lab.page.keyboard.press("ArrowDown")
    lab.wait_for("w.runs_table.chosen", 1)
    lab.wait_for("'No, I' in __import__('re').sub('<[^>]*>', '', w.detail.value)", True)
    lab.shoot("steering_bench_sweep")
    lab.assert_sound()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_without_a_model_the_study_is_shown(lab, study_folder, theme):
    folder = str(study_folder(languages=("en", "ar", "km", "sw")))
    lab.open(f"from workbench.widgets import SteeringBench\nw = SteeringBench({folder!r})\nw")
    lab.theme(theme)
    lab.ask("setattr(w, 'prompt_id', w.table('completions')['prompt_id'].iloc[5])")
    lab.page.locator(".workbench-pane summary").first.click()
    lab.shoot(f"steering_bench_saved_{theme}")
    lab.assert_sound()
