"""`tandem bench serve` against a real server, and against one of its own."""

import csv
import io
import json
import os
import signal
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest
from conftest import PATIENCE_S, eventually, model_directory

SVG = "{http://www.w3.org/2000/svg}"
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
SHORT = {"--prompt-tokens": 12, "--output-tokens": 6, "--temperature": 0}


def command(*words):
    return [os.environ["TANDEM_BINARY"], "bench", "serve", *map(str, words)]


def bench(*words):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    return subprocess.run(command(*words), text=True, capture_output=True, timeout=PATIENCE_S,
                          env=clean)


def short(words):
    """`words` and what SHORT says unless they say it."""
    added = [word for pair in SHORT.items() if pair[0] not in words for word in pair]
    return [*added, *words]


def measured(server, *words):
    """The standard output of a run that must succeed."""
    ended = bench("--connect", server.grpc_address, *short(words))
    assert ended.returncode == DONE, ended
    return ended.stdout


def figures(server, *words):
    """The runs of a JSON report."""
    return json.loads(measured(server, *words, "--output", "json"))["runs"]


def test_a_closed_loop_reports_every_request_in_every_format(server, stub, tmp_path):
    saved, plot = tmp_path / "a.json", tmp_path / "a.svg"
    text = measured(server, "-n", 3, "-r", 7, "--save", saved, "--plot", plot,
                    "--goodput", "ttft:60000,e2e:60000")
    for word in ("3 streams", "TTFT", "ITL", "TPOT", "end to end", "(100 %)", server.grpc_address,
                 "prompts of 12 tokens", "tandem bench serve --connect"):
        assert word in text

    # The file has every request with every message ...
    report = json.loads(saved.read_text())
    requests = report["runs"][0]["requests"]
    assert len(requests) == 7
    for request in requests:
        assert request["code"] == 0 and request["prompt_tokens"] == 12
        assert request["output_tokens"] == sum(tokens for _, tokens in request["messages"]) == 6

    # ... the picture is XML with a line per curve ...
    lines = ElementTree.parse(plot).getroot().findall(f"{SVG}polyline")
    assert [len(line.get("points").split()) for line in lines][:2] == [201, 201]

    # ... and the other formats say the same.
    (run,) = figures(server, "-n", 3, "-r", 7)
    assert run["outcomes"] == {"OK": 7}
    assert run["figures"]["input_tokens"] == 7 * 12 and run["figures"]["output_tokens"] == 7 * 6
    assert run["figures"]["ttft_ms_p99"] > 0 and run["figures"]["output_tok_per_s"] > 0
    rows = list(csv.DictReader(io.StringIO(measured(server, "-n", 3, "-r", 7, "-o", "csv"))))
    assert [(row["label"], row["requests_ok"]) for row in rows] == [("3 streams", "7")]


def test_a_sweep_has_a_row_per_level_and_unary_calls_no_ttft(server, stub):
    runs = figures(server, "-n", "1,2", "-r", 4, "--unary")
    assert [run["label"] for run in runs] == ["1 call", "2 calls"]
    for run in runs:
        assert run["outcomes"] == {"OK": 4} and run["figures"]["output_tokens"] == 4 * 6
        assert "ttft_ms_p50" not in run["figures"] and run["figures"]["e2e_ms_p50"] > 0


@pytest.mark.parametrize("arrivals", ["poisson", "constant", "burst"])
def test_an_open_loop_sends_by_the_clock(server, stub, arrivals, tmp_path):
    saved = tmp_path / "run.json"
    measured(server, "--rate", 50, "--arrivals", arrivals, "-r", 10, "--save", saved,
             "--connections", 2, "--tenants", 3, "--priority", 1, "--deadline-ms", 50000)
    requests = json.loads(saved.read_text())["runs"][0]["requests"]
    due = [request["due_us"] for request in requests]
    assert all(request["code"] == 0 for request in requests)
    if arrivals == "constant":
        assert due == [20_000 * i for i in range(10)]
    elif arrivals == "burst":
        assert due == [0] * 8 + [160_000] * 2
    else:
        assert due == sorted(due) and len(set(due)) > 5


def test_a_duration_ends_and_lengths_vary(server, stub, tmp_path):
    saved = tmp_path / "run.json"
    measured(server, "-n", 2, "-d", 0.5, "--save", saved, "--prompt-tokens", "4-9",
             "--output-tokens", "lognormal:5:0.5", "--shared-prefix", 3)
    requests = json.loads(saved.read_text())["runs"][0]["requests"]
    assert requests and all(request["sent_us"] < 500_000 for request in requests)
    assert {request["prompt_tokens"] for request in requests} <= set(range(4, 10))


