"""deploy/monitoring without a running system: configurations, rules, their tests, and the runbook."""

import re
import subprocess

import pytest
import yaml

from harness.paths import SOURCE

MONITORING = SOURCE / "deploy/monitoring"


def load(name):
    return yaml.safe_load((MONITORING / name).read_text(encoding="utf-8"))


RULES = [rule for group in load("rules.yaml")["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def assert_succeeds(*command):
    result = run(*command)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", ["prometheus.yaml", "prometheus-local.yaml"])
def test_promtool_accepts_the_configuration(name):
    assert_succeeds("promtool", "check", "config", MONITORING / name)


def test_promtool_accepts_the_rules_and_they_pass_their_tests():
    assert_succeeds("promtool", "check", "rules", MONITORING / "rules.yaml")
    assert_succeeds("promtool", "test", "rules", MONITORING / "rules_test.yaml")


def test_amtool_accepts_the_alertmanager_example():
    assert_succeeds("amtool", "check-config", MONITORING / "alertmanager.yaml")


def test_each_alert_is_tested_where_it_fires_and_where_not():
    outcomes = {}
    for test in load("rules_test.yaml")["tests"]:
        for case in test["alert_rule_test"]:
            outcomes.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    assert outcomes == dict.fromkeys(ALERTS, {True, False})


@pytest.mark.parametrize("alert", ALERTS)
def test_the_tests_notice_an_alert_that_never_fires(alert, tmp_path):
    rules, tests = load("rules.yaml"), load("rules_test.yaml")
    for group in rules["groups"]:
        for rule in group["rules"]:
            if rule.get("alert") == alert:
                rule["expr"] = "vector(0) > 1"
    tests["tests"] = [test for test in tests["tests"]
                      if any(case["alertname"] == alert for case in test["alert_rule_test"])]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules), encoding="utf-8")
    (tmp_path / "rules_test.yaml").write_text(yaml.safe_dump(tests), encoding="utf-8")
    result = run("promtool", "test", "rules", tmp_path / "rules_test.yaml")
    assert result.returncode != 0 and f"alertname: {alert}" in result.stdout + result.stderr, result


def test_each_alert_has_a_severity_and_a_section_in_the_runbook():
    runbook = (SOURCE / "docs/runbook.md").read_text(encoding="utf-8")
    sections = {"".join(title.lower().split()) for title in re.findall(r"^## (.+)$", runbook, re.M)}
    for alert, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("page", "warning"), alert
        path, anchor = rule["annotations"]["runbook_url"].split("#")
        assert path == "docs/runbook.md" and anchor == alert.lower() and anchor in sections, rule
    assert {section for section in sections if section.startswith("tandem")} == {name.lower() for name in ALERTS}
