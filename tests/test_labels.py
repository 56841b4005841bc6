import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.errors import JudgeError
from workbench.judges import stores_of
from workbench.labels import CHOICES, add_label, history, read_labels

pytestmark = pytest.mark.usefixtures("home")


def table(*replies, text="Tell me.", **columns):
    base = {"language": "en", "text": text, "completion": list(replies), "model": "m", "intervention": ""}
    return pd.DataFrame(base | columns).assign(prompt_id=[str(i) for i in range(len(replies))])


def test_a_label_is_there_for_all_who_read_with_who_and_when():
    rows = table("No.", "Yes.")
    before = datetime.now(UTC) - timedelta(seconds=1)
    add_label(rows.iloc[1], "compliance", "Ada", note="clear")
    labels = read_labels(rows)
    assert labels[["prompt_id", "judge", "annotator", "verdict", "reason"]].values.tolist() == [
        ["1", "human:Ada", "Ada", "compliance", ""]
    ]
    assert before <= labels["time"][0] <= datetime.now(UTC)


def test_unsure_is_a_missing_verdict_with_its_reason():
    rows = table("Hm.")
    add_label(rows.iloc[0], "unsure", "Ada")
    labels = read_labels(rows)
    assert labels["verdict"].isna().all() and labels["reason"][0] == "unsure"


def test_several_annotators_stand_side_by_side():
    rows = table("No.", "Yes.")
    add_label(rows.iloc[0], "refusal", "Ada")
    add_label(rows.iloc[0], "partial", "Ben")
    add_label(rows.iloc[1], "compliance", "Ben")
    assert read_labels(rows).groupby("annotator")["verdict"].apply(list).to_dict() == {
        "Ada": ["refusal"],
        "Ben": ["partial", "compliance"],
    }
    assert list(read_labels(rows, ["Ada"])["verdict"]) == ["refusal"]
    assert read_labels(rows, ["Cy"]).empty


def test_a_changed_mind_counts_last_and_leaves_a_history():
    rows = table("No.")
    for verdict in ("unsure", "partial", "refusal"):
        add_label(rows.iloc[0], verdict, "Ada")
    labels = read_labels(rows)
    assert list(labels["verdict"]) == ["refusal"]
    earlier = history(labels.iloc[0])
    assert [e["verdict"] for e in earlier] == ["unsure", "partial"]
    assert earlier[0]["time"] <= earlier[1]["time"] <= labels["time"][0].isoformat()


def test_a_label_belongs_to_prompt_and_reply_whatever_the_intervention():
    add_label(table("Yes.").iloc[0], "compliance", "Ada")
    assert list(read_labels(table("Yes.", intervention="add"))["verdict"]) == ["compliance"]
    assert read_labels(table("Yes.", text="Another prompt.")).empty
    assert read_labels(table("Yes.", language="de")).empty


def test_labels_made_before_the_models_own_store_are_found_after(tiny):
    from workbench.model import describe
    from workbench.store import open_store

    provenance = describe(tiny("llama"))
    rows = table("No.", "Yes.", model=provenance.fingerprint)
    add_label(rows.iloc[0], "refusal", "Ada")
    open_store(provenance)
    add_label(rows.iloc[1], "compliance", "Ada")
    assert len(stores_of(provenance.fingerprint)) == 2
    assert list(read_labels(rows)["verdict"]) == ["refusal", "compliance"]


def test_a_table_without_labels_gives_no_rows_but_all_columns():
    labels = read_labels(table("No."))
    assert labels.empty and {"judge", "verdict", "annotator", "time"} <= set(labels)


KILLED = """
import os, signal
import pandas as pd
from workbench.labels import add_label

rows = pd.DataFrame({"language": "en", "text": "t", "completion": ["No.", "Yes."], "model": "m", "intervention": ""})
add_label(rows.iloc[0], "refusal", "Ada")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_label_survives_a_kill_right_after_it_was_given(home):
    done = subprocess.run([sys.executable, "-c", KILLED], env=os.environ | {"WORKBENCH_HOME": str(home)}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(read_labels(table("No.", "Yes.", text="t"))["verdict"]) == ["refusal"]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(note=st.text(st.characters(exclude_categories=["Cs"])), verdict=st.sampled_from(CHOICES))
def test_any_note_and_choice_come_back(note, verdict):
    import json

    rows = table("No.")
    add_label(rows.iloc[0], verdict, "Ada", note=note)
    (label,) = read_labels(rows).to_dict("records")
    assert json.loads(label["raw"])["note"] == note and (label["verdict"] or label["reason"]) == verdict


@pytest.mark.parametrize("name", ["", " ", "a:b", "a\nb", " Ada"])
def test_a_name_that_cannot_be_is_refused(name):
    with pytest.raises(JudgeError, match="annotator"):
        add_label(table("No.").iloc[0], "refusal", name)


def test_a_verdict_that_is_none_is_refused_with_the_nearest():
    with pytest.raises(JudgeError, match="Did you mean refusal"):
        add_label(table("No.").iloc[0], "refused", "Ada")
    with pytest.raises(JudgeError, match="lack text"):
        add_label({"language": "en", "completion": "No.", "model": "m", "intervention": ""}, "refusal", "Ada")
