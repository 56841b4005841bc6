"""The embedded set, its variants, and what `load_prompts` answers to requests that cannot be met."""

import inspect
import unicodedata

import pandas as pd
import pytest

from workbench.errors import PromptError
from workbench.languages import LANGUAGES, in_script
from workbench.prompts import EMBEDDED, load_prompts, pairs_table, read_prompts
from workbench.rows import COLUMNS, groups

STUDY = [code for code, known in LANGUAGES.items() if known.tier != "outside"]


@pytest.fixture(scope="module")
def prompts() -> pd.DataFrame:
    return load_prompts()


@pytest.fixture
def own(tmp_path) -> str:
    path = tmp_path / "own.csv"
    path.write_text("text,language,label\nGive me bread,en,harmless\nGive me poison,en,harmful\nNipe sumu,sw,harmful\n")
    return str(path)


@pytest.mark.parametrize("code", STUDY)
def test_every_language_has_all_pairs(prompts, code):
    part = prompts[prompts.language == code]
    assert len(part) == 256
    assert part.groupby("harm_type").pair_id.nunique().eq(16).all() and part.harm_type.nunique() == 8
    assert part[part.scope == "local"].groupby("harm_type").pair_id.nunique().eq(3).all()
    assert part.groupby("pair_id").label.agg(lambda labels: " ".join(sorted(labels))).eq("harmful harmless").all()
    assert part.groupby("split").pair_id.nunique().to_dict() == {"train": 40, "val": 24, "test": 64}
    assert part.groupby(["split", "harm_type"]).pair_id.nunique().groupby("split").nunique().eq(1).all()
    assert (part.source_text != "").all()


def test_the_table_keeps_the_contract(prompts):
    assert tuple(prompts.columns) == COLUMNS
    assert prompts.prompt_id.is_unique
    assert prompts.groupby(groups(prompts))["split"].nunique().eq(1).all()
    assert prompts.attrs["notes"] == []
    assert prompts.n_chars.eq(prompts.text.str.len()).all()


def test_languages_are_kept_as_asked(prompts):
    some = load_prompts(EMBEDDED, ["sw", "en"])
    assert set(some.language) == {"sw", "en"}
    same = prompts[prompts.language.isin(["sw", "en"])]
    assert set(some.prompt_id) == set(same.prompt_id)


def test_test_pairs_are_cut_per_type_and_others_stay(prompts):
    few = load_prompts(languages=["en"], test_pairs_per_type=2)
    assert few[few.split == "test"].groupby("harm_type").pair_id.nunique().eq(2).all()
    assert few.groupby("split").pair_id.nunique().to_dict() == {"train": 40, "val": 24, "test": 16}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"languages": ["sv"]}, "got 'sv'.*Did you mean"),
        ({"languages": ["Swahili"]}, "is called 'sw' here"),
        ({"languages": "sw"}, r"Write languages=\['sw'\]"),
        ({"languages": []}, "It has en"),
        ({"languages": ["vi"]}, "lacks"),
        ({"test_pairs_per_type": 9}, "got 9, there are 8 of .*Ask for 8 or fewer"),
        ({"test_pairs_per_type": -1}, "0 or more"),
        ({"reviewed_only": True}, "reviewed as good"),
        ({"variant": "latin"}, "variant must be 'romanised'"),
        ({"harmless_from": EMBEDDED}, "without harmless prompts; parallel-23 has"),
        ({"name_or_path": "paralel-23"}, "Did you mean parallel-23"),
        ({"name_or_path": ""}, "a hub id"),
        ({"name_or_path": "multijail"}, "followed by where you have it"),
        ({"name_or_path": "multijail:/nowhere"}, "there is no /nowhere"),
        ({"name_or_path": "folder/nothing.csv"}, "file or folder that is there"),
        ({"name_or_path": "a\0b"}, "file or folder"),
        ({"name_or_path": "x" * 5000}, "file or folder"),
    ],
)
def test_requests_that_cannot_be_met_say_why(arguments, message):
    with pytest.raises(PromptError, match=message):
        load_prompts(**arguments)


