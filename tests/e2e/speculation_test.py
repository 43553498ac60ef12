"""Speculation as clients and operators meet it: it changes numbers and speed, never the text."""

import json
import shutil
import struct

import grpc
import pytest
from cli_test import DONE, FAILED, MODEL, fails, tandem
from conftest import REPOSITORY, Server, eventually, model_directory, refused, request
from doctor_test import findings
from tandem.v1 import chat_pb2, info_pb2, params_pb2
from tandem.v1.params_pb2 import SpeculativeParams

GOLDEN = REPOSITORY / "tests" / "golden"
ASSISTANT = GOLDEN / "e2b-like" / "assistant"  # of MODEL
WAYS = [SpeculativeParams(mode=SpeculativeParams.OFF), SpeculativeParams(),
        SpeculativeParams(mode=SpeculativeParams.AUTO),
        SpeculativeParams(mode=SpeculativeParams.FIXED, max_draft_tokens=1),
        SpeculativeParams(mode=SpeculativeParams.FIXED, max_draft_tokens=16)]

pytestmark = pytest.mark.skipif(not (model_directory() / "assistant").exists(),
                                reason="the model that is tested has no assistant")


def asked(text="<bos><|turn>user\nTell me a story about a fox.<turn|>\n<|turn>model\n",
          temperature=0.0, max_tokens=48, **fields):
    """A request that reports its drafts; `text` with control tokens as such."""
    message = request(text, parse_special=True,
                      output=params_pb2.OutputOptions(speculative_stats=True), **fields)
    message.sampling.temperature = temperature
    message.stopping.max_tokens = max_tokens
    return message


def fixed(tokens):
    return SpeculativeParams(mode=SpeculativeParams.FIXED, max_draft_tokens=tokens)


# What a request asks for.


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_text_does_not_depend_on_how_far_is_guessed(stub, temperature):
    answers = []
    for way in WAYS:
        message = asked(temperature=temperature, speculative=way)
        message.sampling.seed = 4711
        answers.append(stub.Generate(message))
    plain = answers[0]
    assert not plain.speculative.enabled and plain.speculative.drafted_tokens == 0
    assert answers[-1].speculative.drafted_tokens > 0
    for answer in answers[1:]:
        assert answer.choices[0].token_ids == plain.choices[0].token_ids
        assert answer.choices[0].text == plain.choices[0].text
        assert answer.choices[0].finish_reason == plain.choices[0].finish_reason
        assert answer.usage == plain.usage
        assert answer.speculative.enabled


def test_logprobs_and_penalties_stay_those_of_plain_decoding(stub):
    answers = []
    for way in (WAYS[0], fixed(4)):
        message = asked(speculative=way)
        message.sampling.frequency_penalty = 0.7
        message.sampling.repetition_penalty = 1.2
        message.output.logprobs = 3
        answers.append(stub.Generate(message).choices[0])
    assert answers[0].logprobs == answers[1].logprobs
    assert len(answers[0].logprobs) == len(answers[0].token_ids)


def test_a_chat_drafts_as_well(stub):
    answers = []
    for way in (WAYS[0], fixed(4)):
        message = chat_pb2.ChatRequest(
            messages=[chat_pb2.ChatMessage(role=chat_pb2.USER, content="Hello!")],
            output=params_pb2.OutputOptions(speculative_stats=True), speculative=way)
        message.sampling.temperature = 0
        message.stopping.max_tokens = 24
        answers.append(stub.Chat(message))
    assert answers[0].choices[0].message == answers[1].choices[0].message
    assert answers[1].speculative.drafted_tokens > 0


def test_metadata_asks_where_the_message_does_not(stub):
    def run(header, **fields):
        return stub.Generate(asked(**fields), metadata=[("x-tandem-spec", header)]).speculative

    assert not run("off").enabled
    assert len(run("fixed:1").drafted_per_position) == 1
    assert run("auto").enabled
    assert not run("fixed:2", speculative=WAYS[0]).enabled  # the message goes first
    assert len(run("off", speculative=fixed(1)).drafted_per_position) == 1


@pytest.mark.parametrize("header", ["on", "fixed", "fixed:", "fixed:17", "fixed:-1", "fixed:1 "])
def test_metadata_that_means_nothing_is_refused_by_its_key(stub, header):
    details = refused(
        lambda: stub.Generate(asked(), metadata=[("x-tandem-spec", header)]),
        grpc.StatusCode.INVALID_ARGUMENT, "BAD_PARAMETER")
    assert details.fields == ["metadata x-tandem-spec"]


