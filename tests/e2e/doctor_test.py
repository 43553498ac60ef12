"""`tandem doctor`, `tandem health` and `tandem completions` as a user meets them."""

import json
import os
import shutil
import signal
import socket
import subprocess

import pytest
from cli_test import DONE, FAILED, MODEL, USAGE, damaged, fails, tandem  # noqa: F401 (a fixture)
from conftest import PATIENCE_S, Server, eventually

FREE = ["--grpc-listen", "127.0.0.1:0", "--http-listen", "off"]


def findings(*words):
    """Exit code, and the findings by name."""
    ended = tandem("doctor", "--json", *FREE, *words)
    found = json.loads(ended.stdout)
    counted = {"PASS": found["passed"], "WARN": found["warnings"], "FAIL": found["failures"]}
    for level, count in counted.items():
        assert sum(entry["level"] == level for entry in found["findings"]) == count
    for entry in found["findings"]:
        assert ("advice" in entry) == (entry["level"] != "PASS"), entry
    return ended.returncode, {entry["name"]: entry for entry in found["findings"]}


# tandem doctor


def test_a_whole_model_passes():
    code, found = findings("--model", MODEL)
    assert code == DONE, found
    for name in ("model", "tokenizer", "tensors", "kv", "fit", "grpc port"):
        assert found[name]["level"] == "PASS", found[name]
    for name in ("cpu", "threads", "huge pages", "memory", "open files", "cuda"):
        assert found[name]["level"] in ("PASS", "WARN")
    text = tandem("doctor", *FREE, "--model", MODEL).stdout
    assert "PASS  tensors" in text and "\033" not in text


@pytest.mark.parametrize("file, check", [("model.safetensors", "tensors"),
                                         ("tokenizer.json", "tokenizer"),
                                         ("config.json", "model")])
def test_a_truncated_file_fails_its_check(damaged, file, check):  # noqa: F811
    path = damaged / file
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    code, found = findings("--model", damaged)
    assert code == FAILED
    assert found[check]["level"] == "FAIL" and str(path) in found[check]["text"]


def test_a_missing_file_fails_its_check(damaged):  # noqa: F811
    (damaged / "model.safetensors").unlink()
    code, found = findings("--model", damaged)
    assert code == FAILED and "model.safetensors" in found["tensors"]["text"]
    assert found["tokenizer"]["level"] == "PASS"  # one fault hides no other check
    code, found = findings("--model", "/no/such/model")
    assert code == FAILED and "no such directory" in found["model"]["text"]


def test_weights_of_another_model_fail(damaged):  # noqa: F811
    other = MODEL.parent.parent / "12b-like" / "target" / "model.safetensors"
    shutil.copy(other, damaged)
    code, found = findings("--model", damaged)
    assert code == FAILED and "tensor" in found["tensors"]["text"], found["tensors"]


def test_a_model_too_large_for_the_memory_fails():
    code, found = findings("--load-format", "dummy", "--model-shape", "31b", "--max-slots", "1024",
                           "--max-step-rows", "2048", "--kv-memory", "10TiB")
    assert code == FAILED and found["fit"]["level"] == "FAIL"
    assert "not enough memory" in found["fit"]["text"] and "tensors" not in found


def test_a_busy_port_fails():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        ended = tandem("doctor", "--model", MODEL, "--grpc-listen", address, "--http-listen", "off")
    assert ended.returncode == FAILED
    assert f"--grpc-listen {address} is in use" in ended.stdout


def test_an_option_that_can_not_be_met_fails():
    code, found = findings("--model", MODEL, "--device", "cuda:999")
    assert code == FAILED and found["cuda"]["level"] == "FAIL"


# tandem health


@pytest.mark.parametrize("service", [None, "liveness", "tandem.v1.Generation"])
def test_health_of_a_server(server, service):
    words = ["health", "--address", server.grpc_address]
    if service is not None:
        words += ["--service", service]
    # What the server publishes may be a moment behind its start.
    ended = eventually(lambda: (ended := tandem(*words)).returncode == DONE and ended)
    assert ended.stdout == f"{service or 'readiness'}: serving\n"
    found = json.loads(tandem(*words, "--json").stdout)
    assert found["serving"] is True and found["status"] == "SERVING" and found["ms"] > 0


def test_health_of_a_service_that_is_not_there(server):
    message = fails(FAILED, "health", "--address", server.grpc_address, "--service", "no.such.Service")
    assert "no service 'no.such.Service'" in message and "readiness" in message


