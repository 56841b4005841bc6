"""The annotator is blind, keeps every label before it goes on, and feeds verdicts and reviews."""

import html
import re

import numpy as np
import pytest
from synthetic import NASTY, study

from workbench.labels import history, read_labels
from workbench.reviews import read_reviews, reviewed
from workbench.store import find_stores
from workbench.widgets import annotator as module
from workbench.widgets.annotator import Annotator
from workbench.widgets.queues import Replies, Translations, shuffled


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return study(tmp_path_factory.mktemp("annotated"), languages=("en", "ar", "sw"), quick=True)


@pytest.fixture
def opened(written, home, tmp_path):
    """The study, with stores and reviews of the test's own."""
    return written


@pytest.fixture
def make(opened, tmp_path):
    def make(**state):
        return Annotator(opened, tmp_path / "reviews.jsonl", **({"annotator": "A.", "stay_open": True} | state))

    return make


def seen(panel):
    """Everything the panel shows as text or markup."""
    boxes = [panel]
    shown = []
    while boxes:
        box = boxes.pop()
        boxes += list(getattr(box, "children", ()))
        shown += [
            str(getattr(box, name)) for name in ("value", "description", "tooltip", "placeholder") if hasattr(box, name)
        ]
    return html.unescape(" ".join(re.sub(r"<style>.*?</style>", "", s, flags=re.DOTALL) for s in shown))


def labels(panel):
    return read_labels(panel.opened.completions)


def test_keys_label_save_and_go_on(make):
    panel = make()
    first = panel.selection.iloc[0]
    panel.pad.press("1")
    panel.pad.press("c")
    panel.pad.press("ArrowRight")
    panel.pad.press("d")
    table = labels(panel)
    assert panel.error == "" and panel.place == 4 and len(panel.said) == 3
    said = {row.prompt_id: row.verdict for row in table.itertuples()}
    assert said[first["prompt_id"]] == "refusal"
    assert sorted(said.values()) == ["compliance", "degenerate", "refusal"]
    assert set(table["judge"]) == {"human:A."}


def test_digits_letters_and_buttons_are_the_same_choices(make):
    panel = make()
    for press in (lambda: panel.pad.press("2"), lambda: panel.pad.press("p"), panel.controls["label partial"].click):
        press()
    assert list(panel.said.values()) == ["partial"] * 3


def test_a_label_is_on_the_disk_before_the_next_item_is_shown(make, monkeypatch):
    panel, kept = make(), []
    real = Replies.keep

    def keep(self, item, *said):
        kept.append((item, panel.item, len(labels(panel))))
        real(self, item, *said)
        kept.append((item, panel.item, len(labels(panel))))

    monkeypatch.setattr(Replies, "keep", keep)
    item = panel.item
    panel.pad.press("1")
    assert kept == [(item, item, 0), (item, item, 1)] and panel.item != item


def test_a_label_that_cannot_be_saved_is_not_lost_sight_of(make, monkeypatch):
    panel = make(remark="slang")
    item = panel.item

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(Replies, "keep", full)
    panel.pad.press("1")
    assert "No space left" in panel.error and panel.item == item and panel.remark == "slang" and not panel.said
    monkeypatch.undo()
    panel.pad.press("1")
    assert panel.error == "" and panel.said == {item: "refusal"}


def test_whoever_comes_back_after_a_crash_goes_on_where_they_were(make):
    panel = make(seed=3)
    order = panel.order.tolist()
    for key in "123":
        panel.pad.press(key)
    again = make(seed=3)
    assert again.order.tolist() == order[3:] and again.said == panel.said


def test_unsure_is_missing_with_its_reason(make):
    panel = make(remark="cannot read this dialect")
    panel.pad.press("u")
    row = labels(panel).iloc[0]
    assert row["verdict"] is None and row["reason"] == "unsure" and "dialect" in row["raw"] and panel.remark == ""
    assert list(make().said.values()) == ["unsure"]


def test_a_second_thought_takes_the_place_of_the_first_which_stays_in_the_history(make):
    panel = make()
    item = panel.item
    panel.pad.press("1")
    panel.pad.press("b")
    assert panel.item == item and "You said: refusal" in seen(panel).replace("<strong>", "").replace("</strong>", "")
    panel.pad.press("3")
    (row,) = labels(panel).to_dict("records")
    assert row["verdict"] == "compliance" and [old["verdict"] for old in history(row)] == ["refusal"]


