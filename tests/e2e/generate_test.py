"""What a well-behaved client gets."""

import pytest
from conftest import request
from tandem.v1 import params_pb2, result_pb2, text_pb2


def collect(stub, message, **options):
    """The events of a stream, checked for order."""
    events = list(stub.GenerateStream(message, **options))
    assert [event.seq for event in events] == list(range(len(events)))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "accepted" and kinds[-1] == "completed"
    assert kinds.count("accepted") == kinds.count("completed") == 1
    if "delta" in kinds and "prompt_logprobs" in kinds:
        last = len(kinds) - 1 - kinds[::-1].index("prompt_logprobs")
        assert last < kinds.index("delta")
    return events


def choices(events):
    """Text, ids and finish of each choice of a stream."""
    texts, ids, ends = {}, {}, {}
    for event in events:
        if event.HasField("delta"):
            index = event.delta.index
            assert index not in ends
            assert event.delta.position == len(ids.get(index, []))
            texts[index] = texts.get(index, "") + event.delta.text
            ids.setdefault(index, []).extend(event.delta.token_ids)
        elif event.HasField("choice_finished"):
            ends[event.choice_finished.index] = event.choice_finished
            assert event.choice_finished.completion_tokens == len(
                ids.get(event.choice_finished.index, []))
    return texts, ids, ends


def test_stream_and_unary_agree(stub):
    message = request(stopping=params_pb2.StoppingParams(max_tokens=32, ignore_eos=True))
    events = collect(stub, message)
    texts, ids, ends = choices(events)
    answer = stub.Generate(message)
    assert texts[0] == answer.choices[0].text
    assert ids[0] == list(answer.choices[0].token_ids) and len(ids[0]) == 32
    assert ends[0].finish_reason == answer.choices[0].finish_reason == result_pb2.MAX_TOKENS
    usage = events[-1].completed.usage
    assert usage == answer.usage and usage.completion_tokens == 32 and usage.prompt_tokens > 0
    assert answer.created.seconds > 1_600_000_000
    assert len(answer.fingerprint) == 16


def test_metadata_names_the_request(stub):
    call = stub.GenerateStream(request(), metadata=[("x-request-id", "r-1")])
    assert next(call).accepted.request_id == "r-1"
    assert dict(call.initial_metadata())["x-request-id"] == "r-1"
    for _ in call:
        pass
    trailers = dict(call.trailing_metadata())
    for key in ("queue-ms", "ttft-ms", "prompt-tokens", "cached-tokens", "completion-tokens",
                "drafted-tokens", "accepted-tokens"):
        assert trailers["x-tandem-" + key].isdigit()
    assert trailers["x-tandem-completion-tokens"] == "8"


def test_a_seed_repeats_and_choices_differ(stub):
    message = request(sampling=params_pb2.SamplingParams(temperature=2, top_k=0, top_p=1, seed=7,
                                                         n=3),
                      stopping=params_pb2.StoppingParams(max_tokens=16, ignore_eos=True))
    first, second = stub.Generate(message), stub.Generate(message)
    assert [c.token_ids for c in first.choices] == [c.token_ids for c in second.choices]
    assert len({tuple(c.token_ids) for c in first.choices}) > 1
    _, ids, ends = choices(collect(stub, message))
    assert [ids[i] for i in range(3)] == [list(c.token_ids) for c in first.choices]
    assert sorted(ends) == [0, 1, 2]


def test_the_seed_that_was_drawn_is_told(stub):
    message = request(sampling=params_pb2.SamplingParams(temperature=2, top_k=0, top_p=1))
    events = collect(stub, message)
    _, ids, _ = choices(events)
    message.sampling.seed = events[0].accepted.effective_seed
    assert list(stub.Generate(message).choices[0].token_ids) == ids[0]


def test_a_stop_string_ends_the_text(stub):
    message = request(stopping=params_pb2.StoppingParams(max_tokens=32, ignore_eos=True))
    text = stub.Generate(message).choices[0].text
    stop = next(c for c in text if text.index(c) > 0)
    message.stopping.stop.append(stop)
    choice = stub.Generate(message).choices[0]
    assert choice.text == text[:text.index(stop)]
    assert choice.finish_reason == result_pb2.STOP_STRING and choice.stop_match.text == stop
    message.stopping.include_stop = True
    assert stub.Generate(message).choices[0].text == text[:text.index(stop) + 1]


