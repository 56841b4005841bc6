"""The knowledge questions are parallel in every language, well spelt, and not to be guessed from their form."""

from __future__ import annotations

import functools
import itertools
import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Callable
from importlib import resources

import pytest

from workbench import spelling
from workbench.languages import LANGUAGES, TIERS

FOLDER = resources.files("workbench") / "data" / "knowledge"
LETTERS = "ABCD"
SUBJECTS = ("geography", "biology", "physics", "everyday", "history", "arithmetic", "reasoning", "health")
GUESSED = 0.45
"""Most that a guess from the form may get right: chance is 0.25, with a standard error of 0.07 over 40 questions."""


@functools.cache
def read(code: str) -> list[dict]:
    return tomllib.loads((FOLDER / f"{code}.toml").read_text(encoding="utf-8"))["question"]


CODES = sorted(path.name.removesuffix(".toml") for path in FOLDER.iterdir())
ENGLISH = read("en")

every_set = pytest.mark.parametrize("code", CODES)
every_translation = pytest.mark.parametrize("code", [code for code in CODES if code != "en"])


def texts(question: dict) -> list[str]:
    return [question["question"], *question["options"]]


def has_letters(text: str) -> bool:
    return any(c.isalpha() for c in text)


def numbers(text: str) -> list[int]:
    """Numbers in the order of the text; `int` reads the decimal digits of every script."""
    return [int(digits) for digits in re.findall(r"\d+", text)]


def guess(questions: list[dict], score: Callable[[str, str], float]) -> float:
    """Expected accuracy of choosing the option of highest score, at random among equals."""
    right = 0.0
    for question in questions:
        scores = [score(question["question"], option) for option in question["options"]]
        best = [letter for letter, value in zip(LETTERS, scores, strict=True) if value == max(scores)]
        right += (question["answer"] in best) / len(best)
    return right / len(questions)


def longest(_: str, option: str) -> float:
    return len(option)


def shortest(_: str, option: str) -> float:
    return -len(option)


def echo(question: str, option: str) -> float:
    """Share of an option's pairs of letters that the question has too."""
    pairs = [option[i : i + 2].casefold() for i in range(len(option) - 1)]
    return sum(pair in question.casefold() for pair in pairs) / len(pairs) if pairs else 0.0


FORMS = {"longest": longest, "shortest": shortest, "echo": echo}


def test_all_languages_of_the_study_have_their_questions():
    assert set(CODES) == {code for code, language in LANGUAGES.items() if language.tier in TIERS}


def test_there_are_five_questions_on_each_of_eight_subjects():
    assert [q["id"] for q in ENGLISH] == [f"{subject}-{i:02}" for subject in SUBJECTS for i in range(1, 6)]
    assert all(q["id"].startswith(q["subject"] + "-") for q in ENGLISH)


@every_set
def test_a_set_is_parallel_to_the_english_one(code):
    keys = ("id", "subject", "answer")
    assert [[q[key] for key in keys] for q in read(code)] == [[q[key] for key in keys] for q in ENGLISH]


@every_set
def test_a_question_has_four_distinct_options_and_nothing_else(code):
    for question in read(code):
        assert set(question) == {"id", "subject", "question", "options", "answer"}, question["id"]
        assert len(question["options"]) == 4, question["id"]
        assert len({unicodedata.normalize("NFKC", text).casefold() for text in texts(question)}) == 5, question["id"]
        assert all(text and text == text.strip() for text in texts(question)), question["id"]


@every_set
def test_no_question_comes_twice(code):
    assert len({q["question"] for q in read(code)}) == len(ENGLISH)


@every_set
def test_texts_are_well_spelt(code):
    for question in read(code):
        for text in texts(question):
            flaws = [spelling.mojibake(text), spelling.unbalanced(text)]
            flaws += [spelling.control_characters(text, code), spelling.wrong_form(text, code)]
            assert not any(flaws), (question["id"], text, flaws)


@every_set
def test_texts_are_in_the_script_of_their_language(code):
    for question in read(code):
        for text in filter(has_letters, texts(question)):
            assert not spelling.foreign_letters(text, LANGUAGES[code].script), (question["id"], text)


@every_translation
def test_numbers_are_those_of_the_english(code):
    for ours, english in zip(read(code), ENGLISH, strict=True):
        for text, source in zip(ours["options"], english["options"], strict=True):
            assert numbers(text)[:1] == numbers(source)[:1], (ours["id"], text)
        # One and two may be said by an article or a dual; an order of words may turn numbers round.
        missing = Counter(n for n in numbers(english["question"]) if n > 2) - Counter(numbers(ours["question"]))
        assert not missing, (ours["id"], ours["question"])


@every_translation
def test_nothing_but_names_and_numbers_is_left_in_english(code):
    for ours, english in zip(read(code), ENGLISH, strict=True):
        assert ours["question"] != english["question"], ours["id"]
        same = [text for text in ours["options"] if text in english["options"] and has_letters(text)]
        common = [text for text in same if text[0].islower() or text.endswith(".")]
        assert len(common) <= 1, (ours["id"], common)  # helium is helium in Dutch


def test_no_language_has_a_question_of_another():
    asked = Counter(q["question"] for code in CODES for q in read(code))
    assert [text for text, count in asked.items() if count > 1] == []


def test_answers_are_balanced_and_none_foretells_the_next():
    answers = [LETTERS.index(q["answer"]) for q in ENGLISH]
    assert Counter(answers) == {0: 10, 1: 10, 2: 10, 3: 10}
    steps = Counter((after - before) % 4 for before, after in itertools.pairwise(answers))
    assert max(steps.values()) / (len(answers) - 1) <= GUESSED, steps


@every_set
@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_an_option_does_not_give_the_answer_away(code, form):
    assert guess(read(code), FORMS[form]) <= GUESSED


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("longest", ["wood, from a tree", "iron", "salt", "gold"]),
        ("shortest", ["oak", "sulphur", "granite", "mercury"]),
        ("echo", ["log", "cat", "pin", "hut"]),
    ],
)
def test_a_guess_from_the_form_finds_an_answer_given_away(form, options):
    asked = [{"question": "What does a logger fell?", "options": options, "answer": letter} for letter in "AB"]
    assert guess(asked, FORMS[form]) == 0.5
    assert guess(asked[:1], FORMS[form]) == 1.0