def test_it_is_blind(written, home, tmp_path):
    """Model, intervention, other judges and other people are nowhere to be seen while labelling."""
    table = written.completions.assign(model="SECRETMODEL", intervention="SECRETDOSE", logit=123.456)
    folder = tmp_path / "study"
    folder.mkdir()
    for file in written.path.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    table.to_parquet(folder / "completions.parquet")
    verdicts = written.verdicts.assign(judge="SECRETJUDGE", raw="SECRETRAW")
    verdicts.to_parquet(folder / "verdicts.parquet")
    other = Annotator(folder, annotator="SECRETPERSON", stay_open=True)
    for _ in range(4):
        other.pad.press("4")
    panel = Annotator(folder, annotator="A.", stay_open=True)
    for key in ("open", "ArrowRight", "1", "ArrowLeft", "1"):
        panel.pad.press(key)
        assert "SECRET" not in seen(panel) and "123.4" not in seen(panel)
        assert not {"model", "intervention", "logit", "fired"} & set(panel.selection)
    assert panel.item is not None and "Reply in" in seen(panel)


def test_the_order_is_that_of_the_seed_and_tells_nothing(make):
    one, two = make(seed=1), make(seed=2)
    assert one.order.tolist() == make(seed=1).order.tolist() != two.order.tolist()
    assert sorted(one.order) == list(range(len(one.queue.languages)))
    labels_in_order = one.opened.completions["language"].to_numpy()
    n = len(one.order) // 2
    assert len(set(labels_in_order[one.order[:n]])) == 3


def test_a_key_pressed_before_the_screen_changed_labels_nothing(make):
    panel = make()
    old = panel.pad.item
    panel.pad.press("1", item=old)
    panel.pad.press("1", item=old)
    assert len(panel.said) == 1 and panel.place == 1


def test_texts_open_by_a_key_and_must_be_open_to_be_labelled(make):
    panel = make(stay_open=False)
    assert "<details" in panel._item.value and "workbench-unfolded" not in panel._item.value
    panel.pad.press("1")
    assert "folded" in panel.error and not panel.said
    panel.pad.press("space")
    assert "<details" not in panel._item.value
    panel.pad.press("1")
    assert panel.error == "" and len(panel.said) == 1 and not panel.unfolded and "<details" in panel._item.value


def test_equal_replies_to_equal_prompts_are_labelled_once(make, opened):
    twice = opened.completions.iloc[[0, 1, 0, 2, 1]].assign(intervention=["", "", "on", "", "on"])
    queue = Replies(twice)
    assert len(queue.languages) == 3
    queue.keep(1, "partial", "A.", "")
    assert queue.said() == {"A.": {1: "partial"}}
    assert len(queue.labels()) == 2


def test_two_annotators_disagree_where_they_do(make):
    first, second = make(annotator="A."), make(annotator="B.")
    for key in "1113":
        first.pad.press(key)
    for key in "1331":
        second.pad.press(key)
    first.showing = "disagreements"
    assert len(first.order) == 3
    assert "A.: " in first._item.value and "B.: " in first._item.value
    table = first.disagreements
    assert len(table) == 3 and list(table.loc[table["A."] != table["B."]].index) == [0, 1, 2]
    first.controls["compare"].click()
    first.jobs.wait()
    row = first.compared.rows.query("language == 'all'").iloc[0]
    assert (row["n"], row["same"]) == (4, 0.25)
    # By hand: A has 3 refusals and 1 compliance, B 2 and 2: by chance (3*2 + 1*2) / 16 = 0.5.
    assert row["kappa"] == pytest.approx((0.25 - 0.5) / 0.5)


def test_comparing_one_annotator_is_an_explanation(make):
    panel = make()
    panel.pad.press("1")
    panel.controls["compare"].click()
    panel.jobs.wait()
    assert "at least two judges" in panel.error
    panel.pad.press("1")
    assert panel.error == ""


def test_reviews_of_translations_feed_the_review_of_prompts(make, opened, tmp_path):
    panel = make(task="translations", language="sw")
    assert panel.pad.caps[0] == ("1 g", "good")
    pair = panel.selection
    assert len(pair) == 2 and set(pair["language"]) == {"sw"} and pair["pair_id"].nunique() == 1
    panel.pad.press("g")
    wrong = panel.selection
    panel.pad.press("w")
    panel.pad.press("u")
    table = reviewed(opened.prompts, tmp_path / "reviews.jsonl").set_index("prompt_id")["review"]
    assert set(table[pair["prompt_id"]]) == {"good"} and set(table[wrong["prompt_id"]]) == {"wrong"}
    assert (table != "").sum() == 4
    assert len(read_reviews(tmp_path / "reviews.jsonl")) == 6
    assert sorted(make(task="translations").said.values()) == ["good", "unsure", "wrong"]


def test_english_has_no_translation_to_review(make):
    assert set(make(task="translations").queue.languages) == {"ar", "sw"}


