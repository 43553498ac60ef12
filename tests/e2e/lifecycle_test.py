"""Clients that leave, deadlines, probes, and the end of the process."""

import os
import signal
import socket
import subprocess
import threading

import grpc
import pytest
from conftest import Server, eventually, model_directory, refused, request
from tandem.v1 import info_pb2, params_pb2, text_pb2


def endless(text="The quick brown fox"):
    """A request that runs until the context is full."""
    message = request(text, stopping=params_pb2.StoppingParams(ignore_eos=True))
    message.stopping.ClearField("max_tokens")
    return message


def long_prompt(stub):
    limit = stub.CountTokens(text_pb2.TokenizeRequest(text="a")).max_prompt_tokens
    message = endless()
    message.token_ids.ids.extend([5] * (limit - 100))
    return message


# The fixture `stub` checks after each test that nothing is held any more.


def test_a_client_that_leaves_in_decode(server, stub):
    before = server.metric("tandem_cancellations_total", cause="client")
    for _ in range(3):
        call = stub.GenerateStream(endless())
        while not next(call).HasField("delta"):
            pass
        call.cancel()
    eventually(lambda: server.metric("tandem_cancellations_total", cause="client") == before + 3)


def test_a_client_that_leaves_in_prefill(stub):
    for _ in range(5):
        call = stub.GenerateStream(long_prompt(stub))
        call.cancel()


def test_a_client_whose_connection_breaks(server, stub):
    channel = server.new_channel()
    call = channel.unary_stream("/tandem.v1.Generation/GenerateStream")(
        endless().SerializeToString())
    next(call)
    channel.close()


def test_an_abandoned_unary_call(server, stub):
    call = stub.Generate.future(endless())
    eventually(lambda: server.metric("vllm:num_requests_running") > 0 or call.done())
    call.cancel()


def test_a_deadline(stub):
    with pytest.raises(grpc.RpcError) as caught:
        for _ in stub.GenerateStream(long_prompt(stub), timeout=0.005):
            pass
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_request_id_in_use(stub):
    message = endless()
    message.request_id = "taken"
    call = stub.GenerateStream(message)
    next(call)
    refused(lambda: stub.Generate(message), grpc.StatusCode.ALREADY_EXISTS,
            "DUPLICATE_REQUEST_ID")
    call.cancel()


