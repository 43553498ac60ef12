"""What clients may do to requests under way, and ask of the engine."""

import threading

import grpc
import pytest
from conftest import Server, eventually, refused, request
from tandem.v1 import info_pb2, params_pb2, result_pb2
from tandem.v1.info_pb2 import RequestStatus

INVALID = grpc.StatusCode.INVALID_ARGUMENT
FIELDS = {"stopping": params_pb2.StoppingParams(ignore_eos=True)}


def endless(request_id, **fields):
    """A request that runs until the context is full."""
    message = request(request_id=request_id, **FIELDS, **fields)
    message.stopping.ClearField("max_tokens")
    return message


def state(stub, request_id):
    try:
        return stub.GetRequestStatus(info_pb2.GetRequestStatusRequest(request_id=request_id)).state
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error.details()
        return None


@pytest.fixture(scope="module")
def busy():
    """A server with one seat, so that a second request waits."""
    server = Server("--max-slots", "1", "--drain-grace-s", "0", "--drain-timeout-s", "30")
    yield server
    assert server.stop() == 0, "".join(server.log)


def test_an_aborted_stream_keeps_what_it_has(stub):
    call = stub.GenerateStream(endless("to-abort"))
    events = [next(call)]
    while not events[-1].HasField("delta"):
        events.append(next(call))
    answer = stub.Abort(info_pb2.AbortRequest(request_ids=["nobody", "to-abort"]))
    assert answer.aborted == 1 and answer.unknown_ids == ["nobody"]
    events += call
    finished = [e.choice_finished for e in events if e.HasField("choice_finished")]
    assert [f.finish_reason for f in finished] == [result_pb2.ABORTED]
    assert events[-1].completed.usage.completion_tokens == finished[0].completion_tokens > 0
    assert stub.Abort(info_pb2.AbortRequest(request_ids=["to-abort"])).unknown_ids == ["to-abort"]


def test_an_aborted_unary_call_answers(stub):
    call = stub.Generate.future(endless("unary"))
    eventually(lambda: state(stub, "unary") == RequestStatus.DECODE or call.done())
    stub.Abort(info_pb2.AbortRequest(request_ids=["unary"]))
    assert call.result().choices[0].finish_reason in (result_pb2.ABORTED,
                                                      result_pb2.CONTEXT_LENGTH)


def test_what_is_not_for_everybody_or_makes_no_sense(stub):
    refused(lambda: stub.Abort(info_pb2.AbortRequest(tenant="acme")),
            grpc.StatusCode.PERMISSION_DENIED, "AUTH")
    for ids in ([], ["x"] * 1025):
        details = refused(lambda: stub.Abort(info_pb2.AbortRequest(request_ids=ids)), INVALID,
                          "BAD_PARAMETER")
        assert details.fields == ["request_ids"]
    for request_id in ("", "two words", "x" * 129):
        message = info_pb2.GetRequestStatusRequest(request_id=request_id)
        refused(lambda: stub.GetRequestStatus(message), INVALID, "BAD_PARAMETER")
    details = refused(lambda: stub.GetRequestStatus(
        info_pb2.GetRequestStatusRequest(request_id="nobody")),
        grpc.StatusCode.NOT_FOUND, "REQUEST_NOT_FOUND")
    assert "ResourceInfo" in details.types


def test_one_runs_and_one_waits(busy):
    stub = busy.stub
    first = stub.GenerateStream(endless("first"))
    while not next(first).HasField("delta"):
        pass
    second = stub.GenerateStream(endless("second"))
    eventually(lambda: state(stub, "second") == RequestStatus.QUEUED)
    running = stub.GetRequestStatus(info_pb2.GetRequestStatusRequest(request_id="first"))
    assert running.state == RequestStatus.DECODE and running.completion_tokens > 0
    assert running.prompt_tokens > 0 and running.age_s > 0
    stats = stub.GetStats(info_pb2.GetStatsRequest())
    assert (stats.running, stats.waiting) == (1, 1)
    assert 0 < stats.kv_usage <= 1 and stats.steps > 0 and stats.step_time_ms > 0
    assert sum(group.total for group in stats.kv_groups) == stats.kv_blocks_total
    # What cannot run at once is refused if it wishes so.
    hedge = request(scheduling=params_pb2.SchedulingParams(reject_if_queued=True))
    details = refused(lambda: stub.Generate(hedge), grpc.StatusCode.RESOURCE_EXHAUSTED,
                      "QUEUE_FULL")
    assert "RetryInfo" in details.types and "QuotaFailure" in details.types
    # What waits may wait too long.
    hurried = request(scheduling=params_pb2.SchedulingParams(queue_timeout_ms=20))
    details = refused(lambda: stub.Generate(hurried), grpc.StatusCode.DEADLINE_EXCEEDED,
                      "QUEUE_TIMEOUT")
    assert int(details.info.metadata["queue_ms"]) >= 20
    # And what waits can be aborted.
    stub.Abort(info_pb2.AbortRequest(request_ids=["second"]))
    refused(lambda: list(second), grpc.StatusCode.CANCELLED, "ABORTED_BY_REQUEST")
    first.cancel()
    eventually(busy.idle)
    assert state(stub, "first") is None
    assert stub.Generate(hedge).choices


@pytest.mark.parametrize("interval_ms", [1, 99, 60_001, 2**32 - 1])
def test_an_interval_out_of_range(stub, interval_ms):
    call = stub.WatchStats(info_pb2.WatchStatsRequest(interval_ms=interval_ms))
    assert refused(lambda: next(call), INVALID, "BAD_PARAMETER").fields == ["interval_ms"]


def test_a_watcher_sees_the_engine_work(stub):
    watch = stub.WatchStats(info_pb2.WatchStatsRequest(interval_ms=100))
    assert next(watch).HasField("time")
    work = stub.GenerateStream(endless("watched"))
    next(work)
    assert any(stats.running > 0 for stats in watch)
    work.cancel()
    steps = [next(watch).steps for _ in range(3)]
    assert steps == sorted(steps)
    watch.cancel()


def test_watchers_do_not_hold_up_a_drain():
    server = Server("--drain-grace-s", "0", "--drain-timeout-s", "3600")
    watches = [server.stub.WatchStats(info_pb2.WatchStatsRequest(interval_ms=60_000))
               for _ in range(50)]
    for watch in watches:
        next(watch)
    ends = []

    def finish(watch):
        ends.append(refused(lambda: list(watch), grpc.StatusCode.UNAVAILABLE, "DRAINING"))

    threads = [threading.Thread(target=finish, args=(watch,)) for watch in watches]
    for thread in threads:
        thread.start()
    code = server.process.send_signal(15) or server.process.wait(60)
    for thread in threads:
        thread.join(60)
    assert code == 0 and len(ends) == len(watches), "".join(server.log)
    server.stop()
