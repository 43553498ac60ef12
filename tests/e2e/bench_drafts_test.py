"""`tandem bench accept` and `tandem bench model --compare` with the demo model and its assistant."""

import json
import os
import subprocess

from conftest import PATIENCE_S, REPOSITORY

DEMO = REPOSITORY / "models" / "demo"
DONE, FAILED, USAGE = 0, 1, 2


def bench(*words):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    return subprocess.run([os.environ["TANDEM_BINARY"], "bench", *map(str, words)], text=True,
                          capture_output=True, timeout=2 * PATIENCE_S, env=clean)


def report(*words):
    result = bench(*words, "-o", "json")
    assert result.returncode == DONE, result.stderr
    return json.loads(result.stdout)


def write_prompts(path, prompts):
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    return path


def test_accept_counts_every_guess_by_class_and_position():
    told = report("accept", "--model", DEMO, "-r", 6, "--spec-mode", "fixed",
                  "--spec-max-draft", 2)
    assert [each["task"] for each in told["classes"]] == ["json", "sequence", "sum"]
    for each in told["classes"] + [told["all"]]:
        assert sum(place["drafted"] for place in each["positions"]) == each["drafted"] > 0
        assert sum(place["accepted"] for place in each["positions"]) == each["accepted"]
        assert each["policy"]["by_reason"]["fixed"] > 0
        assert each["policy"]["by_reason"]["pays"] == 0
    assert told["all"]["answers"] == 6
    assert told["all"]["accepted"] == sum(each["accepted"] for each in told["classes"])
    assert told["setting"] == "spec-mode=fixed, spec-max-draft=2"


def test_compare_answers_alike_with_and_without_drafts(tmp_path):
    prompts = write_prompts(tmp_path / "prompts.jsonl", [
        {"task": "story", "prompt": "<bos><|turn>user\nTell me a story about a fox.<turn|>\n<|turn>model\n"},
        {"prompt": "<bos><|turn>user\n59 plus 31<turn|>\n<|turn>model\n"}])
    told = report("model", "--model", DEMO, "--compare", "spec-mode=off", "--spec-mode", "fixed",
                  "--prompts", prompts, "-s", "1,3", "-n", 12, "-r", 1)
    tests = [(test["task"], test["streams"]) for test in told["tests"]]
    assert tests == [("all", 1), ("story", 1), ("prompts", 1),
                     ("all", 3), ("story", 3), ("prompts", 3)]
    for test in told["tests"]:
        assert test["a"]["tokens"] == test["b"]["tokens"] > 0
        assert test["a"]["drafted"] > 0 and test["b"]["drafted"] == 0
    assert told["acceptance_is_assumed"] is False
    assert [step["rows"] for step in told["verification"]] == [1, 2, 3, 4, 5]


def test_an_assumed_acceptance_is_what_comes_out():
    told = report("model", "--model", DEMO, "--compare", "spec-mode=off", "--spec-mode", "fixed",
                  "--spec-max-draft", 2, "--assume-acceptance", "1,0", "-s", 2, "-r", 1)
    assert told["acceptance_is_assumed"] is True
    first, second = told["tests"][0]["a"]["acceptance_at"]
    # Only a draft that reaches behind the end of its answer is the assistant's own.
    assert first > 0.9
    assert second < 0.1


def test_what_can_not_be_measured_is_refused():
    for words, status, reason in (
            (["accept", "--model", DEMO, "--spec-mode", "off"], FAILED, "nothing would be guessed"),
            (["model", "--model", DEMO, "--compare", "dtype=f32"], USAGE, "spec-max-draft=0..16"),
            (["model", "--model", DEMO, "--compare", "spec-mode=off", "--prompts", "/none"],
             FAILED, "/none")):
        result = bench(*words)
        assert result.returncode == status, words
        assert reason in result.stderr
        assert result.stdout == ""
