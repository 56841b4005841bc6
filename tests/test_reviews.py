"""Reviews are on the disk when said, the last word of a reviewer counts, and half a line is no review."""

import json
import multiprocessing
import os

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import PromptError
from workbench.reviews import REVIEW_COLUMNS, add_review, read_reviews, review_agreement, reviewed, withdraw_review
from workbench.rows import REVIEWS


@pytest.fixture
def file(tmp_path):
    return tmp_path / "beside" / "reviews.jsonl"


def said(file):
    return {(r.prompt_id, r.reviewer): r.review for r in read_reviews(file).itertuples()}


def test_the_last_word_of_each_reviewer_counts(file, prompts):
    one = prompts[:1]
    add_review(file, one, "wrong", "A.")
    add_review(file, one, "good", "B.")
    add_review(file, one, "good", "A.")
    name = one["prompt_id"].item()
    assert said(file) == {(name, "A."): "good", (name, "B."): "good"}


def test_the_most_severe_of_several_reviewers_is_the_review_and_others_stay_as_they_were(file, prompts):
    prompts = prompts.assign(review="").astype({"review": object})
    prompts.loc[5, "review"] = "flawed"
    add_review(file, prompts[:2], "good", "A.")
    add_review(file, prompts[:1], "flawed", "B.")
    add_review(file, prompts[2:3], "wrong", "A.")
    got = reviewed(prompts, file)["review"]
    assert list(got[:6]) == ["flawed", "good", "wrong", "", "", "flawed"] and set(got[6:]) == {""}


def test_a_withdrawn_review_was_never_said(file, prompts):
    add_review(file, prompts[:2], "good", "A.")
    withdraw_review(file, prompts[:1], "A.")
    assert list(read_reviews(file)["prompt_id"]) == [prompts["prompt_id"][1]]
    assert list(reviewed(prompts.assign(review=""), file)["review"][:2]) == ["", "good"]


def test_unsure_is_missing_with_its_reason_and_leaves_the_review_alone(file, prompts):
    add_review(file, prompts[:1], None, "A.", "I do not know the slang")
    row = read_reviews(file).iloc[0]
    assert row["review"] is None and row["reason"] == "I do not know the slang"
    assert set(reviewed(prompts.assign(review=""), file)["review"]) == {""}
    with pytest.raises(PromptError, match="Say why"):
        add_review(file, prompts[:1], None, "A.", " ")


def test_an_edited_text_is_not_reviewed_any_more(file, prompts):
    add_review(file, prompts, "good", "A.")
    edited = prompts.assign(review="", prompt_id=["another", *prompts["prompt_id"][1:]])
    assert list(reviewed(edited, file)["review"][:2]) == ["", "good"]


@given(st.lists(st.tuples(st.sampled_from("pqr"), st.sampled_from(["A", "B"]), st.sampled_from([*REVIEWS, ""]))))
def test_any_order_of_words_leaves_what_a_dictionary_would_hold(tmp_path_factory, words):
    file = tmp_path_factory.mktemp("reviews") / "r.jsonl"
    held: dict = {}
    for prompt, who, review in words:
        row = pd.DataFrame({"prompt_id": [prompt], "dataset": ["d"], "language": ["sw"]})
        if review:
            add_review(file, row, review, who)
            held[prompt, who] = review
        else:
            withdraw_review(file, row, who)
            held.pop((prompt, who), None)
    assert said(file) == held


def test_half_a_line_left_by_a_crash_is_no_review_and_is_gone_with_the_next(file, prompts):
    add_review(file, prompts[:1], "good", "A.")
    whole = file.read_bytes()
    with open(file, "ab") as out:
        out.write(b'{"prompt_id": "x", "rev')
    assert len(read_reviews(file)) == 1
    add_review(file, prompts[1:2], "wrong", "A.")
    assert file.read_bytes().startswith(whole) and len(file.read_bytes().splitlines()) == 2
    assert sorted(read_reviews(file)["review"]) == ["good", "wrong"]


def test_a_full_disk_keeps_what_was_there_and_says_so(file, prompts, monkeypatch):
    add_review(file, prompts[:1], "good", "A.")
    before = file.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PromptError, match="No space left"):
        add_review(file, prompts[:2], "wrong", "A.")
    assert file.read_bytes() == before


def _many(file, who, rows):
    for _ in range(20):
        add_review(file, rows, "good", who)


