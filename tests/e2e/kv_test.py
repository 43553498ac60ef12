"""Formats of the KV cache as a user meets them: options, refusals, what is taken and what is told.

Text under pressure and reuse of prefixes have tests of their own.
"""

import json
import os
import re
import subprocess

import pytest
from conftest import PATIENCE_S, Server, model_directory, request
from tandem.v1 import info_pb2

MODEL = model_directory()
FAILED, USAGE = 1, 2
FORMATS = ["f32", "bf16", "f16", "q8", "turbo4", "turbo3", "turbo2"]
PRESETS = ["exact", "safe", "balanced", "compact", "max"]
# The demo model has three layers with KV of their own: with two at either end none would be left.
UNPROTECTED = ["--kv-protect-first", "0", "--kv-protect-last", "0"]


def tandem(*words, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    return subprocess.run([os.environ["TANDEM_BINARY"], *map(str, words)], text=True,
                          capture_output=True, timeout=PATIENCE_S, env={**clean, **environment})


def fails(code, *words, **environment):
    ended = tandem(*words, **environment)
    assert ended.returncode == code, ended
    return ended.stderr


def test_an_unknown_format_is_answered_with_those_there_are():
    message = fails(USAGE, "serve", "--kv-type", "turbo5")
    assert "--kv-type is 'turbo5'" in message and "did you mean turbo4?" in message
    assert all(name in message for name in FORMATS + PRESETS)
    message = fails(USAGE, "run", "-p", "x", TANDEM_KV_TYPE_K="int4")
    assert "TANDEM_KV_TYPE_K is 'int4'" in message and "q8" in message
    assert "--kv-protect-type" in fails(USAGE, "serve", "--kv-protect-type", "turbo4")
    assert "on, off or tenant" in fails(USAGE, "serve", "--prefix-cache", "yes")


def test_protection_of_every_layer_is_refused():
    message = fails(FAILED, "run", "-p", "x", "--model", MODEL, "--kv-type", "compact")
    assert "--kv-protect-first" in message and "3 layers" in message
    message = fails(FAILED, "run", "-p", "x", "--model", MODEL, "--kv-protect-last", "3")
    assert "--kv-protect-last" in message
    doctor = tandem("doctor", "--json", "--model", MODEL, "--kv-type", "compact")
    found = {entry["name"]: entry for entry in json.loads(doctor.stdout)["findings"]}
    assert found["kv"]["level"] == "FAIL" and "3 layers" in found["kv"]["text"]


def test_a_cache_too_small_for_one_sequence_says_how_much_is_missing():
    message = fails(FAILED, "serve", "--model", MODEL, "--max-context", "4096", "--kv-memory",
                    "1MiB", "--kv-type", "f32", "--grpc-listen", "127.0.0.1:0",
                    "--http-listen", "off")
    assert "one sequence of 4096 tokens" in message and "--kv-type" in message
    assert re.search(r"\d+(\.\d)? [KM]iB missing", message), message


@pytest.mark.parametrize("kv_type", FORMATS + PRESETS + ["bf16/turbo3"])
def test_every_type_serves_and_tells_what_it_stores(kv_type):
    # Given a server, and what inspect says that it would take.
    options = ["--kv-type", kv_type, "--kv-memory", "64MiB", "--max-context", "1024", *UNPROTECTED]
    expected = json.loads(tandem("inspect", "--json", MODEL, *options).stdout)
    server = Server(*options)
    try:
        # When it answers.
        answer = server.stub.Generate(request("Once upon a time"))
        assert answer.usage.completion_tokens > 0
        # Then its log, its description and its metrics say the same as inspect.
        started = "\n".join(server.log)
        told = re.search(r'kv: format="([^"]*)" full_token_bytes=(\d+) sliding_token_bytes=(\d+) '
                         r"full_block_bytes=(\d+) sliding_block_bytes=(\d+)", started)
        assert told[1] == expected["kv_formats"]
        pools = re.search(r"sliding_blocks=(\d+) full_blocks=(\d+)", started)
        by_group = {group["group"]: group for group in expected["kv"]}
        assert int(told[4]) == by_group["full"]["block_bytes"]
        assert int(told[5]) == by_group["sliding"]["block_bytes"]
        assert int(pools[1]) == by_group["sliding"]["blocks"]
        assert int(pools[2]) == by_group["full"]["blocks"]
        assert f"kv_bytes={sum(group['bytes'] for group in expected['kv'])}" in started
        for group in by_group.values():
            assert server.metric("tandem_kv_bytes_per_token",
                                 group=group["group"]) == group["bytes_per_token"]
        model = server.stub.GetModel(info_pb2.GetModelRequest())
        assert model.kv_format == expected["kv_formats"]
        assert model.kv_bytes_per_token == sum(g["bytes_per_token"] for g in by_group.values())
        assert server.metric("tandem_kv_format_info") == 3  # layers
        assert server.metric("tandem_kv_encode_nonfinite_total") == 0
        assert server.metric("vllm:cache_config_info", cache_dtype=expected["kv_formats"]) == 1
    finally:
        assert server.stop() == 0, "".join(server.log)


def test_protected_layers_are_told_apart():
    server = Server("--kv-type", "turbo4")
    try:
        assert server.metric("tandem_kv_format_info", k="turbo4", k_path="int8") == 1
        assert server.metric("tandem_kv_format_info", k="q8", group="sliding") == 1
        assert server.metric("tandem_kv_format_info", k="q8", group="full") == 1
    finally:
        assert server.stop() == 0


def test_inspect_lists_what_every_type_costs():
    shape = ["--load-format", "dummy", "--model-shape", "e4b", *UNPROTECTED]
    found = json.loads(tandem("inspect", "--json", *shape).stdout)
    choices = {choice["kv_type"]: choice for choice in found["kv_choices"]}
    assert list(choices) == FORMATS + PRESETS
    # turboquant 6.5
    assert choices["f16"]["full"]["bytes_per_token"] == 16384
    assert choices["turbo4"]["full"]["bytes_per_token"] == 4128
    assert choices["turbo2"]["sliding"]["bytes_per_token"] == 5280
    text = tandem("inspect", *shape).stdout
    table = text[text.index("| --kv-type"):]
    assert max(len(line) for line in table.splitlines() if line.startswith("|")) <= 100, table
    assert "| turbo3 " in table and "131 072" in table


def test_inspect_predicts_how_far_keys_are_off():
    found = json.loads(tandem("inspect", "--json", MODEL).stdout)
    noise = found["logit_noise"]
    assert len(noise) == len(found["layers"])
    for layer in noise:
        assert 0 < layer["q8"] < layer["turbo4"] < layer["turbo3"] < layer["turbo2"]


def test_coarse_keys_are_warned_of_once():
    coarse = tandem("run", "-p", "x", "-n", "1", "--model", MODEL, "--kv-type-k", "turbo2",
                    *UNPROTECTED).stderr
    assert coarse.count("too coarse") == 1 and "turbo2" in coarse
    assert "too coarse" not in tandem("run", "-p", "x", "-n", "1", "--model", MODEL, "--kv-type",
                                      "q8").stderr