def test_many_clients_at_a_time(stub):
    def talk(i):
        message = request(f"client {i}", stopping=params_pb2.StoppingParams(max_tokens=20,
                                                                            ignore_eos=True))
        if i % 3 == 0:
            answers[i] = stub.Generate(message).usage.completion_tokens
        else:
            call = stub.GenerateStream(message)
            for event in call:
                if i % 3 == 1 and event.HasField("delta"):
                    call.cancel()
                    break
                if event.HasField("completed"):
                    answers[i] = event.completed.usage.completion_tokens

    answers = {}
    threads = [threading.Thread(target=talk, args=(i,)) for i in range(48)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {i: 20 for i in range(48) if i % 3 != 1}


def test_info(server, stub):
    models = stub.ListModels(info_pb2.ListModelsRequest()).models
    assert len(models) == 1 and models[0].context_length > models[0].max_prompt_tokens > 0
    assert models[0] == stub.GetModel(info_pb2.GetModelRequest(model=models[0].name))
    assert len(models[0].tokenizer_sha256) == 64
    info = stub.GetServerInfo(info_pb2.GetServerInfoRequest())
    assert info.state == "ready" and info.version and "tandem.v1.Generation" in info.services


def health(channel, name):
    """The status number that grpc.health.v1 gives for `name`."""
    body = b"\x0a" + bytes([len(name)]) + name.encode() if name else b""
    answer = channel.unary_unary("/grpc.health.v1.Health/Check")(body)
    return answer[1] if answer else 0


def test_health(server):
    for name in ("", "readiness", "liveness", "tandem.v1.Generation"):
        eventually(lambda: health(server.channel, name) == 1)
    with pytest.raises(grpc.RpcError) as caught:
        health(server.channel, "no.such.Service")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_service(server):
    call = server.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    answer = next(call(iter([b"\x3a\x00"])))  # list_services
    assert b"tandem.v1.Generation" in answer and b"grpc.health.v1.Health" in answer


def test_probes_and_version(server):
    assert server.http("/livez")[0] == server.http("/readyz")[0] == 200
    assert '"version"' in server.http("/version")[1]
    code, body = server.http("/health")
    assert code == 404 and "/metrics" in body


def test_metrics(server, stub):
    tokens = server.metric("vllm:generation_tokens_total")
    stub.Generate(request(stopping=params_pb2.StoppingParams(max_tokens=8, ignore_eos=True)))
    eventually(lambda: server.metric("vllm:generation_tokens_total") >= tokens + 8)
    text = server.http("/metrics")[1]
    for name in ("num_requests_waiting", "num_requests_running", "kv_cache_usage_perc",
                 "gpu_cache_usage_perc", "cache_config_info", "lora_requests_info",
                 "prompt_tokens_total", "generation_tokens_total", "request_success_total",
                 "num_preemptions_total", "time_to_first_token_seconds_bucket",
                 "inter_token_latency_seconds_bucket",
                 "request_time_per_output_token_seconds_bucket",
                 "e2e_request_latency_seconds_bucket", "request_queue_time_seconds_bucket",
                 "request_prefill_time_seconds_bucket", "request_decode_time_seconds_bucket",
                 "request_inference_time_seconds_bucket", "iteration_tokens_total_bucket",
                 "request_prompt_tokens_bucket", "request_generation_tokens_bucket"):
        assert f'\nvllm:{name}{{engine="0",model_name="' in text, name
    for name in ("kv_blocks", "cancellations_total", "step_seconds_bucket",
                 "schedule_seconds_bucket", "queue_tokens", "grpc_requests_total",
                 "engine_heartbeat_age_seconds", "model_info", "startup_seconds", "draining"):
        assert f'\ntandem_{name}{{model_name="' in text, name
    assert server.metric("vllm:iteration_tokens_total_count") > 0
    assert server.metric("tandem_grpc_requests_total", method="Generate", code="OK") > 0


def test_a_finished_request_is_one_line_of_the_log(server, stub):
    message = request(stopping=params_pb2.StoppingParams(max_tokens=8, ignore_eos=True))
    message.request_id = "logged-once"
    message.user = "a name that is nobody's business"
    stub.Generate(message)

    def lines():
        return [line for line in server.log if "id=logged-once " in line]

    eventually(lines)
    assert len(lines()) == 1, lines()
    for part in ("request done: ", "method=Generate ", "code=0 ", "reason=OK ",
                 "finish=max_tokens ", "output_tokens=8 ", " ttft_ms=", " itl_ms="):
        assert part in lines()[0], part
    assert "nobody" not in "".join(server.log)


def test_a_port_in_use(server):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        for mine in ("--grpc-listen", "--http-listen"):
            other = "--http-listen" if mine == "--grpc-listen" else "--grpc-listen"
            ended = subprocess.run([os.environ["TANDEM_BINARY"], "serve", "--model",
                                    str(model_directory()), mine, address, other, "127.0.0.1:0"],
                                   stderr=subprocess.PIPE, text=True, timeout=60)
            assert ended.returncode != 0 and mine in ended.stderr and address in ended.stderr


def test_a_signal_drains():
    server = Server("--drain-timeout-s", "60")
    # Given a stream under way.
    call = server.stub.GenerateStream(
        request(stopping=params_pb2.StoppingParams(max_tokens=200, ignore_eos=True)))
    next(call)
    # When the process is told to end.
    server.process.send_signal(signal.SIGTERM)
    # Then the stream finishes, and the process ends well.
    events = list(call)
    assert events[-1].completed.usage.completion_tokens == 200
    assert server.stop() == 0, "".join(server.log)


def test_a_drain_takes_calls_for_a_moment_then_refuses_them_and_a_second_signal_ends_it():
    server = Server("--drain-grace-s", "1", "--drain-timeout-s", "600", "--max-slots", "16")
    # Given streams under way, and a seat left.
    calls = [server.stub.GenerateStream(endless()) for _ in range(15)]
    next(calls[-1])
    # When the process is told to end.
    server.process.send_signal(signal.SIGTERM)
    # Then probes say so at once, and calls are still answered.
    eventually(lambda: server.http("/readyz")[0] == 503)
    assert server.http("/livez")[0] == 200
    assert health(server.channel, "readiness") == 2 and health(server.channel, "liveness") == 1
    assert server.metric("tandem_draining") == 1
    short = request(stopping=params_pb2.StoppingParams(max_tokens=2))
    assert server.stub.Generate(short).usage.completion_tokens > 0

    # And after the grace they are refused.
    def refusal():
        try:
            server.stub.Generate(short)
        except grpc.RpcError as error:
            return error
        return None

    eventually(refusal)
    refused(lambda: server.stub.Generate(short), grpc.StatusCode.UNAVAILABLE, "DRAINING")
    # When a second signal comes, then nothing is waited for any more.
    server.process.send_signal(signal.SIGTERM)
    refused(lambda: list(calls[-1]), grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    assert server.stop() == 0, "".join(server.log)


def test_a_drain_that_takes_too_long_ends_the_rest():
    server = Server("--drain-timeout-s", "0")
    calls = [server.stub.GenerateStream(endless()) for _ in range(4)]
    for call in calls:
        next(call)
    server.process.send_signal(signal.SIGTERM)
    for call in calls:
        details = refused(lambda: list(call), grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert int(details.info.metadata["completion_tokens"]) >= 0
    assert server.stop() == 0, "".join(server.log)
