"""The steering bench streams in the background, can be stopped, keeps what it made, and opens without a model."""

import html
import itertools
import re
import threading
import time
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
from synthetic import NASTY, study

from workbench.benches import Reply, Token
from workbench.judges import Judge, reading
from workbench.widgets.jobs import Job
from workbench.widgets.runs import RUN_COLUMNS, Batch, Prompt, Run, Runs
from workbench.widgets.steering_bench import SteeringBench
from workbench.widgets.tokens import clusters, ground, show_tokens

PROMPT = (Token("<user>", "template", 0.1), Token("Hi", "prompt", 0.5), Token("</user>", "template", 1.0))


class Talker:
    """A bench that needs no model: says `words`, one token each, louder with strength; counts what it is asked."""

    interventions = MappingProxyType({"louder": None, "quieter": None})
    typical = (-1.0, 2.0)

    def __init__(self, words=("one ", "two ", "three "), wait=None, said=None):
        self.words, self.wait, self.said, self.asked, self.closed = words, wait, said, [], 0

    def __call__(self, text, name, strength):
        self.asked.append((text, name, strength))
        return self._replies(text, name, strength)

    def _replies(self, text, name, strength):
        try:
            push = {"": 0.0, "louder": strength, "quieter": -strength}[name]
            tokens = list(PROMPT)
            for place, word in enumerate(self.words):
                if self.wait and place:
                    self.wait()
                tokens.append(Token(word, "reply", push + place))
                done = place == len(self.words) - 1
                trace = (
                    {"logit": 1.5, "threshold": 0.5, "fired": True, "added_norm": abs(push)} if done and name else {}
                )
                said = "".join(t.text for t in tokens[3:]) + (f"[{name}]" if name else "")
                yield Reply(said, tuple(tokens), "end" if done else "", trace)
        finally:
            self.closed += 1


def word_judge(languages=("en", "sw")):
    def read(rows):
        yield {i: reading("refusal" if "[louder]" in t else "compliance") for i, t in enumerate(rows["completion"])}

    return Judge("words", frozenset(languages), read)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return study(tmp_path_factory.mktemp("bench"), languages=("en", "ar", "sw"), quick=True)


def press(panel, name):
    panel.controls[name].click()
    panel.jobs.wait()


def shown(panel):
    return [pane.value for pane in panel.panes.children]


def words_of(markup):
    return html.unescape(re.sub(r"<[^>]*>", "", markup))


def test_default_and_steered_stand_side_by_side_with_gate_and_verdict(opened):
    panel = SteeringBench(opened, Talker(), word_judge(), text="Habari", language="sw", doses={"louder": 2.0})
    press(panel, "generate")
    assert panel.error == "" and len(shown(panel)) == 2
    default, steered = (words_of(pane) for pane in shown(panel))
    assert "one two three" in default and "verdict: compliance" in default and "Gate" not in default
    assert "louder, strength 2" in steered and "verdict: refusal" in steered
    assert "Gate: logit 1.5, threshold 0.5: harmful." in steered and "Changed a token by 2 on average." in steered


def test_the_selection_is_a_row_for_each_reply_to_this_prompt(opened):
    panel = SteeringBench(
        opened, Talker(), word_judge(), text="Habari", language="sw", doses={"louder": 2.0, "quieter": 1.0}
    )
    press(panel, "generate")
    rows = panel.selection
    assert list(rows.columns) == list(RUN_COLUMNS)
    assert list(rows["intervention"]) == ["", "louder", "quieter"]
    np.testing.assert_allclose(rows["strength"], [np.nan, 2.0, 1.0])
    np.testing.assert_allclose(rows["projection_reply"], [1.0, 3.0, 0.0])
    np.testing.assert_allclose(rows["projection_prompt"], 1.0)
    assert list(rows["verdict"]) == ["compliance", "refusal", "compliance"]
    assert set(rows["text"]) == {"Habari"} and set(rows["language"]) == {"sw"} and set(rows["prompt_id"]) == {""}
    panel.text = "Another"
    assert panel.selection.empty and panel.selection_count == 0
    panel.text = "Habari"
    pd.testing.assert_frame_equal(panel.selection, rows)


def test_what_was_generated_is_not_generated_again(opened):
    bench = Talker()
    panel = SteeringBench(opened, bench, text="Hi", doses={"louder": 1.0})
    press(panel, "generate")
    panel.doses = {"louder": 2.0}
    press(panel, "generate")
    press(panel, "generate")
    assert bench.asked == [("Hi", "", 0.0), ("Hi", "louder", 1.0), ("Hi", "louder", 2.0)]
    assert bench.closed == 3


def test_a_reply_is_seen_while_it_grows_and_can_be_stopped(opened):
    go, seen = threading.Event(), threading.Event()

    def wait():
        seen.set()
        assert go.wait(60)

    panel = SteeringBench(opened, Talker(wait=wait), text="Hi")
    panel.controls["generate"].click()
    assert seen.wait(60)
    panel.jobs._drain()
    assert panel.jobs.running and panel.jobs.layout.display != "none"
    assert "one" in words_of(shown(panel)[0]) and "two" not in words_of(shown(panel)[0])
    panel.jobs.stop_button.click()
    go.set()
    panel.jobs.wait()
    assert not panel.jobs.running and panel.runs.bench.closed == 1
    row = panel.selection.iloc[0]
    assert row["finish"] == "stopped" and row["completion"].startswith("one") and row["verdict"] is None
    assert "stopped" in words_of(shown(panel)[0])
    panel.runs.bench.wait = None
    press(panel, "generate")
    assert list(panel.selection["finish"]) == ["end"]


