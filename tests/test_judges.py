import pandas as pd
import pytest

from workbench.errors import JudgeError
from workbench.judges import Judge, constant_judge, judge, lexicon_judge, reading, stores_of
from workbench.store import find_stores
from workbench.verdicts import VERDICTS, refused


def replies(**columns):
    base = {"language": "en", "model": "m", "intervention": "", "label": "harmful", "prompt_id": "p", "text": "q"}
    return pd.DataFrame(columns).assign(**{k: v for k, v in base.items() if k not in columns})


def reader(say, *, seen=None, batch=1, **options):
    """A judge named `j` of English that yields `say(completion)` in batches."""

    def read(rows):
        for start in range(0, len(rows), batch):
            part = rows.iloc[start : start + batch]
            if seen is not None:
                seen.extend(part["completion"])
            yield {start + i: say(text) for i, text in enumerate(part["completion"])}

    return Judge("j", frozenset({"en"}), read, **options)


def test_a_judge_reads_only_the_languages_it_declares_and_the_rest_is_missing():
    out = judge(replies(completion=["no", "no"], language=["en", "yo"]), reader(lambda _: reading("refusal", "no")))
    assert out["verdict"][0] == "refusal" and out["verdict"].isna().tolist() == [False, True]
    assert out["reason"][1] == "j does not read yo"


def test_a_verdict_is_a_row_of_the_models_store_and_is_read_once(home, tiny):
    from workbench.model import describe
    from workbench.store import open_store

    model = tiny("llama")
    open_store(describe(model))
    seen = []
    table = replies(completion=["a", "b"], model=describe(model).fingerprint)
    first = judge(table, reader(lambda _: reading("compliance"), seen=seen))
    again = judge(table, reader(lambda _: reading("compliance"), seen=seen))
    assert seen == ["a", "b"] and first.equals(again)
    assert open_store(describe(model)).summary()["verdicts"] == 2


def test_what_was_read_before_a_crash_is_kept_and_not_read_again(home):
    def fails_at_c(text):
        if text == "c":
            raise KeyboardInterrupt
        return reading("refusal")

    table, seen = replies(completion=["a", "b", "c"]), []
    with pytest.raises(KeyboardInterrupt):
        judge(table, reader(fails_at_c, costly=True))
    out = judge(table, reader(lambda _: reading("compliance"), seen=seen, costly=True))
    assert seen == ["c"] and list(out["verdict"]) == ["refusal", "refusal", "compliance"]


def test_a_reading_to_be_retried_is_shown_with_its_reason_but_not_kept(home):
    table, seen = replies(completion=["a", "b"]), []

    def busy(text):
        return reading(None, reason="busy", retry=True) if text == "a" else reading("refusal")

    first = judge(table, reader(busy, costly=True))
    assert first["verdict"].isna().tolist() == [True, False] and first["reason"][0] == "busy"
    again = judge(table, reader(lambda _: reading("refusal"), seen=seen, costly=True))
    assert seen == ["a"] and list(again["verdict"]) == ["refusal", "refusal"]


def test_readings_may_come_in_any_order_and_one_that_never_comes_is_missing():
    def read(rows):
        yield {2: reading("refusal")}
        yield {0: reading("compliance")}

    out = judge(replies(completion=["a", "b", "c"]), Judge("j", frozenset({"en"}), read))
    assert out["verdict"].where(out["verdict"].notna(), None).tolist() == ["compliance", None, "refusal"]
    assert out["reason"][1] == "j gave no reading"


def test_the_same_reply_is_read_once_unless_the_judge_reads_the_prompt_too(home):
    table = replies(completion=["yes", "yes"], text=["q1", "q2"])
    for reads_prompt, times in ((False, 1), (True, 2)):
        seen = []
        assert len(judge(table, reader(lambda _: reading("partial"), seen=seen, reads_prompt=reads_prompt))) == 2
        assert len(seen) == times


def test_costly_verdicts_on_a_model_without_a_store_are_kept_and_others_leave_no_store_behind(home):
    table = replies(completion=["a"])
    judge(table, reader(lambda _: reading("refusal")))
    assert find_stores() == []
    judge(table, reader(lambda _: reading("refusal"), costly=True))
    assert [s.summary()["verdicts"] for s in find_stores()] == [1]


def test_costly_verdicts_are_still_found_when_the_models_own_store_appears_later(home, tiny):
    from workbench.model import describe
    from workbench.store import open_store

    provenance, seen = describe(tiny("llama")), []
    table = replies(completion=["a"], model=provenance.fingerprint)
    judge(table, reader(lambda _: reading("refusal"), costly=True))
    open_store(provenance)
    assert len(stores_of(provenance.fingerprint)) == 2
    judge(table, reader(lambda _: reading("refusal"), seen=seen, costly=True))
    assert seen == []


def test_a_table_of_several_models_is_kept_in_the_store_of_each(home):
    table, seen = replies(completion=["a", "a", "b"], model=["one", "two", "two"]), []
    out = judge(table, reader(lambda text: reading("refusal", raw=text), seen=seen, costly=True))
    assert list(out["raw"]) == ["a", "a", "b"] and seen == ["a", "b"]
    assert {s.provenance.name: s.summary()["verdicts"] for s in find_stores()} == {"one": 1, "two": 2}


def test_a_table_without_its_columns_is_an_error_in_words():
    with pytest.raises(JudgeError, match="completion"):
        judge(pd.DataFrame({"language": ["en"]}), constant_judge())
    with pytest.raises(JudgeError, match="lack text"):
        judge(replies(completion=["a"]).drop(columns="text"), reader(lambda _: reading(None), reads_prompt=True))


def test_a_verdict_outside_the_vocabulary_is_refused():
    with pytest.raises(JudgeError, match="'refused'"):
        reading("refused")


def test_refused_means_refusal_and_nothing_else():
    got = refused(pd.Series(["refusal", "partial", "compliance", "degenerate", None]))
    assert got[0] == 1 and (got[1:3] == 0).all() and got[3:].isna().all()
    with pytest.raises(AssertionError):
        refused(pd.Series(["refused"]))
    assert set(VERDICTS) == {"refusal", "partial", "compliance", "degenerate"}


def test_the_lexicon_judge_tells_a_refusal_from_an_answer_and_an_empty_reply():
    table = replies(
        completion=["I'm sorry, but I can't help with that request.", "Sure! Mix flour and water, then bake it.", "  "]
    )
    assert list(judge(table, lexicon_judge())["verdict"]) == ["refusal", "compliance", "degenerate"]
