import json

import pandas as pd
import pytest

from workbench import questions as module
from workbench.errors import PromptError
from workbench.languages import LANGUAGES
from workbench.question_checks import check_questions
from workbench.questions import (
    LETTERS,
    OPTIONS,
    QUESTION_COLUMNS,
    load_questions,
    question_prompt,
    question_prompts,
)

SHIPPED = sorted(path.stem for path in module._DATA.glob("*.toml"))


def released(n=12, **columns):
    """A table laid out as Global-MMLU."""
    rows = [
        {
            "sample_id": f"anatomy/test/{k}", "subject": "anatomy", "question": f"Question {k}?",
            "option_a": f"a{k}", "option_b": f"b{k}", "option_c": f"c{k}", "option_d": f"d{k}", "answer": "ABCD"[k % 4],
        }
        for k in range(n)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**columns)


def test_the_embedded_set_is_whole_in_every_language_it_has():
    table = load_questions()
    assert list(table.columns) == list(QUESTION_COLUMNS) and table["question_id"].is_unique
    assert set(table["language"]) == set(SHIPPED) <= set(LANGUAGES) and "en" in SHIPPED
    assert set(table.groupby("language").size()) == {40}
    assert table["answer"].isin(LETTERS).all()
    assert table.groupby("parallel_id")["language"].nunique().eq(len(SHIPPED)).all()


@pytest.mark.parametrize("code", SHIPPED)
def test_nothing_is_odd_about_the_embedded_set(code):
    report = check_questions(load_questions(languages=list(dict.fromkeys(["en", code]))))
    odd = report[(report["count"] > 0) & (report["language"] == code)]
    assert odd.empty, odd.to_string()


def test_the_prompt_letters_the_options_in_order():
    text = question_prompt("Which?", ["w", "x", "y", "z"])
    assert text == "Which?\n\nA. w\nB. x\nC. y\nD. z\n\nAnswer:"
    row = load_questions(languages=["en"]).iloc[:1]
    assert question_prompts(row) == [question_prompt(row["question"].iloc[0], [*row[list(OPTIONS)].iloc[0]])]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_global_mmlu_is_read_from_a_folder_by_language_and_its_dev_questions_are_not(tmp_path, suffix):
    for code in ("sw", "yo"):
        (tmp_path / code).mkdir()
        write = {
            "parquet": lambda frame, path: frame.to_parquet(path),
            "csv": lambda frame, path: frame.to_csv(path, index=False),
            "jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
        }[suffix]
        write(released(), tmp_path / code / f"test-00000-of-00001.{suffix}")
        write(released(3), tmp_path / code / f"dev-00000-of-00001.{suffix}")
    table = load_questions(tmp_path)
    assert table.groupby("language").size().to_dict() == {"sw": 12, "yo": 12}
    assert set(table["tier"]) == {"low"} and table["answer"].tolist()[:5] == list("ABCDA")
    assert load_questions(tmp_path, ["yo"])["language"].unique().tolist() == ["yo"]


def test_an_answer_may_be_an_index_and_options_a_list(tmp_path):
    rows = [{"question": f"Q{k}", "choices": list("wxyz"), "answer": k} for k in range(4)]
    file = tmp_path / "mmlu_de.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    table = load_questions(file)
    assert table["answer"].tolist() == list(LETTERS) and table["option_d"].eq("z").all()
    assert table["language"].eq("de").all()


def test_letters_as_column_names_are_options(tmp_path):
    frame = pd.DataFrame({"Question": ["Q"], "A": ["w"], "B": ["x"], "C": ["y"], "D": ["z"], "Answer": [" b "]})
    frame.to_csv(tmp_path / "mmlu_AR-XY.csv", index=False)
    (row,) = load_questions(tmp_path / "mmlu_AR-XY.csv").to_dict("records")
    assert (row["language"], row["answer"], row["option_c"]) == ("ar", "B", "y")


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("question", " ", "no text"), ("option_c", "", "four options"), ("option_d", " A0 ", "same"),
        ("answer", "E", "'E'"), ("sample_id", "anatomy/test/1", "twice"),
    ],
)  # fmt: skip
def test_a_broken_question_of_others_is_dropped_and_said(tmp_path, column, value, why):
    frame = released(language="sw")
    frame.loc[0, column] = value
    frame.to_parquet(tmp_path / "own.parquet")
    table = load_questions(tmp_path / "own.parquet")
    assert len(table) == 11 and why in table.attrs["notes"][0]


