"""Rules and scrape configuration, held against promtool and a live /metrics."""

import re
import subprocess

import pytest
import yaml
from conftest import DEPLOY, PATIENCE_S, eventually, run, tool
from tandem.v1 import generate_pb2, generation_pb2_grpc

PROMETHEUS = DEPLOY / "prometheus"
RULES = PROMETHEUS / "rules.yaml"
# Our names in an expression or a text. `tandem:` names are made by recording rules.
METRIC = re.compile(r"\b(?:vllm:|tandem[:_])[a-z]\w*(?::\w+)*")
# What vLLM's names break, as promtool says it; we keep them because dashboards know them.
KNOWN_COMPLAINTS = re.compile(
    r"vllm:\w+ metric names should not contain ':'"
    r"|vllm:iteration_tokens_total non-counter metrics should not have \"_total\" suffix")


def rules():
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def metrics(server):
    """The text of /metrics after a request, with all families in it."""
    request = generate_pb2.GenerateRequest(text="The quick brown fox")
    request.stopping.max_tokens = 4
    with server.channel() as channel:
        generation_pb2_grpc.GenerationStub(channel).Generate(request, timeout=PATIENCE_S)
    # Counted when the call has ended, which its client sees a moment earlier.
    eventually(lambda: "tandem_grpc_requests_total{" in server.http("/metrics"))
    return server.http("/metrics")


@pytest.fixture(scope="module")
def series(metrics):
    """The sets of labels of each series, by name; label values as text."""
    found = {}
    for line in metrics.splitlines():
        if match := re.match(r"([\w:]+)\{(.*)\} ", line):
            found.setdefault(match[1], []).append(dict(re.findall(r'(\w+)="([^"]*)"', match[2])))
    return found


def test_promtool_accepts_the_rules_and_the_configuration():
    promtool = tool("promtool")
    assert "SUCCESS" in run(promtool, "check", "rules", "--lint-fatal", str(RULES))
    assert "SUCCESS" in run(promtool, "check", "config", str(PROMETHEUS / "scrape.yaml"))


def test_the_rules_do_what_their_tests_say():
    assert "SUCCESS" in run(tool("promtool"), "test", "rules", str(PROMETHEUS / "rules_test.yaml"))


def test_every_rule_is_tested():
    tests = yaml.safe_load((PROMETHEUS / "rules_test.yaml").read_text())["tests"]
    fired = {alert["alertname"] for test in tests for alert in test.get("alert_rule_test", [])
             if alert.get("exp_alerts")}
    quiet = {alert["alertname"] for test in tests for alert in test.get("alert_rule_test", [])
             if not alert.get("exp_alerts")}
    evaluated = {check["expr"] for test in tests for check in test.get("promql_expr_test", [])}
    for rule in rules():
        if "alert" in rule:
            assert rule["alert"] in fired & quiet
        else:
            assert rule["record"] in evaluated


def test_alerts_say_how_bad_and_what_it_is():
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert set(rule["annotations"]) == {"summary", "description"}


def test_rules_ask_for_series_and_labels_that_exist(series):
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    used = set()
    for rule in rules():
        texts = [rule["expr"], *rule.get("annotations", {}).values()]
        used.update(name for text in texts for name in METRIC.findall(text))
        for name, matchers in re.findall(r"([\w:]+)\{([^}]*)\}", rule["expr"]):
            if name == "up":
                assert matchers == 'job="tandem"'
                continue
            for label, value in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
                values = {labels[label] for labels in series[name]}
                # Codes appear with their first call; causes are there from the start.
                assert label == "code" or set(value.split("|")) <= values
    assert used - set(series) <= recorded
    assert {name for name in used if name.startswith("tandem:")} <= recorded
    assert len(used) > 10


def test_the_labels_that_rules_aggregate_away_are_there(series):
    for rule in rules():
        for labels, names in re.findall(r"without \(([^)]*)\) \(([^)]*)\)", rule["expr"]):
            added_by_prometheus = {"instance", "pod"}
            for name in METRIC.findall(names):
                assert set(labels.split(", ")) - added_by_prometheus <= set(series[name][0])


def test_the_documentation_names_metrics_that_exist(series):
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in series}
    names = set()
    for file in [*DEPLOY.rglob("*.md"), *DEPLOY.glob("kubernetes/**/*.yaml")]:
        names.update(METRIC.findall(file.read_text()))
    unknown = names - set(series) - families - recorded
    assert not unknown


def test_the_documentation_has_every_alert():
    text = (DEPLOY / "README.md").read_text()
    named = set(re.findall(r"\bTandem[A-Z]\w+", text))
    assert named == {rule["alert"] for rule in rules() if "alert" in rule}


def test_texts_name_settings_that_exist(program):
    settings = set(re.findall(r"^(?:# )?(\w+) = ", run(program, "config"), flags=re.MULTILINE))
    readme = METRIC.sub("", (DEPLOY / "README.md").read_text())
    words = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", readme))
    for rule in rules():
        for text in rule.get("annotations", {}).values():
            plain = METRIC.sub("", re.sub(r"{{.*?}}", "", text))
            words.update(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", plain))
    assert len(words) > 5 and not words - settings


def test_metric_names_follow_the_conventions(metrics):
    complaints = []
    done = subprocess.run([tool("promtool"), "check", "metrics"], input=metrics, text=True,
                          capture_output=True, timeout=PATIENCE_S)
    for line in (done.stdout + done.stderr).splitlines():
        if not KNOWN_COMPLAINTS.fullmatch(line.strip()):
            complaints.append(line)
    assert not complaints
    # It did read the metrics: 3 says that there were complaints, the known ones.
    assert done.returncode == 3