def test_health_of_a_server_that_drains():
    # Given a server that has been told to end, and waits a while for late calls.
    server = Server("--drain-grace-s", "30")
    server.process.send_signal(signal.SIGTERM)
    eventually(lambda: any("drain" in line for line in server.log))
    # When it is asked.
    ready = eventually(lambda: (ended := tandem("health", "--address", server.grpc_address))
                       .returncode == FAILED and ended)
    live = tandem("health", "--address", server.grpc_address, "--service", "liveness")
    # Then it is alive, but not ready.
    assert ready.stdout == "readiness: not serving\n"
    assert live.returncode == DONE
    server.process.send_signal(signal.SIGTERM)
    server.stop()


def test_health_of_no_server():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        address = "127.0.0.1:%d" % closed.getsockname()[1]
        message = fails(FAILED, "health", "--address", address)
        assert f"nothing answers at --address {address}" in message
        ended = tandem("health", "--address", address, "--json")
        assert ended.returncode == FAILED and json.loads(ended.stdout)["serving"] is False


def test_health_of_something_that_never_answers():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = "127.0.0.1:%d" % silent.getsockname()[1]
        message = fails(FAILED, "health", "--address", address, "--timeout-ms", "200")
        assert "within 200 ms" in message or "nothing answers" in message


# tandem completions


def bash_completes(line, directory="."):
    """What bash offers behind `line`, whose last word may be empty."""
    script = r'''
source <("$TANDEM_BINARY" completions bash)
words=$1
COMP_WORDS=(); for word in $words; do
  while [[ $word == *=* ]]; do COMP_WORDS+=("${word%%=*}" "="); word=${word#*=}; done
  [ -n "$word" ] && COMP_WORDS+=("$word")
done
[[ $words == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMP_LINE=$words; COMP_POINT=${#words}
_tandem
printf '%s\n' "${COMPREPLY[@]}"
'''
    ended = subprocess.run(["bash", "-c", script, "bash", line], capture_output=True, text=True,
                           timeout=PATIENCE_S, cwd=directory)
    assert ended.returncode == 0 and ended.stderr == "", ended
    return ended.stdout.split("\n")[:-1]


def test_bash_completes_commands():
    offered = bash_completes("tandem ")
    for verb in ("serve", "run", "inspect", "bench", "doctor", "health", "config", "completions"):
        assert offered.count(verb) == 1
    assert bash_completes("tandem in") == ["inspect"]
    assert "model" in bash_completes("tandem bench ")
    assert bash_completes("tandem completions ") == ["bash", "zsh", "fish"]


def test_bash_completes_flags_and_choices():
    assert bash_completes("tandem serve --max-sl") == ["--max-slots"]
    assert bash_completes("tandem bench model --strea") == ["--streams"]
    assert "--grpc-listen" not in bash_completes("tandem run --")
    assert bash_completes("tandem serve --dtype ") == ["bf16", "f32"]
    assert bash_completes("tandem serve --dtype=b") == ["bf16"]
    assert bash_completes("tandem serve --dtype=") == ["bf16", "f32"]
    assert bash_completes("tandem serve --threads ") == [""]


def test_bash_completes_directories_and_files(tmp_path):
    (tmp_path / "a model").mkdir()
    (tmp_path / "a.toml").touch()
    assert bash_completes("tandem serve --model a", tmp_path) == ["a model"]
    assert bash_completes("tandem inspect a", tmp_path) == ["a model"]
    assert sorted(bash_completes("tandem serve --config a", tmp_path)) == ["a model", "a.toml"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_scripts_have_no_errors(shell, tmp_path):
    script = tmp_path / "script"
    script.write_text(tandem("completions", shell).stdout)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    ended = subprocess.run([shell, "-n", script], capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.returncode == 0 and ended.stderr == "", ended


def fish_completes(line):
    script = f'"$TANDEM_BINARY" completions fish | source; complete -C {json.dumps(line)}'
    ended = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True,
                           timeout=PATIENCE_S, env={**os.environ, "HOME": "/nonexistent"})
    return [entry.split("\t")[0] for entry in ended.stdout.splitlines()]


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes():
    assert "doctor" in fish_completes("tandem ")
    assert "model" in fish_completes("tandem bench ")
    assert fish_completes("tandem serve --dtype ") == ["bf16", "f32"]
    assert "--max-slots" in fish_completes("tandem serve --max-s")
    assert "--streams" in fish_completes("tandem bench model --str")


def test_completions_need_a_shell():
    assert "bash, zsh or fish" in fails(USAGE, "completions")
    assert "did you mean fish?" in fails(USAGE, "completions", "fisch")