def test_a_wish_above_the_servers_limit_is_clamped_and_reported(stub):
    limit = stub.GetModel(info_pb2.GetModelRequest()).drafter.max_draft_tokens
    assert 0 < limit < 16
    stats = stub.Generate(asked(speculative=fixed(16))).speculative
    assert stats.max_draft_tokens == limit and len(stats.drafted_per_position) == limit
    assert stub.Generate(asked(speculative=fixed(1))).speculative.max_draft_tokens == 1
    assert not stub.Generate(asked(speculative=fixed(0))).speculative.enabled


def test_a_drafter_that_is_there_can_be_required(stub):
    assert stub.Generate(asked(speculative=SpeculativeParams(require=True))).speculative.enabled


# What is told about it.


def test_deltas_statistics_trailers_metrics_and_stats_agree(server, stub):
    names = {"drafts": "vllm:spec_decode_num_drafts_total",
             "drafted": "vllm:spec_decode_num_draft_tokens_total",
             "accepted": "vllm:spec_decode_num_accepted_tokens_total",
             "rounds": "tandem_spec_rounds_total",
             "in_rounds": "tandem_spec_round_tokens_sum"}
    eventually(server.idle)
    before = {key: server.metric(name) for key, name in names.items()}
    message = asked(speculative=fixed(3))
    message.sampling.n = 2
    message.sampling.temperature = 1
    message.sampling.seed = 7
    call = stub.GenerateStream(message)
    events = list(call)
    trailers = dict(call.trailing_metadata())
    eventually(server.idle)
    after = {key: server.metric(name) for key, name in names.items()}
    counted = {key: after[key] - before[key] for key in names}

    deltas = [event.delta for event in events if event.HasField("delta")]
    choices = [event.choice_finished.speculative for event in events
               if event.HasField("choice_finished")]
    total = events[-1].completed.speculative
    assert total.drafted_tokens > 0 and len(choices) == 2
    for field, key in (("steps", "rounds"), ("drafted_tokens", "drafted"),
                       ("accepted_tokens", "accepted")):
        amount = getattr(total, field)
        assert sum(getattr(delta, field) for delta in deltas) == amount
        assert sum(getattr(choice, field) for choice in choices) == amount
        assert counted[key] == amount
    assert counted["drafts"] == total.steps_with_draft
    assert counted["in_rounds"] == total.steps_with_draft + total.accepted_tokens
    assert trailers["x-tandem-drafted-tokens"] == str(total.drafted_tokens)
    assert trailers["x-tandem-accepted-tokens"] == str(total.accepted_tokens)
    for stats in (total, *choices):
        assert sum(stats.drafted_per_position) == stats.drafted_tokens
        assert sum(stats.accepted_per_position) == stats.accepted_tokens
        drafted, accepted = stats.drafted_per_position, stats.accepted_per_position
        assert list(drafted) == sorted(drafted, reverse=True)
        assert all(a <= d for a, d in zip(accepted, drafted, strict=True))
    tokens = sum(len(delta.token_ids) for delta in deltas)
    cut = sum(2 for _ in choices)  # the last step of a choice may end before its bonus token
    made = 2 + total.steps + total.accepted_tokens
    assert made - cut <= tokens <= made

    stats = stub.GetStats(info_pb2.GetStatsRequest())
    assert stats.spec_acceptance_rate == pytest.approx(after["accepted"] / after["drafted"])
    assert stats.spec_mean_accepted_length == pytest.approx(1 + after["accepted"] / after["drafts"])
    for position, (drafted, accepted) in enumerate(zip(
            stats.spec_drafted_per_position, stats.spec_accepted_per_position, strict=True)):
        at = {"position": str(position)}
        assert drafted == server.metric("tandem_spec_draft_tokens_per_pos_total", **at)
        assert accepted == server.metric("vllm:spec_decode_num_accepted_tokens_per_pos_total", **at)
    assert any(f"drafted={total.drafted_tokens} accepted={total.accepted_tokens} " in line
               for line in server.log)


def test_steps_that_verify_and_draft_are_timed(server, stub):
    stub.Generate(asked(speculative=fixed(3)))
    for kind in ("verify", "draft"):
        assert server.metric("tandem_step_seconds_count", kind=kind) > 0