def test_growing_replies_are_handed_over_now_and_then_not_token_by_token(opened, monkeypatch):
    steps = []
    clock = iter(np.arange(0, 1000, 0.01))
    monkeypatch.setattr(time, "monotonic", lambda: 100 + float(next(clock)))
    runs = Runs(Talker(words=("w ",) * 80), None)
    runs.work(Job("Talking", lambda *said: steps.append(said)), Batch(Prompt("", "", "Hi"), [Run()]))
    assert 5 <= len(steps) <= 20


def test_a_sweep_is_a_point_for_each_strength_and_the_default_a_level(opened):
    panel = SteeringBench(
        opened, Talker(), word_judge(), text="Hi", language="en", swept="louder", low=0.0, high=4.0, steps=3
    )
    press(panel, "sweep")
    rows = panel.selection.query("intervention == 'louder'")
    np.testing.assert_allclose(rows["strength"], [0, 2, 4])
    points = {t.name: (list(t.x), list(t.y)) for t in panel.sweep_chart.data if t.mode == "markers"}
    assert points["refusal"] == ([0, 2, 4], [1, 3, 5]) and points["compliance"] == ([], [])
    assert panel.sweep_chart.layout.shapes[0].y0 == 1.0
    names = [t.name for t in panel.sweep_chart.data]
    panel.sweep_chart.click(names.index("refusal"), 1)
    assert "louder, strength 2" in words_of(panel.detail.value) and "one two three" in words_of(panel.detail.value)


def test_a_sweep_that_goes_down_is_refused_in_words(opened):
    panel = SteeringBench(opened, Talker(), text="Hi", low=2.0, high=1.0)
    press(panel, "sweep")
    assert "must go up" in panel.error and panel.selection.empty


def test_the_chart_of_tokens_counts_from_the_last_of_the_prompt(opened):
    panel = SteeringBench(opened, Talker(), text="Hi", doses={"louder": 5.0})
    press(panel, "generate")
    default, steered = panel.tokens_chart.data
    assert list(default.x) == [-2, -1, 0, 1, 2, 3]
    np.testing.assert_allclose(default.y, [0.1, 0.5, 1.0, 0.0, 1.0, 2.0])
    np.testing.assert_allclose(np.asarray(steered.y) - np.asarray(default.y), [0, 0, 0, 5, 5, 5])
    assert default.line.dash != steered.line.dash


def test_picking_a_prompt_asks_it_in_its_language_and_an_edit_makes_it_ones_own(opened):
    panel = SteeringBench(opened, Talker(), word_judge())
    panel.language = "sw"
    panel.find = "HARMFUL"
    rows = panel.prompts_table.rows
    assert set(rows["language"]) == {"sw"} and set(rows["label"]) == {"harmful"}
    panel.prompts_table.chosen = 2
    assert panel.text == rows["text"][2] and panel.prompt_id == rows["prompt_id"][2]
    panel.language = ""
    assert panel.prompt.language == "sw"
    panel.text += " please"
    assert panel.prompt_id == "" and panel.prompt.language == ""


def test_without_a_model_the_study_shows_what_it_has_kept(opened):
    panel = SteeringBench(opened)
    kept = opened.completions.iloc[3]
    panel.prompt_id = kept["prompt_id"]
    (pane,) = shown(panel)
    verdict = opened.verdicts.set_index("prompt_id")["verdict"][kept["prompt_id"]]
    assert kept["completion"] in words_of(pane) and f"lexicon: {verdict}" in words_of(pane)
    assert "<details" in pane and panel.error == "" and "generate" not in panel.controls


def test_the_judge_says_when_it_does_not_read_a_language(opened):
    panel = SteeringBench(opened, Talker(), word_judge(), text="Hi", language="ar")
    press(panel, "generate")
    assert panel.selection["verdict"].isna().all() and panel.selection["reason"][0] == "words does not read ar"
    panel.language = ""
    press(panel, "generate")
    assert "must be told the language" in panel.selection["reason"][0]


@pytest.mark.parametrize("without", ["prompts", "completions", "verdicts"])
def test_a_study_that_lacks_tables_still_opens(tmp_path, without):
    opened = study(tmp_path, languages=("en",), quick=True, without=(without,))
    panel = SteeringBench(opened, Talker(), text="Hi")
    if without != "prompts":
        panel.prompts_table.chosen = 0
    press(panel, "generate")
    assert panel.error == "" and len(panel.selection) == 1


def test_no_study_is_needed_at_all():
    panel = SteeringBench(None, Talker(), text="Hi")
    press(panel, "generate")
    assert panel.error == "" and len(panel.selection) == 1