def test_a_stop_token_counts(stub):
    message = request(stopping=params_pb2.StoppingParams(max_tokens=32, ignore_eos=True))
    ids = list(stub.Generate(message).choices[0].token_ids)
    stop = next(i for i in ids if i != ids[0]) if len(set(ids)) > 1 else ids[0]
    message.stopping.stop_token_ids.append(stop)
    choice = stub.Generate(message).choices[0]
    assert list(choice.token_ids) == ids[:ids.index(stop) + 1]
    assert choice.finish_reason == result_pb2.STOP_TOKEN and choice.stop_match.token_id == stop


@pytest.mark.parametrize("mode", [params_pb2.LOGPROBS_RAW, params_pb2.LOGPROBS_PROCESSED])
def test_logprobs(stub, mode):
    output = params_pb2.OutputOptions(logprobs=3, logprobs_mode=mode)
    choice = stub.Generate(request(output=output)).choices[0]
    assert [entry.token_id for entry in choice.logprobs] == list(choice.token_ids)
    for entry in choice.logprobs:
        values = [top.logprob for top in entry.top]
        assert len(values) == 3 and values == sorted(values, reverse=True)
        assert entry.rank == 1 and entry.logprob == values[0] <= 1e-6  # greedy
        assert all(value >= -3.5e38 for value in values)


def test_a_prompt_can_be_scored_without_an_answer(stub):
    message = request(output=params_pb2.OutputOptions(prompt_logprobs=2,
                                                      echo_prompt_token_ids=True))
    message.stopping.max_tokens = 0
    answer = stub.Generate(message)
    assert [entry.token_id for entry in answer.prompt_logprobs] == list(answer.prompt_token_ids)
    assert not answer.prompt_logprobs[0].HasField("logprob")
    for entry in answer.prompt_logprobs[1:]:
        assert entry.logprob <= 1e-6 and len(entry.top) == 2
    assert answer.usage.completion_tokens == 0
    events = collect(stub, message)
    streamed = [entry for event in events for entry in event.prompt_logprobs.items]
    assert streamed == list(answer.prompt_logprobs)
    assert [event.prompt_logprobs.last for event in events
            if event.HasField("prompt_logprobs")][-1]


def test_options_of_the_answer(stub):
    output = params_pb2.OutputOptions(token_ids=False, timing=True, speculative_stats=True)
    answer = stub.Generate(request(output=output))
    assert not answer.choices[0].token_ids and answer.timing.total_s > 0
    assert answer.HasField("speculative")
    output = params_pb2.OutputOptions(text=False)
    answer = stub.Generate(request(output=output))
    assert not answer.choices[0].text and len(answer.choices[0].token_ids) == 8
    assert not answer.HasField("timing") and not answer.HasField("speculative")


def test_larger_deltas_on_request(stub):
    message = request(stopping=params_pb2.StoppingParams(max_tokens=32, ignore_eos=True),
                      output=params_pb2.OutputOptions(stream_interval_tokens=8))
    deltas = [event.delta for event in collect(stub, message) if event.HasField("delta")]
    assert all(len(delta.token_ids) >= 8 for delta in deltas[1:-1])
    assert sum(len(delta.token_ids) for delta in deltas) == 32


def test_ids_in_equal_text_in(stub):
    tokens = stub.Tokenize(text_pb2.TokenizeRequest(text="The quick brown fox"))
    by_text = stub.Generate(request())
    message = request()
    message.token_ids.ids.extend(tokens.token_ids)
    assert stub.Generate(message).choices[0].token_ids == by_text.choices[0].token_ids


def test_a_long_prompt_can_be_cut(stub):
    limit = stub.CountTokens(text_pb2.TokenizeRequest(text="a")).max_prompt_tokens
    message = request("fox " * (limit * 2), truncate_prompt_tokens=100)
    assert stub.Generate(message).usage.prompt_tokens == 101  # and the BOS


def test_a_time_limit_is_no_error(stub):
    message = request(stopping=params_pb2.StoppingParams(time_limit_ms=1, ignore_eos=True))
    message.stopping.ClearField("max_tokens")
    choice = stub.Generate(message).choices[0]
    assert choice.finish_reason == result_pb2.TIME_LIMIT


def test_tokenize_and_back(stub):
    text = "Grüße, 世界! 🙂\n\ttabs  and   spaces <eos>"
    tokens = stub.Tokenize(text_pb2.TokenizeRequest(text=text, offsets=True, token_bytes=True))
    assert tokens.count == len(tokens.token_ids) == len(tokens.byte_offsets)
    assert b"".join(tokens.token_bytes[1:]).decode() == text
    back = stub.Detokenize(text_pb2.DetokenizeRequest(token_ids=tokens.token_ids))
    assert back.text == text
    count = stub.CountTokens(text_pb2.TokenizeRequest(text=text, add_bos=False))
    assert count.count == tokens.count - 1