def test_the_drafter_is_described(server, stub):
    model = stub.GetModel(info_pb2.GetModelRequest())
    assert model.drafter.loaded and model.drafter.layers > 0
    assert model.drafter.name.endswith("assistant")
    assert "speculative" in model.capabilities
    start = next(line for line in server.log if "drafter:" in line)
    assert f"layers={model.drafter.layers} " in start
    assert f"max_draft={model.drafter.max_draft_tokens} " in start


# Servers that go without.


@pytest.mark.parametrize("options", [["--draft-model", "none"], ["--spec-mode", "off"]])
def test_without_a_drafter_nothing_is_drafted_and_none_can_be_required(options):
    server = Server(*options)
    try:
        answer = server.stub.Generate(asked(speculative=fixed(3)))
        assert not answer.speculative.enabled and answer.speculative.drafted_tokens == 0
        assert answer.speculative.steps == answer.usage.completion_tokens - 1
        details = refused(
            lambda: server.stub.Generate(asked(speculative=SpeculativeParams(require=True))),
            grpc.StatusCode.FAILED_PRECONDITION, "DRAFTER_UNAVAILABLE")
        assert "PreconditionFailure" in details.types
        model = server.stub.GetModel(info_pb2.GetModelRequest())
        assert not model.drafter.loaded and "speculative" not in model.capabilities
        assert any("drafter: loaded=false" in line for line in server.log)
    finally:
        assert server.stop() == 0


def test_the_servers_settings_are_what_a_request_gets_that_asks_for_nothing():
    server = Server("--spec-mode", "fixed", "--spec-max-draft", "2")
    try:
        stats = server.stub.Generate(asked()).speculative
        assert stats.max_draft_tokens == 2 and len(stats.drafted_per_position) == 2
        assert stats.steps_with_draft >= stats.steps - 2  # none for the last tokens
    finally:
        assert server.stop() == 0


# Assistants that can not be used end the start.


def refused_start(*options, model=MODEL):
    message = fails(FAILED, "serve", "--model", model, "--grpc-listen", "127.0.0.1:0",
                    "--http-listen", "off", "--log-format", "text", *options)
    assert "--draft-model none" in message  # the way out
    return message


@pytest.fixture
def copied(tmp_path):
    """A copy of the assistant to damage."""
    return shutil.copytree(ASSISTANT, tmp_path / "assistant")


