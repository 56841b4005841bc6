import json

import pandas as pd
import pytest

from workbench.completions import TRACE
from workbench.errors import PromptError
from workbench.intake import read_prompts
from workbench.judges import judge, lexicon_judge
from workbench.rows import KEYS
from workbench.transcripts import read_completions, read_verdicts

COMPLETED = [*KEYS, "text", "model", "intervention", "completion", "n_new_tokens", "finish", *TRACE]


@pytest.fixture
def asked(prompts):
    """Six prompts in the order of the table."""
    return prompts.iloc[[0, 3, 9, 12, 17, 20]].reset_index(drop=True)


def answers(asked, **columns):
    table = pd.DataFrame({"prompt_id": asked["prompt_id"], "answer": [f"Reply {i}." for i in range(len(asked))]})
    return table.assign(**columns)


def written(path, table):
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        path.write_text(
            "\n".join(json.dumps(row, ensure_ascii=False) for row in table.to_dict("records")), encoding="utf-8"
        )
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_answers_get_the_keys_of_their_prompts_in_any_order_from_a_file(tmp_path, asked, suffix):
    shuffled = answers(asked).iloc[[4, 0, 5, 2, 1, 3]]
    path = written(tmp_path / f"answers{suffix}", shuffled)
    done = read_completions(path, {"completion": "answer"}, model="outside-1", prompts=asked)
    assert list(done) == COMPLETED and set(done["model"]) == {"outside-1"} and set(done["intervention"]) == {""}
    assert list(done["completion"]) == list(shuffled["answer"])
    expected = asked.set_index("prompt_id").loc[shuffled["prompt_id"]].reset_index()
    for column in (*KEYS, "text"):
        assert list(done[column]) == list(expected[column])
    assert done["n_new_tokens"].isna().all() and done["finish"].isna().all() and done.attrs["notes"] == []


def test_the_table_is_that_of_complete(tiny, home, asked):
    from workbench.completions import complete

    made = complete(tiny("llama"), asked.iloc[:2], max_new_tokens=2, progress=False)
    back = read_completions(made.drop(columns=["model", *KEYS[1:]]), model="m", prompts=asked)
    assert list(back) == list(made) == COMPLETED
    same = [c for c in COMPLETED if c not in ("model", *TRACE)]
    pd.testing.assert_frame_equal(back[same], made[same], check_dtype=False)


def test_answers_are_matched_by_language_and_text_where_there_is_no_id(asked):
    table = (
        answers(asked).drop(columns="prompt_id").assign(code=asked["language"], question="  " + asked["text"] + "\n")
    )
    columns = {"completion": "answer", "language": "code", "text": "question"}
    done = read_completions(table.iloc[::-1], columns, model="m", prompts=asked)
    assert list(done["prompt_id"]) == list(asked["prompt_id"][::-1])
    assert list(done["completion"]) == list(table["answer"][::-1])


def test_without_prompts_the_rows_are_those_of_read_prompts_with_their_own_answers():
    table = pd.DataFrame(
        {
            "text": ["habari", "hello", "ciao", "hi"],
            "language": ["sw", "en", "it", "en"],
            "label": "harmless",
            "answer": ["A-habari", "A-hello", "A-ciao", "A-hi"],
        }
    )
    done = read_completions(table, {"completion": "answer"}, model="m", dataset="mine")
    assert list(done["completion"]) == ["A-" + text for text in done["text"]]
    assert list(done["prompt_id"]) == list(read_prompts(table, dataset="mine")["prompt_id"])
    assert list(done["language"]) == ["en", "en", "it", "sw"]


def test_what_the_file_says_of_length_finish_and_intervention_is_kept(asked):
    table = answers(asked, tokens=["3", "", "5", "6", "7", "8"], finish=["end", "", *["length"] * 4], way="steered")
    columns = {"completion": "answer", "n_new_tokens": "tokens", "intervention": "way"}
    done = read_completions(table, columns, model="m", prompts=asked)
    assert done["n_new_tokens"].tolist() == [3, pd.NA, 5, 6, 7, 8]
    assert done["finish"].dropna().to_dict() == {0: "end"} | dict.fromkeys((2, 3, 4, 5), "length")
    assert set(done["intervention"]) == {"steered"}


def test_one_prompt_may_be_answered_under_several_interventions(asked):
    table = pd.concat([answers(asked, intervention=""), answers(asked, intervention="add")])
    assert len(read_completions(table, {"completion": "answer"}, model="m", prompts=asked)) == 12


def test_prompts_without_an_answer_and_empty_answers_are_noted(asked):
    table = answers(asked).iloc[:4].assign(answer=["", "a", "b", " "])
    done = read_completions(table, {"completion": "answer"}, model="m", prompts=asked)
    assert done.attrs["notes"][0].startswith("2 of 6 prompts have no answer")
    assert done.attrs["notes"][1].startswith("2 answers in the DataFrame are empty")