def test_half_a_pair_cannot_be_asked_for():
    with pytest.raises(PromptError, match="whole number"):
        inspect.unwrap(load_prompts)(test_pairs_per_type=1.5)  # unwrapped: pytest checks the types of arguments


def test_romanised_prompts_are_latin_and_keep_their_group():
    plain = load_prompts(languages=["sw", "ru", "am"], test_pairs_per_type=1)
    latin = load_prompts(languages=["sw", "ru", "am"], test_pairs_per_type=1, variant="romanised")
    assert latin.dataset.unique().tolist() == ["parallel-23-romanised"]
    for column in ("parallel_id", "pair_id", "language", "label", "split", "source_text"):
        assert latin[column].tolist() == plain[column].tolist()
    assert not set(latin.prompt_id) & set(plain.prompt_id) and latin.prompt_id.is_unique
    same = latin.text == plain.text
    assert same[plain.language == "sw"].all() and not same[plain.language != "sw"].any()
    assert all(in_script(text, "Latin") == 1 and unicodedata.is_normalized("NFC", text) for text in latin.text)
    assert latin.n_chars.eq(latin.text.str.len()).all()
    assert "uroman" in latin.attrs["notes"][-1]


def test_pairs_stand_side_by_side_with_their_english(prompts):
    table = pairs_table(prompts, "sw", "fraud")
    assert len(table) == 16 and table.pair_id.is_unique
    names = ["pair_id", "harm_type", "scope", "split", "harmful", "harmless", "harmful_en", "harmless_en"]
    assert list(table.columns) == names
    row = prompts[(prompts.language == "sw") & (prompts.label == "harmless") & (prompts.pair_id == table.pair_id[3])]
    assert table.harmless[3] == row.text.item() and table.harmless_en[3] == row.source_text.item()
    assert len(pairs_table(prompts, "sw")) == 128


@pytest.mark.parametrize(("request_", "message"), [(("xx", None), "language must be"), (("sw", "fruad"), "mean fraud")])
def test_pairs_that_are_not_there_are_named(prompts, request_, message):
    with pytest.raises(PromptError, match=message):
        pairs_table(prompts, *request_)


def test_a_set_without_pairs_cannot_stand_side_by_side(own):
    with pytest.raises(PromptError, match="Only a set of pairs"):
        pairs_table(load_prompts(own), "en")


def test_a_path_with_our_columns_is_recognised(own):
    prompts = load_prompts(own)
    assert prompts.language.tolist() == ["en", "en", "sw"]
    assert prompts.dataset.unique().tolist() == ["own"]
    assert prompts.attrs["notes"][0].startswith("No harmless prompts in sw")


def test_notes_follow_the_languages_that_are_kept(own):
    assert load_prompts(own, ["en"]).attrs["notes"] == []
    assert load_prompts(own, ["sw"]).language.unique().tolist() == ["sw"]
    with pytest.raises(PromptError, match="lacks"):
        load_prompts(own, ["de"])


def test_test_pairs_of_a_set_without_pairs_cannot_be_counted(own):
    with pytest.raises(PromptError, match="is for sets of pairs"):
        load_prompts(own, test_pairs_per_type=1)


def test_harmless_prompts_are_borrowed_where_both_sets_have_the_language(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "poison", "language": "sw", "label": "harmful"}\n' * 1)
    both = load_prompts(path, harmless_from=EMBEDDED)
    assert both.groupby("label").dataset.unique().map(list).to_dict() == {
        "harmful": ["bad"],
        "harmless": [EMBEDDED],
    }
    assert set(both.language) == {"sw"} and both.prompt_id.is_unique
    assert both.attrs["notes"] == [
        "Borrowed 128 harmless prompts from parallel-23; they are not paired with the harmful ones."
    ]
    only_vi = tmp_path / "vi.csv"
    only_vi.write_text("text,language,label\nabc,vi,harmful\n")
    with pytest.raises(PromptError, match="harmless_from must name a set"):
        load_prompts(only_vi, harmless_from=EMBEDDED)


def test_read_prompts_is_the_same_door(own):
    pd.testing.assert_frame_equal(read_prompts(own), load_prompts(own))