def test_the_same_seed_makes_the_same_requests(server, stub, tmp_path):
    lengths = []
    for seed in (1, 1, 2):
        saved = tmp_path / f"{len(lengths)}.json"
        measured(server, "-n", 2, "-r", 8, "--seed", seed, "--prompt-tokens", "2-60", "--save", saved)
        requests = json.loads(saved.read_text())["runs"][0]["requests"]
        lengths.append([request["prompt_tokens"] for request in requests])
    assert lengths[0] == lengths[1] != lengths[2]


def test_prompts_of_a_file_are_sent_as_text(server, stub, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "one"}\n{"prompt": "one two three four five six"}\n')
    saved = tmp_path / "run.json"
    words = ["--connect", server.grpc_address, "--output-tokens", 3, "-n", 1, "-r", 4, "--prompts"]
    assert bench(*words, prompts, "--save", saved, "--keep-eos").returncode == DONE
    tokens = [request["prompt_tokens"]
              for request in json.loads(saved.read_text())["runs"][0]["requests"]]
    assert tokens[0] == tokens[2] < tokens[1] == tokens[3]
    prompts.write_text('{"prompt": "one"}\nnonsense\n')
    ended = bench(*words, prompts)
    assert ended.returncode == FAILED and "line 2" in ended.stderr


def test_refused_requests_are_told_by_reason_and_the_exit_status(server, stub):
    # The deadline passes before anything can be answered.
    ended = bench("--connect", server.grpc_address, "-n", 2, "-r", 4, "-g", 900, "--deadline-ms", 1,
                  "--warmup", 0)
    assert ended.returncode == FAILED
    assert "DEADLINE_EXCEEDED" in ended.stdout


def test_two_files_are_compared(server, stub, tmp_path):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    for path in (a, b):
        measured(server, "-n", 2, "-r", 4, "--save", path)
    ended = bench("--compare", a, b)
    assert ended.returncode == DONE and "ttft_ms_p50" in ended.stdout and "B/A" in ended.stdout
    ended = bench("--compare", a, b, "--output", "json")
    compared = json.loads(ended.stdout)["runs"][0]["figures"]
    assert compared["output_tokens"] == {"a": 24.0, "b": 24.0, "ratio": 1.0}
    b.write_text("{}")
    ended = bench("--compare", a, b)
    assert ended.returncode == FAILED and "b.json" in ended.stderr and "--save" in ended.stderr


def test_ctrl_c_reports_what_has_finished(server, stub, tmp_path):
    saved = tmp_path / "run.json"
    process = subprocess.Popen(
        command("--connect", server.grpc_address, "-n", 2, "-d", 600, "-g", 4, "--save", saved),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    before = server.metric("vllm:request_success_total")
    eventually(lambda: server.metric("vllm:request_success_total") > before + 10)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == INTERRUPTED, err
    assert "interrupted" in out and "2 streams" in out
    assert json.loads(saved.read_text())["runs"][0]["requests"]


def test_errors_say_what_to_do():
    ended = bench("--connect", "127.0.0.1:1")
    assert ended.returncode == FAILED
    assert "127.0.0.1:1" in ended.stderr and "tandem serve" in ended.stderr
    ended = bench("--connect", "127.0.0.1:1", "--rate", 1, "--concurrency", 1)
    assert ended.returncode == USAGE
    assert "--rate and --concurrency contradict each other" in ended.stderr
    ended = bench("--save", "/nowhere/at/all.json")
    assert ended.returncode == FAILED and "/nowhere/at/all.json" in ended.stderr


def test_what_is_longer_than_the_context_is_refused_before_the_run(server, stub):
    ended = bench("--connect", server.grpc_address, "-p", 500_000, "-g", 10)
    assert ended.returncode == FAILED and "--prompt-tokens" in ended.stderr


def test_without_a_server_the_cost_of_grpc_is_measured():
    ended = bench(*short(["--model", model_directory(), "-n", 2, "-r", 4, "--repetitions", 2,
                          "--output", "json"]))
    assert ended.returncode == DONE, ended
    report = json.loads(ended.stdout)
    assert [cost["stream_interval_tokens"] for cost in report["transport"]] == [1, 8]
    assert all(cost["pairs"] == 2 and cost["ratio"] > 0 for cost in report["transport"])
    assert len(report["runs"]) == 8
    for run in report["runs"]:
        assert run["outcomes"] == {"OK": 4} and run["figures"]["output_tokens"] == 4 * 6