def test_a_model_behind_an_api_can_be_judged_and_enter_a_gap_table(asked, home):
    from workbench.analysis import gap_table

    done = read_completions(
        answers(asked, answer="I'm sorry, but I can't help with that request."),
        {"completion": "answer"},
        model="m",
        prompts=asked,
    )
    verdicts = judge(done.assign(split="test"), lexicon_judge())
    assert set(verdicts["verdict"]) == {"refusal"}
    scores = done[[*KEYS]].assign(split="test", score=range(len(done)), direction="d", layer=0, position="last_prompt")
    gap = gap_table(scores, verdicts, draws=10)
    assert gap["harmful_refusal"].dropna().eq(1).all() and set(gap["language"]) == set(asked["language"])


# --- verdicts that came with the answers -----------------------------------------------------------------------------


def test_verdicts_that_came_with_the_answers_are_rows_like_any_other_judges(asked):
    table = answers(asked, grade=["1", "0", "?", "", "1", "0"]).iloc[::-1]
    out = read_verdicts(
        table, {"completion": "answer", "verdict": "grade"}, judge="human:Ada", model="m", prompts=asked,
        meaning={"1": "refusal", "0": "compliance", "?": None},
    )  # fmt: skip
    by_id = out.set_index("prompt_id").loc[asked["prompt_id"]]
    assert by_id["verdict"].where(by_id["verdict"].notna(), None).tolist() == [
        "refusal",
        "compliance",
        None,
        None,
        "refusal",
        "compliance",
    ]
    assert set(out["judge"]) == {"human:Ada"} and out["raw"].tolist() == ["0", "1", "", "?", "0", "1"]
    assert (out["reason"] != "").tolist() == [False, False, True, True, False, False]
    done = read_completions(table, {"completion": "answer"}, model="m", prompts=asked)
    assert list(judge(done, lexicon_judge())) == list(out) and list(done["prompt_id"]) == list(out["prompt_id"])


def test_our_own_words_need_no_meaning(asked):
    table = answers(asked, grade=["refusal", "partial", "compliance", "degenerate", "", "refusal"])
    out = read_verdicts(table, {"completion": "answer", "verdict": "grade"}, judge="j", model="m", prompts=asked)
    assert out["verdict"].dropna().tolist() == ["refusal", "partial", "compliance", "degenerate", "refusal"]


@pytest.mark.parametrize(
    ("grades", "meaning", "words"),
    [
        (["no"] * 6, None, "'no' has none"),
        (["1", "2", *["1"] * 4], {"1": "refusal"}, "'2' has none"),
        (["1"] * 6, {"1": "refused"}, "lead to one of"),
    ],
)
def test_a_word_without_a_meaning_is_an_error_and_never_a_guess(asked, grades, meaning, words):
    with pytest.raises(PromptError, match=words):
        read_verdicts(
            answers(asked, grade=grades), {"completion": "answer", "verdict": "grade"}, judge="j", model="m",
            prompts=asked, meaning=meaning,
        )  # fmt: skip


# --- users' mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "columns", "words"),
    [
        (lambda t: t, {}, "column of answers"),
        (lambda t: t, {"completion": "anwser"}, "Did you mean answer"),
        (lambda t: t, {"completions": "answer"}, "Did you mean completion"),
        (lambda t: pd.concat([t, t.iloc[:1]]), {"completion": "answer"}, "one answer under one intervention"),
        (lambda t: t.assign(prompt_id="x"), {"completion": "answer"}, "6 are not, the first in row 0"),
        (lambda t: t.drop(columns="prompt_id"), {"completion": "answer"}, "prompt_id or by language and text"),
        (
            lambda t: t.assign(answer=[None, 1, "a", "b", "c", "d"]),
            {"completion": "answer"},
            "2 are not, the first in row 0",
        ),
        (lambda t: t.assign(n_new_tokens="many"), {"completion": "answer"}, "whole numbers"),
        (lambda t: t.assign(n_new_tokens="1.5"), {"completion": "answer"}, "whole numbers"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_words(asked, change, columns, words):
    with pytest.raises(PromptError, match=words):
        read_completions(change(answers(asked)), columns, model="m", prompts=asked)


def test_what_the_prompts_say_cannot_be_said_again(asked):
    with pytest.raises(PromptError, match="only without prompts"):
        read_completions(answers(asked), {"completion": "answer"}, model="m", prompts=asked, label="harmful")
    by_text = answers(asked).drop(columns="prompt_id").assign(text=asked["text"], language=asked["language"])
    with pytest.raises(PromptError, match="given once"):
        read_completions(by_text, {"completion": "answer"}, model="m", prompts=asked, language="en")