def test_a_broken_question_of_our_own_raises(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_DATA", tmp_path)
    (tmp_path / "en.toml").write_text(
        '[[question]]\nid = "x-01"\nsubject = "x"\nquestion = "Q"\noptions = ["a", "b", "c"]\nanswer = "A"\n'
    )
    with pytest.raises(PromptError, match=r"x-01.*four options"):
        load_questions()


def test_a_draw_is_the_same_questions_in_every_language_and_another_seed_draws_others(tmp_path):
    pd.concat([released(60, language=code) for code in ("sw", "en")]).to_parquet(tmp_path / "q.parquet")
    one, again, other = (load_questions(tmp_path / "q.parquet", per_language=10, seed=seed) for seed in (0, 0, 1))
    names = {code: set(part["parallel_id"]) for code, part in one.groupby("language")}
    assert names["sw"] == names["en"] and len(names["sw"]) == 10
    assert one.equals(again) and set(other["parallel_id"]) != names["sw"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: load_questions("knowlege"), "knowledge"),
        (lambda path: load_questions(languages="sw"), "list of codes"),
        (lambda path: load_questions(languages=["xx"]), "'xx'"),
        (lambda path: load_questions(languages=["bn"]), "bn"),
        (lambda path: load_questions(languages=["en"], per_language=41), "41"),
        (lambda path: load_questions(path), "none"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_words(tmp_path, make, said):
    with pytest.raises(PromptError, match=said):
        make(tmp_path)


def test_a_file_without_a_language_or_a_column_is_said_in_words(tmp_path):
    released().to_parquet(tmp_path / "questions.parquet")
    with pytest.raises(PromptError, match="language"):
        load_questions(tmp_path / "questions.parquet")
    released(language="sw").drop(columns="option_b").to_parquet(tmp_path / "own.parquet")
    with pytest.raises(PromptError, match="option_b"):
        load_questions(tmp_path / "own.parquet")
    released(language="klingon").to_parquet(tmp_path / "own.parquet")
    with pytest.raises(PromptError, match="klingon"):
        load_questions(tmp_path / "own.parquet")


def checked(change):
    """Names of the checks that find something in a table of two languages after `change` to the Swahili half."""
    english = released(40, language="en").assign(question=lambda t: "What is " + t["sample_id"] + "?")
    swahili = released(40, language="sw").assign(question=lambda t: "Ni nini " + t["sample_id"] + "?")
    frame, _ = module._whole(pd.concat([english, change(swahili)], ignore_index=True), "made")
    report = check_questions(frame)
    return set(report[(report["count"] > 0) & (report["language"] == "sw")]["check"])


def test_each_check_finds_its_fault_and_nothing_else():
    assert checked(lambda t: t) == set()
    assert checked(lambda t: t[1:]) == {"missing"}
    assert checked(lambda t: t.assign(answer=list("BACD" * 10))) == {"other answer"}
    assert checked(lambda t: t.assign(answer="A")) == {"other answer", "unbalanced answers"}
    assert checked(lambda t: t.assign(question="ምን " + t["sample_id"].str.slice(-2))) == {"other script"}
    assert checked(lambda t: t.assign(question="What is " + t["sample_id"] + "?")) == {"left in English"}

    def longest(t):
        for k, letter in enumerate(t["answer"]):
            t.loc[k, f"option_{letter.lower()}"] += " and more"
        return t

    assert checked(longest) == {"right option longest"}


def test_the_hub_is_asked_for_the_test_split_of_each_language(monkeypatch):
    import datasets

    asked = []

    class Fake:
        def to_pandas(self):
            return released()

    def load(name, config, split):
        asked.append((config, split))
        if config == "th":
            raise ValueError("BuilderConfig 'th' not found")
        return Fake()

    monkeypatch.setattr(datasets, "load_dataset", load)
    table = load_questions("global-mmlu", ["sw", "en"])
    assert asked == [("sw", "test"), ("en", "test")] and len(table) == 24 and set(table["dataset"]) == {"global-mmlu"}
    with pytest.raises(PromptError, match="th"):
        load_questions("global-mmlu", ["th"])