def test_reviewers_at_once_lose_nothing(file, prompts):
    start = multiprocessing.get_context("spawn").Process
    both = [start(target=_many, args=(file, who, prompts[["prompt_id", "dataset", "language"]][:2])) for who in "AB"]
    for process in both:
        process.start()
    for process in both:
        process.join()
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    assert len(lines) == 80 and [r["reviewer"] for r in lines].count("A") == 40


def test_a_reason_with_line_separators_and_every_script_comes_back_as_it_was(file, prompts):
    reason = 'መጥፎ\u2028ශ්‍රී\nខ្មែរ\x85 "quoted"'
    add_review(file, prompts[:1], "flawed", "Ṣọlá", reason)
    row = read_reviews(file).iloc[0]
    assert (row["reviewer"], row["reason"]) == ("Ṣọlá", reason)


def test_no_file_is_no_reviews_to_read_and_an_error_to_rely_on(file, prompts):
    assert list(read_reviews(file).columns) == list(REVIEW_COLUMNS) and read_reviews(file).empty
    with pytest.raises(PromptError, match="not there"):
        reviewed(prompts, file)


@pytest.mark.parametrize(
    "line", ["not json", "[1, 2]", '{"prompt_id": "x"}', '{"prompt_id":"x","review":"fine","reviewer":"A"}']
)
def test_a_damaged_line_is_named(file, prompts, line):
    add_review(file, prompts[:1], "good", "A.")
    with open(file, "a", encoding="utf-8") as out:
        out.write(line + "\n")
    with pytest.raises(PromptError, match="line 2"):
        read_reviews(file)


@pytest.mark.parametrize(
    ("review", "who", "says"), [("fine", "A.", "one of good"), ("good", " ", "a name or initials")]
)
def test_users_mistakes_are_explained_and_write_nothing(file, prompts, review, who, says):
    with pytest.raises(PromptError, match=says):
        add_review(file, prompts[:1], review, who)
    assert not file.exists()


def test_a_file_that_cannot_be_written_is_an_error_in_words(tmp_path, prompts):
    with pytest.raises(PromptError, match="can be written"):
        add_review(tmp_path, prompts[:1], "good", "A.")


def test_agreement_is_that_of_a_table_made_by_hand(file, prompts):
    """Ten prompts: 4 good-good, 3 wrong-wrong, 1 good-wrong, 2 good-flawed; observed 0.7, by chance 0.28 + 0.12 = 0.4."""
    a = ["good"] * 4 + ["wrong"] * 3 + ["good"] * 3
    b = ["good"] * 4 + ["wrong"] * 3 + ["wrong"] + ["flawed"] * 2
    for place, (first, second) in enumerate(zip(a, b, strict=True)):
        add_review(file, prompts[place : place + 1], first, "A.")
        add_review(file, prompts[place : place + 1], second, "B.")
    add_review(file, prompts[10:12], "good", "A.")
    add_review(file, prompts[12:13], None, "B.", "no idea")
    row = review_agreement(read_reviews(file)).iloc[0]
    assert (row["language"], row["a"], row["b"], row["n"], row["n_missing"]) == ("all", "A.", "B.", 10, 3)
    assert row["same"] == pytest.approx(0.7) and row["kappa"] == pytest.approx((0.7 - 0.40) / (1 - 0.40))


def test_agreement_that_cannot_be_told_has_a_reason(file, prompts):
    add_review(file, prompts[:2], "good", "A.")
    assert review_agreement(read_reviews(file)).empty
    add_review(file, prompts[2:3], "good", "B.")
    assert set(review_agreement(read_reviews(file))["reason"]) == {"no prompt was reviewed by both"}
    add_review(file, prompts[:2], "good", "B.")
    row = review_agreement(read_reviews(file)).iloc[0]
    assert row["same"] == 1 and "chance cannot be told" in row["reason"]


def test_reviews_reach_the_reviewed_only_filter_of_load_prompts(file):
    from workbench.prompts import load_prompts

    prompts = load_prompts(languages=["sw"])
    add_review(file, prompts[:2], "good", "A. B.")
    add_review(file, prompts[2:3], "wrong", "A. B.", "not what the English says")
    kept = load_prompts(languages=["sw"], reviews=file, reviewed_only=True)
    assert list(kept["prompt_id"]) == list(prompts["prompt_id"][:2])