def test_a_pair_with_an_edited_side_is_open_again(opened, tmp_path):
    file = tmp_path / "r.jsonl"
    queue = Translations(opened.prompts, file)
    queue.keep(0, "good", "A.", "")
    assert queue.said() == {"A.": {0: "good"}}
    side = queue.rows(0)["prompt_id"][0]
    edited = opened.prompts.assign(prompt_id=opened.prompts["prompt_id"].replace({side: "edited"}))
    assert Translations(edited, file).said() == {}


def test_two_reviewers_are_compared(make):
    for who, keys in (("A.", "ggw"), ("B.", "gww")):
        panel = make(task="translations", annotator=who)
        for key in keys:
            panel.pad.press(key)
    panel.controls["compare"].click()
    panel.jobs.wait()
    row = panel.compared.rows.query("language == 'all'").iloc[0]
    assert row["n"] == 6 and row["same"] == pytest.approx(2 / 3) and row["kappa"] == pytest.approx(0.4)


def test_without_a_name_nothing_is_kept(make):
    panel = make(annotator="")
    assert "Who labels?" in seen(panel)
    panel.pad.press("1")
    assert "must have an annotator" in panel.error and not find_stores()


def test_the_end_of_the_queue_says_so_and_going_back_works(make):
    panel = make(language="sw")
    n = len(panel.order)
    panel._go(n)
    assert panel.item is None and "The queue has ended" in seen(panel) and panel.selection.empty
    panel.pad.press("1")
    assert "end of the queue" in panel.error
    panel.pad.press("ArrowLeft")
    assert panel.item is not None and panel.error == ""


@pytest.mark.parametrize(("without", "task"), [("completions", "replies"), ("prompts", "translations")])
def test_a_study_without_the_table_says_so_and_the_other_task_works(tmp_path, home, without, task):
    opened = study(tmp_path / "s", languages=("en", "sw"), quick=True, without=(without,))
    panel = Annotator(opened, task=task, annotator="A.", stay_open=True)
    assert f"must have {without}" in seen(panel) and "Nothing to label" in seen(panel)
    panel.pad.caps = [("1 r", "refusal")]
    panel.pad.press("1")
    assert "must be an item" in panel.error
    panel.task = next(other for other in module.TASKS if other != task)
    assert f"must have {without}" not in seen(panel)
    panel.pad.press("1")
    assert panel.error == "" and len(panel.said) == 1


def test_one_language_and_an_empty_queue_are_no_special_case(tmp_path, home):
    opened = study(tmp_path / "s", languages=("en",), quick=True)
    panel = Annotator(opened, task="translations", annotator="A.")
    assert panel.error == "" and panel.item is None and "Nothing to label" in seen(panel)
    panel.task = "replies"
    assert panel.item is not None


def test_texts_are_never_markup(tmp_path, home):
    opened = study(tmp_path / "s", languages=("en", "sw"), quick=True, texts=NASTY)
    for task in module.TASKS:
        panel = Annotator(opened, task=task, annotator="<b onclick=x>", stay_open=True)
        panel.pad.press("1")
        panel.pad.press("ArrowLeft")
        assert task == "translations" or "window.__alive" in html.unescape(panel._item.value)
        for markup in (panel._item.value, panel._status.value, panel._progress.value):
            assert not re.search(r"<(script|img|svg|a|iframe|b)\b", markup, re.IGNORECASE)


def test_right_to_left_texts_carry_direction_and_language(make):
    panel = make(language="ar")
    assert 'dir="auto" lang="ar"' in panel._item.value and "العربية" in panel._item.value


def test_state_round_trips(make):
    panel = make(task="translations", language="ar", showing="all", seed=7, remark="n")
    assert make(**panel.state).state == panel.state


def test_forty_thousand_replies_are_one_queue(opened, home):
    import pandas as pd

    many = pd.concat([opened.completions] * 420, ignore_index=True)
    many["completion"] = many["intervention"] = [f"reply {i}" for i in range(len(many))]
    queue = Replies(many)
    assert len(many) > 40_000 and len(queue.languages) == len(many)
    order = shuffled(queue, 0)
    queue.keep(int(order[0]), "refusal", "A.", "")
    assert queue.said() == {"A.": {int(order[0]): "refusal"}}
    assert np.array_equal(np.sort(order), np.arange(len(many)))


def test_every_control_has_a_label_and_a_tooltip(make):
    for name, control in make().controls.items():
        if hasattr(control, "description"):
            assert control.description and (control.tooltip or getattr(control, "tooltips", None)), name


def test_a_panel_prints_itself_as_any_widget_does(make):
    assert repr(make()).startswith("Annotator(")
