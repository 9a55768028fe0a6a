"""What `rlhf doctor` looks at without a cluster, how it tells what it found, and the rules that it goes by."""

from __future__ import annotations

import yaml

from components.launcher.rules import role_rules
from pipelines.doctor import examination, here
from pipelines.doctor.examination import as_dict, as_text
from pipelines.doctor.stored import check_store
from tests.support.commands import ROOT, rlhf
from tests.support.namespaces import _RULES


def test_without_a_kubeconfig_only_this_machine_is_looked_at(tmp_path):
    result = rlhf("doctor", "--store", str(tmp_path), KUBECONFIG="", HOME=str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "cluster: no kubeconfig" in result.stdout
    assert "store" in result.stdout


def test_a_store_that_cannot_be_written_fails_and_nothing_is_left_in_one_that_can(tmp_path):
    store = tmp_path / "store"

    def look():
        (found,) = check_store(str(store))
        return found

    assert "will be made" in look().what
    assert not store.exists()
    store.mkdir()
    assert look().state == "ok"
    assert [path for path in store.rglob("*") if path.is_file()] == []
    (store / "runs").rmdir()
    (store / "runs").write_text("in the way")
    assert look().state == "failed"


def test_the_stock_kfp_is_told_from_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(here.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "kfp").write_text("from kfp.cli.__main__ import main")
    (tmp_path / "kfp").chmod(0o755)
    assert next(here.check_kfp()).state == "warning"
    (tmp_path / "kfp").write_text("from pipelines.cli.kfp_command import main")
    assert next(here.check_kfp()).state == "ok"


def test_a_package_of_another_version_is_named(monkeypatch):
    version = here.metadata.version
    monkeypatch.setattr(here.metadata, "version", lambda name: "0.1" if name == "numpy" else version(name))
    found = {finding.name: finding for finding in here.check_packages()}
    assert (found["packages"].state, "numpy 0.1 is not" in found["packages"].what) == ("failed", True)


def test_remedies_are_shown_below_what_is_wrong():
    bad = examination.Finding("nodes", "failed", "none", "add some")
    shown = as_text(examination.Examination((examination.Finding("Python", "ok", "3.11"),), (bad,)))
    assert shown.splitlines()[-2:] == ["  FAIL  nodes   none", "                → add some"]
    assert as_dict(examination.Examination((), (bad,)))["passed"] is False


def test_the_rules_are_those_of_the_chart_and_of_the_cluster_tests():
    chart = (ROOT / "charts/rlhf-stack/templates/accounts/launcher.yaml").read_text()
    rules = chart[chart.index("rules:") : chart.index("---", chart.index("rules:"))]
    plain = "\n".join(line for line in rules.splitlines() if "{{" not in line)
    granted = _rights(yaml.safe_load(plain)["rules"])
    ours = _rights(role_rules())
    assert ours <= granted
    assert {resource for _, resource, _ in granted - ours} <= {"workflows", "workflowtaskresults"}
    assert ours == _rights(_RULES)


def _rights(rules):
    return {(g, r, v) for rule in rules for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]}
