"""What a study does with a model beyond watching it, on a random-weight model: each leaves its table, true to the others."""

import pandas as pd
import pytest
from typer.testing import CliRunner

from workbench import experiments
from workbench.errors import WorkbenchError
from workbench.judges import Judge, reading
from workbench.model import load_model
from workbench.study import Study, analyse, open_study, run


def _by_length():
    """A judge of its own for replies that mean nothing: half of them refuse, by their length."""

    def read(rows: pd.DataFrame):
        yield {
            i: reading("refusal" if len(text) % 2 else "compliance", reply_language="en")
            for i, text in enumerate(rows["completion"])
        }

    return Judge("by-length", frozenset({"en", "sw"}), read)


@pytest.fixture(scope="module")
def opened(tmp_path_factory, model_folder):
    path = tmp_path_factory.mktemp("experiments")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(path / "home"))
        for module in ("study", "experiments"):
            patch.setattr(f"workbench.{module}.lexicon_judge", _by_length)
        what = Study(
            model=str(model_folder("qwen2")), languages=("en", "sw"), test_pairs_per_type=1, max_new_tokens=4,
            completed=("val", "test"),
        )  # fmt: skip
        model = load_model(what.model, device="cpu")
        yield run(what, path / "results", model), model


def test_steering_leaves_the_effect_of_every_repair_and_a_baseline_equal_to_the_gap_table(opened):
    study, model = opened
    said = []
    done = experiments.steer_study(study, model, pairs_per_type=1, say=said.append)
    names = set(done.effects["name"])
    assert {"baseline", "add", "ablate", "conditional b=0", "conditional b=1", "conditional b=4"} <= names
    left_out = {name for name in ("CAST", "AdaSteer") if any(f"{name} is left out" in line for line in said)}
    assert names | left_out >= {"CAST", "AdaSteer"}
    base = done.effects.query("name == 'baseline' and measure == 'delta' and language != '' and relative_to == ''")
    assert list(base.set_index("language")["value"][["en", "sw"]]) == pytest.approx(list(study.gap["delta"]))
    plain = done.steered.query("name == 'baseline'").set_index("prompt_id")["completion"]
    test = study.completions.query("split == 'test'").set_index("prompt_id")["completion"]
    assert plain.sort_index().equals(test.sort_index())
    fired = done.steered[done.steered["name"].str.startswith("conditional")]["fired"]
    assert fired.notna().all()


def test_utility_feeds_the_comprehension_column_of_the_budget(opened):
    study, model = opened
    done = experiments.utility_study(study, model, per_language=8)
    assert set(done.utility["name"]) == {"baseline", "add", "conditional b=0"}
    known = done.utility.query("name == 'baseline' and language != '' and relative_to == ''")
    accuracy = known.set_index("language")["value"]
    budget = analyse(study).budget.drop_duplicates("language").set_index("language")["comprehension"]
    assert budget.to_dict() == pytest.approx(accuracy.to_dict())


def test_a_strength_sweep_begins_at_nothing_and_counts_in_shares_of_the_gap(opened):
    study, model = opened
    done = experiments.sweep_study(study, model, strengths=(0.5, 1.0))
    assert sorted(done.strengths["strength"].unique()) == pytest.approx([0, 0.5, 1.0])


def test_every_layer_is_tried_on_validation_prompts(opened):
    study, model = opened
    done = experiments.layers_study(study, model)
    assert set(done.layers["layer"].dropna()) == {0, 1, 2, 3}


def test_inversion_asks_with_both_directions(opened):
    study, model = opened
    done = experiments.invert_study(study, model, pairs_per_type=1)
    assert set(done.inversion["name"]) == {
        *("baseline", "harmfulness", "minus harmfulness", "refusal", "minus refusal")
    }


def test_another_model_is_refused_in_words(opened, tiny):
    with pytest.raises(WorkbenchError, match="must be the study's"):
        experiments.sweep_study(opened[0], tiny("llama"))


def test_the_commands_print_their_tables(opened, monkeypatch):
    from workbench.cli import app

    study, model = opened
    monkeypatch.setattr("workbench.model.load_model", lambda name: model)
    for command in (["steer", "--pairs", "1"], ["utility", "--per-language", "8"], ["sweep"], ["layers"], ["invert"]):
        done = CliRunner().invoke(app, [*command, "--study", str(open_study(study.path).path)])
        assert done.exit_code == 0, done.output
        assert "high" in done.output and "low" in done.output, command