def test_an_error_of_the_bench_is_words_and_the_widget_lives_on(opened):
    bench = Talker()

    def broken():
        raise RuntimeError("out of memory <b>now</b>")

    bench.wait = broken
    panel = SteeringBench(opened, bench, text="Hi")
    press(panel, "generate")
    assert "out of memory" in panel.error and "<b>now" not in panel._errors.value and "Traceback" in panel._errors.value
    bench.wait = None
    press(panel, "generate")
    assert panel.error == "" and len(panel.selection) == 1


def test_mistakes_are_explained(opened):
    panel = SteeringBench(opened, Talker())
    press(panel, "generate")
    assert "There must be a prompt" in panel.error
    assert "must be one of the bench's" in SteeringBench(opened, Talker(), doses={"loud": 1.0}).error
    assert "Type its text" in SteeringBench(opened, Talker(), prompt_id="nobody").error
    silent = SteeringBench(opened, Talker(words=()), text="Hi")
    press(silent, "generate")
    assert "must yield replies" in silent.error


def test_texts_of_prompts_replies_and_names_are_never_markup(tmp_path):
    opened = study(tmp_path, languages=("en",), quick=True, texts=NASTY)
    bench = Talker(words=(NASTY, "x"))
    bench.interventions = {NASTY: None}
    bench._replies = lambda text, name, strength: Talker._replies(bench, text, "louder" if name else "", strength)
    panel = SteeringBench(opened, bench, doses={NASTY: 1.0})
    panel.prompts_table.chosen = 0
    kept = shown(panel)
    press(panel, "generate")
    panel.runs_table.chosen = 1
    tick = panel.controls[f"tick {NASTY}"].description
    for markup in (*kept, *shown(panel), panel.detail.value, tick):
        assert "window.__alive" in html.unescape(markup)
        assert not re.search(r"<(script|img|svg|a|iframe)\b", markup, re.IGNORECASE)


def test_state_round_trips(opened):
    panel = SteeringBench(
        opened, Talker(), text="Hi", doses={"quieter": 0.5}, swept="quieter", low=-1.0, high=1.0, steps=5
    )
    again = SteeringBench(opened, Talker(), **panel.state)
    assert (
        again.state == panel.state and again.controls["tick quieter"].value and not again.controls["tick louder"].value
    )
    assert again.controls["strength quieter"].value == 0.5


def test_ticks_and_strengths_make_the_doses(opened):
    panel = SteeringBench(opened, Talker())
    panel.controls["tick louder"].value = True
    panel.controls["strength louder"].value = 3.0
    assert panel.doses == {"louder": 3.0}
    panel.controls["tick louder"].value = False
    assert panel.doses == {}


def test_every_control_has_a_label_and_a_tooltip(opened):
    for name, control in SteeringBench(opened, Talker()).controls.items():
        if hasattr(control, "description"):
            assert control.description, name
            assert getattr(control, "tooltip", None) or getattr(control, "description_tooltip", None), name


# --- coloured tokens -------------------------------------------------------------------------------------------------


def spoken(*texts):
    return [Token(text, "reply", float(place)) for place, text in enumerate(texts)]


@pytest.mark.parametrize(
    "texts",
    [
        ["क", "्", "ष"],  # a virama joins what comes next
        ["ខ", "្ម", "ែរ"],  # a coeng puts the next letter underneath
        ["မ", "ြန်", "မာ"],
        ["e", "\u0301", "x"],
        ["", "😀", ""],
        ["ශ", "්", "\u200d", "ර"],
    ],
)
def test_letters_are_never_cut_from_their_marks(texts):
    import unicodedata

    parts = clusters(spoken(*texts))
    assert "".join(text for text, _ in parts) == "".join(texts)
    assert sorted(v for _, values in parts for v in values) == list(map(float, range(len(texts))))
    for (before, _), (after, _) in itertools.pairwise(parts):
        assert before and unicodedata.category(after[0])[0] != "M"
        assert before[-1] not in "\u094d\u17d2\u0dca\u1039\u200d"


def test_words_that_can_be_cut_are():
    assert [text for text, _ in clusters(spoken("مر", "حبا", " x"))] == ["مر", "حبا", " x"]


def test_grounds_are_clear_in_the_middle_and_strongest_at_the_ends_and_beyond():
    assert ground(1.0, 0.0, 2.0).endswith(",0.00)")
    assert ground(2.0, 0.0, 2.0) == ground(99.0, 0.0, 2.0) != ground(0.0, 0.0, 2.0) == ground(-99.0, 0.0, 2.0)
    assert ground(float("nan"), 0.0, 2.0) == ground(1.0, 2.0, 2.0) == "transparent"


def test_the_prompt_is_folded_and_every_token_says_its_number():
    markup = show_tokens([*PROMPT, Token("مرحبا", "reply", 1.25)], -1.0, 2.0, "ar")
    reply, prompt = markup.split("<details")
    assert 'title="1.25"' in reply and 'dir="auto"' in reply and 'lang="ar"' in reply and "Hi" not in reply
    assert "token by token (3)" in prompt and 'title="0.5"' in prompt and words_of(prompt).endswith("<user>Hi</user>")
