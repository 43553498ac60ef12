"""The program's commands as a user meets them: exit codes, messages, output."""

import csv
import io
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess

import grpc
import pytest
from conftest import PATIENCE_S, REPOSITORY, Server, refused, request
from tandem.v1 import params_pb2

MODEL = REPOSITORY / "tests" / "golden" / "e2b-like" / "target"
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def tandem(*words, stdin="", **environment):
    """The program with only `environment` of the TANDEM_* variables set."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    return subprocess.run([os.environ["TANDEM_BINARY"], *map(str, words)], input=stdin, text=True,
                          capture_output=True, timeout=PATIENCE_S, env={**clean, **environment})


def fails(code, *words, **keywords):
    """Standard error of a command that must end with `code`."""
    ended = tandem(*words, **keywords)
    assert ended.returncode == code, ended
    assert ended.stdout == ""
    return ended.stderr


@pytest.fixture
def damaged(tmp_path):
    """A copy of the model to damage."""
    return shutil.copytree(MODEL, tmp_path / "model")


# What is wrong with the command line.


def test_help_and_version():
    assert "serve" in tandem("--help").stdout
    for words in (["serve"], ["run"], ["inspect"], ["bench", "model"], ["config"]):
        ended = tandem(*words, "--help")
        assert ended.returncode == DONE and ended.stdout.startswith("Usage: tandem " + words[0])
    assert "TANDEM_KV_MEMORY" in tandem("serve", "--help-all").stdout
    assert re.match(r"tandem \d+\.\d+\.\d+ \(\S+\)\n", tandem("--version").stdout)


def test_unknown_words_are_answered_with_the_nearest():
    assert "did you mean `tandem serve`?" in fails(USAGE, "srve")
    assert "did you mean --max-slots?" in fails(USAGE, "serve", "--max-slot", "4")
    assert "command" in fails(USAGE)


def test_the_file_of_settings_is_checked(tmp_path):
    file = tmp_path / "tandem.toml"
    file.write_text("max_slots = 4\nmax_contxt = 8\n")
    assert f"{file}:2:1: there is no setting max_contxt; did you mean max_context?" in fails(
        USAGE, "serve", "--config", file)
    file.write_text("max_slots = = 4\n")
    assert f"{file}:1:13:" in fails(USAGE, "config", TANDEM_CONFIG=str(file))
    assert "none.toml" in fails(USAGE, "serve", "--config", tmp_path / "none.toml")


def test_flags_win_over_the_environment_over_the_file(tmp_path):
    file = tmp_path / "tandem.toml"
    file.write_text("max_slots = 1\nmax_context = 100\nmax_n = 2\n")
    ended = tandem("config", "--config", file, "--max-slots", "3", TANDEM_MAX_SLOTS="2",
                   TANDEM_MAX_CONTEXT="200")
    assert ended.returncode == DONE, ended
    assert re.search(r"^max_slots = 3 +# from --max-slots$", ended.stdout, re.M)
    assert re.search(r"^max_context = 200 +# from TANDEM_MAX_CONTEXT$", ended.stdout, re.M)
    assert re.search(r"^max_n = 2 +# from \S+:3:1: max_n$", ended.stdout, re.M)
    assert re.search(r"^# threads = 0 ", ended.stdout, re.M)


def test_the_page_of_options_is_up_to_date():
    page = (REPOSITORY / "server" / "config" / "OPTIONS.md").read_text()
    assert tandem("config", "--docs").stdout == page


def test_settings_that_contradict_each_other_are_both_named():
    message = fails(USAGE, "serve", "--model", MODEL, "--load-format", "dummy",
                    "--model-shape", "e2b")
    assert "--model" in message and "--load-format dummy" in message


# What is wrong with the model, or the machine.


def test_a_missing_model():
    assert "no such directory" in fails(FAILED, "run", "-p", "x", "--model", "/no/such/model")
    assert "is a file" in fails(FAILED, "inspect", MODEL / "config.json")
    assert "no config.json" in fails(FAILED, "serve", "--model", MODEL.parent)
    assert "downloads nothing" in fails(FAILED, "inspect", "google/gemma-4-E2B-it")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_truncated_file_is_named(damaged, file):
    path = damaged / file
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    message = fails(FAILED, "run", "-p", "x", "--model", damaged)
    assert str(path) in message, message


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(damaged, file):
    (damaged / file).unlink()
    assert file in fails(FAILED, "run", "-p", "x", "--model", damaged)


def test_too_little_memory_is_reported_before_loading():
    message = fails(FAILED, "serve", "--load-format", "dummy", "--model-shape", "31b",
                    "--max-slots", "1024", "--max-step-rows", "2048", "--kv-memory", "10TiB",
                    "--grpc-listen", "127.0.0.1:0", "--http-listen", "off")
    assert "not enough memory" in message and "loading" not in message
    message = fails(FAILED, "run", "-p", "x", "--model", MODEL, "--max-context", "4096",
                    "--kv-memory", "1MiB")
    assert "--max-context" in message and "--kv-memory" in message
    assert "--max-context is 5000" in fails(FAILED, "run", "-p", "x", "--model", MODEL,
                                            "--max-context", "5000")


def test_a_device_that_is_not_there():
    # No machine has a thousand; one without a driver or a build without kernels says so instead.
    message = fails(FAILED, "run", "-p", "x", "--model", MODEL, "--device", "cuda:999")
    assert "--device cuda:999" in message and "use --device cpu" in message or (
        "names no device" in message)
    message = fails(USAGE, "run", "-p", "x", "--model", MODEL, "--device", "gpu")
    assert "--device is 'gpu'" in message and "cuda:N" in message


@pytest.mark.parametrize("weights", ["bf16", "int4"])
def test_a_device_answers(weights):
    # Emulated kernels, with the assistant; only builds with tests have them.
    words = ["run", "-p", "Hello there", "--model", MODEL, "--draft-model",
             MODEL.parent / "assistant", "--device", "emu", "--weights", weights, "-n", "8",
             "--max-context", "128", "--max-step-rows", "16", "--temperature", "0"]
    first, second = tandem(*words), tandem(*words, "--spec-mode", "off")
    assert first.returncode == DONE and first.stdout.strip(), first
    assert first.stdout == second.stdout


def test_f32_is_not_for_devices():
    message = fails(FAILED, "run", "-p", "x", "--model", MODEL, "--device", "cuda", "--dtype", "f32")
    assert "--device cuda and --dtype f32" in message


def test_a_port_in_use_ends_the_start():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        message = fails(FAILED, "serve", "--model", MODEL, "--grpc-listen", address,
                        "--http-listen", "off")
    assert f"--grpc-listen {address}" in message and "loading" not in message


# tandem run


def test_run_prints_the_answer_alone():
    words = ["run", "--model", MODEL, "--temperature", "0", "-n", "12"]
    ended = tandem(*words, "-p", "Hello there")
    assert ended.returncode == DONE and ended.stdout.endswith("\n") and len(ended.stdout) > 12
    # The prompt may as well come from a pipe, and the same prompt gives the same answer.
    assert tandem(*words, stdin="Hello there\n").stdout == ended.stdout
    assert tandem(*words, "-p", "-", stdin="Hello there\n").stdout == ended.stdout
    assert tandem(*words, "--raw", "-p", "Hello there").stdout != ended.stdout


def test_run_as_json():
    words = ["run", "--model", MODEL, "-p", "Hello there", "-n", "12", "--json"]
    answers = [json.loads(tandem(*words, "--seed", seed).stdout) for seed in ("7", "7", "8")]
    assert answers[0]["text"] == answers[1]["text"] != answers[2]["text"]
    assert answers[0]["seed"] == 7 and answers[0]["finish_reason"] == "max_tokens"
    assert answers[0]["completion_tokens"] == 12
    assert 0 < answers[0]["ttft_ms"] <= answers[0]["total_ms"]


def test_run_stops_before_a_stop_string():
    words = ["run", "--model", MODEL, "-p", "Hello there", "-n", "40", "--temperature", "0",
             "--json"]
    whole = json.loads(tandem(*words).stdout)["text"]
    stop = whole[len(whole) // 2:][:4]
    answer = json.loads(tandem(*words, "--stop", stop).stdout)
    assert answer["finish_reason"] == "stop_string"
    assert answer["text"] == whole[:whole.index(stop)]


def test_run_refuses_a_prompt_that_is_too_long_or_not_text():
    assert "context" in fails(FAILED, "run", "--model", MODEL, "--max-context", "64",
                              "-p", "word " * 500)
    ended = subprocess.run([os.environ["TANDEM_BINARY"], "run", "--model", str(MODEL)],
                           input=b"\xff\xfe", capture_output=True, timeout=PATIENCE_S)
    assert ended.returncode == FAILED and b"not valid UTF-8" in ended.stderr


def test_an_interrupt_ends_the_answer():
    process = subprocess.Popen(
        [os.environ["TANDEM_BINARY"], "run", "--model", str(MODEL), "--cpu-isa", "ref",
         "--temperature", "0", "--raw", "-p", "x"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == INTERRUPTED


# tandem inspect, tandem bench model


def test_inspect():
    text = tandem("inspect", MODEL).stdout
    assert "SSSF SSSF" in text and "BF16" in text and "per token" in text
    found = json.loads(tandem("inspect", MODEL, "--json").stdout)
    assert len(found["layers"]) == 8 and found["layers"][3]["kind"] == "full"
    assert {group["group"] for group in found["kv"]} == {"sliding", "full"}
    assert sum(t["bytes"] for t in found["tensors"]) < (MODEL / "model.safetensors").stat().st_size


def test_inspect_knows_the_published_shapes():
    found = json.loads(tandem("inspect", "--load-format", "dummy", "--model-shape", "31b",
                              "--json").stdout)
    assert round(found["parameters"] / 1e9, 2) == 30.70 and "tensors" not in found


def test_bench_model():
    words = ["bench", "model", "--model", MODEL, "--prompt", "24", "--generate", "4",
             "--streams", "1,3", "--repetitions", "2"]
    table = tandem(*words).stdout
    for test in ("| pp24 ", "| tg4 ", "| tg4 x3 ", "with 3 streams as with 1"):
        assert test in table, table
    report = json.loads(tandem(*words, "--output", "json").stdout)
    assert [test["test"] for test in report["tests"]] == ["pp24", "tg4", "tg4 x3"]
    assert report["command_line"].startswith("tandem bench model --model ")
    for test in report["tests"]:
        assert len(test["seconds"]) == 2 and test["tok_per_s"] > 0
        assert len(test["read_bytes_per_s"]) == 2 and min(test["read_bytes_per_s"]) > 0
        assert len(test["multiply_adds_per_s"]) == 2 and min(test["multiply_adds_per_s"]) > 0
        assert test["multiply_adds_per_token"] > 0 and test["weight_bytes_per_token"] > 0
    rows = list(csv.DictReader(io.StringIO(tandem(*words, "--output", "csv").stdout)))
    assert [row["test"] for row in rows] == ["pp24", "tg4", "tg4 x3"]


def test_bench_model_refuses_more_streams_than_rows():
    message = fails(FAILED, "bench", "model", "--model", MODEL, "--streams", "64",
                    "--max-step-rows", "32")
    assert "--streams 64" in message and "--max-step-rows 32" in message


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(REPOSITORY / "tests" / "golden" / "e2b-like" / "target", model)
    shutil.copy(REPOSITORY / "tests" / "golden" / "12b-like" / "target" / "tokenizer.json", model)
    message = fails(FAILED, "run", "--model", model, "-p", "hello")
    assert "tokenizer.json has 1000 tokens" in message and "vocabulary of 1024" in message


# What serve says


def serve_in(stderr, *options):
    return subprocess.Popen(
        [os.environ["TANDEM_BINARY"], "serve", "--model", str(MODEL), "--grpc-listen",
         "127.0.0.1:0", "--http-listen", "127.0.0.1:0", *options], stderr=stderr)


def test_without_a_terminal_the_log_is_json():
    process = serve_in(subprocess.PIPE)
    lines = []
    for line in process.stderr:
        lines.append(json.loads(line))
        if lines[-1]["msg"].startswith("try: "):
            process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == DONE
    events = [line["msg"].split(":")[0] for line in lines]
    assert events == ["tandem", "model", "drafter", "device", "memory", "kv", "blocks", "loaded",
                      "ready", "try", "drain", "stopped"]
    assert set(lines[0]) == {"ts", "level", "logger", "msg"}


def test_on_a_terminal_the_lines_are_for_people():
    reader, writer = pty.openpty()
    process = serve_in(writer)
    os.close(writer)
    text = ""
    try:
        while chunk := os.read(reader, 4096).decode(errors="replace"):
            text += chunk
            if re.search(r"^try .*\n", text, re.M) and "\ndrain" not in text:
                process.send_signal(signal.SIGINT)
    except OSError:  # the terminal's other end is closed
        pass
    os.close(reader)
    assert process.wait(PATIENCE_S) == DONE
    assert "100 %" in text and "eta" in text
    ready = re.search(r"^ready +grpc 127\.0\.0\.1:(\d+)  http http://127\.0\.0\.1:(\d+)  \(", text, re.M)
    assert ready, text
    # What can be pasted into another terminal calls one of the two ports.
    assert re.search(rf"^try .*127\.0\.0\.1:({ready[1]}|{ready[2]})\b", text, re.M), text


def test_a_second_signal_ends_a_drain(monkeypatch):
    # Given a stream that would take a minute, and a server that is draining.
    monkeypatch.setenv("TANDEM_MODEL", str(MODEL))
    server = Server("--cpu-isa", "ref", "--drain-timeout-s", "3600")
    endless = request(stopping=params_pb2.StoppingParams(ignore_eos=True))
    endless.stopping.ClearField("max_tokens")
    call = server.stub.GenerateStream(endless)
    next(call)
    server.process.send_signal(signal.SIGTERM)
    while not any("drain" in line for line in server.log):
        next(call)
    # When it is told again.
    server.process.send_signal(signal.SIGTERM)
    # Then what runs ends with a status, and the process ends well.
    refused(lambda: list(call), grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    assert server.stop() == DONE, "".join(server.log)