def edit_tensors(path, change):
    """Rewrites a safetensors file: `change` gets its header and its bytes, and returns both."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header, body = change(json.loads(data[8:8 + size]), data[8 + size:])
    text = json.dumps(header).encode()
    path.chmod(0o644)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def test_a_directory_that_is_not_there():
    message = refused_start("--draft-model", "/no/such/assistant")
    assert "/no/such/assistant" in message and "no such directory" in message


def test_a_model_is_no_assistant():
    assert "model_type" in refused_start("--draft-model", MODEL)


def test_the_assistant_of_another_model_has_its_mismatches_named():
    message = refused_start("--draft-model", GOLDEN / "31b-like" / "assistant")
    for mismatch in ("vocab_size is 1280", "num_key_value_heads", "sliding_window"):
        assert mismatch in message


def test_a_truncated_ordering_table(copied):
    def halve(header, body):
        name, entry = next((name, entry) for name, entry in header.items()
                           if name.endswith("token_ordering"))
        begin, end = entry["data_offsets"]
        gone = (end - begin) // 2
        entry["shape"][0] //= 2
        entry["data_offsets"] = [begin, end - gone]
        for other in header.values():
            if "data_offsets" in other and other["data_offsets"][0] >= end:
                other["data_offsets"] = [offset - gone for offset in other["data_offsets"]]
        return header, body[:end - gone] + body[end:]

    edit_tensors(copied / "model.safetensors", halve)
    message = refused_start("--draft-model", copied)
    assert "token_ordering" in message


def test_a_file_that_was_cut_off(copied):
    path = copied / "model.safetensors"
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:len(data) // 2])
    assert "model.safetensors" in refused_start("--draft-model", copied)


def test_a_tokenizer_of_another_model(copied):
    path = copied / "tokenizer.json"
    text = path.read_text()
    tokenizer = json.loads(text)
    a, b = [piece for piece, id in tokenizer["model"]["vocab"].items() if 300 < id < 303]
    vocab = tokenizer["model"]["vocab"]
    vocab[a], vocab[b] = vocab[b], vocab[a]
    path.chmod(0o644)
    path.write_text(json.dumps(tokenizer))
    message = refused_start("--draft-model", copied)
    assert "token 301 " in message and "tokenizer.json" in message


def test_what_lies_inside_the_model_is_not_passed_over_in_silence(tmp_path):
    model = shutil.copytree(MODEL, tmp_path / "model")
    shutil.copytree(GOLDEN / "31b-like" / "assistant", model / "assistant")
    assert str(model / "assistant") in refused_start(model=model)


def test_an_assistant_without_generation_config_loads(copied):
    (copied / "generation_config.json").unlink()
    ended = tandem("run", "--model", MODEL, "--draft-model", copied, "--json", "-n", "8",
                   "--raw", "-p", "The", "--spec-mode", "fixed")
    assert ended.returncode == DONE, ended.stderr
    assert json.loads(ended.stdout)["drafted_tokens"] > 0


def test_fixed_guessing_needs_an_assistant():
    message = fails(FAILED, "serve", "--model", MODEL, "--spec-mode", "fixed", "--grpc-listen",
                    "127.0.0.1:0", "--http-listen", "off", "--log-format", "text")
    assert "--spec-mode fixed" in message and "--draft-model DIR" in message


# Commands that look at one, or use one.


def test_inspect_shows_a_models_assistant():
    shown = tandem("inspect", model_directory())
    assert shown.returncode == DONE, shown.stderr
    assert " tokens ahead" in shown.stdout and " + drafter " in shown.stdout
    whole = json.loads(tandem("inspect", "--json", model_directory()).stdout)
    assert whole["drafter"]["max_draft_tokens"] > 0 and whole["memory"]["drafter_bytes"] > 0
    none = json.loads(tandem("inspect", "--json", model_directory(), "--draft-model",
                             "none").stdout)
    assert "drafter" not in none and none["memory"]["drafter_bytes"] == 0
    wrong = tandem("inspect", MODEL, "--draft-model", GOLDEN / "31b-like" / "assistant")
    assert wrong.returncode == DONE and "--draft-model none" in wrong.stdout


def test_inspect_shows_an_assistant_by_itself():
    inside = tandem("inspect", model_directory() / "assistant")
    assert inside.returncode == DONE, inside.stderr
    assert "fits: it reads layers" in inside.stdout
    alone = tandem("inspect", "--json", ASSISTANT)
    assert alone.returncode == DONE, alone.stderr
    shown = json.loads(alone.stdout)
    assert shown["head"] == "clustered" and shown["backbone_hidden"] == 96
    assert "not looked at" in shown["model"]


def test_doctor_looks_at_the_assistant(copied):
    code, found = findings("--model", MODEL, "--draft-model", ASSISTANT)
    assert code == DONE and found["drafter"]["level"] == "PASS", found
    assert " + drafter " in found["fit"]["text"]
    code, found = findings("--model", MODEL)
    assert code == DONE and found["drafter"]["text"].startswith("none")
    path = copied / "model.safetensors"
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:len(data) // 2])
    code, found = findings("--model", MODEL, "--draft-model", copied)
    assert code == FAILED and found["drafter"]["level"] == "FAIL"
    assert "model.safetensors" in found["drafter"]["text"]
    assert found["tensors"]["level"] == found["fit"]["level"] == "PASS"  # one fault hides no other


def test_run_reports_what_guesses_were_worth():
    words = ["run", "--model", model_directory(), "-p", "Tell me a story about a fox.", "-n", "48",
             "--temperature", "0"]
    plain = json.loads(tandem(*words, "--json", "--spec-mode", "off").stdout)
    drafted = json.loads(tandem(*words, "--json", "--spec-mode", "fixed").stdout)
    assert drafted["text"] == plain["text"]
    assert "drafted_tokens" not in plain and drafted["drafted_tokens"] > 0
    assert 1.0 <= drafted["tokens_per_round"] <= 17.0


def test_stats_of_a_chat_tell_tokens_per_round():
    ended = tandem("chat", "--model", model_directory(), "-n", "32", "--temperature", "0",
                   "--spec-mode", "fixed", stdin="Tell me a story about a fox.\n/stats\n")
    assert ended.returncode == DONE, ended.stderr
    assert "guesses held" in ended.stdout and "tokens per round" in ended.stdout
