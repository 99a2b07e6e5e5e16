"""Names of classes: whatever a label is called, a bundle, a topic and the store of alerts take it."""

from __future__ import annotations

import pytest

from edge.alerts.policy import AlertPolicy, class_code
from edge.runtime.bundle import load_bundle
from edge.stream.topics import alert_topic, check_identifier
from export.bundle import write_bundle
from tests.windowed_bundles import windowed_checkpoint
from trainer.ptbxl import read_statements
from trainer.streams.alerts import policy_of
from trainer.tasks import LabelTableError, class_name, read_table_labels

AWKWARD = {
    "LAO/LAE": "LAO-LAE",
    "RAO/RAE": "RAO-RAE",
    "PRC(S)": "PRC-S",
    "ISC_": "ISC_",
    "1AVB": "1AVB",
    "NORM": "NORM",
    "ST elevation, any": "ST-elevation-any",
    "_private": "private",
}


@pytest.mark.parametrize(("label", "name"), AWKWARD.items())
def test_a_label_is_named_as_a_bundle_can_carry_it_and_stays_what_it_was_where_it_can(label, name):
    assert class_name(label) == name
    assert class_name(name) == name


def test_all_statements_of_ptbxl_have_names_codes_and_topics_of_their_own(ptbxl_root):
    statements = list(read_statements(ptbxl_root))
    names = [class_name(code) for code in statements]
    assert len(statements) == len(set(names)) == len({class_code(name) for name in names}) == 71
    assert sum(name != code for name, code in zip(names, statements, strict=True)) == 3
    topics = {alert_topic("bed-1", check_identifier(class_code(name))) for name in names}
    assert len(topics) == 71


def test_a_bundle_of_awkwardly_named_classes_is_written_and_its_alerts_have_topics(tmp_path):
    classes = [class_name(label) for label in AWKWARD]
    bundle = write_bundle(windowed_checkpoint("simple-cnn-1d", classes=classes), tmp_path / "b", "cnn", "0.1")
    manifest = load_bundle(bundle.path).manifest
    assert manifest.classes == classes
    policy: AlertPolicy = policy_of(manifest)
    assert [alert_topic("bed-1", class_code(name)) for name in policy.alerting[:4]] == [
        "ecg/v1/bed-1/alert/lao-lae",
        "ecg/v1/bed-1/alert/rao-rae",
        "ecg/v1/bed-1/alert/prc-s",
        "ecg/v1/bed-1/alert/isc_",
    ]


def test_a_users_columns_are_named_alike_and_two_that_become_one_are_refused(tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text("ecg_id,STEMI (acute),ACS/MI\n1,0,1\n")
    assert read_table_labels(table)[1] == ("STEMI-acute", "ACS-MI")
    for header, problem in (("A/B,A-B", "same name"), ("A,???", "has none"), ("A," + "b" * 65, "64 letters")):
        table.write_text(f"ecg_id,{header}\n1,0,1\n")
        with pytest.raises(LabelTableError, match=problem):
            read_table_labels(table)
