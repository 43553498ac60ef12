"""deploy/client/service_config.json in a real gRPC client."""

import concurrent.futures
import json

import grpc
import pytest
from conftest import DEPLOY, Server, eventually
from tandem.v1 import generation_pb2_grpc, info_pb2

TEXT = (DEPLOY / "client" / "service_config.json").read_text()
CONFIG = json.loads(TEXT)


def channel_options(config):
    return [("grpc.service_config", json.dumps(config)), ("grpc.enable_http_proxy", 0)]


def get_server_info(channel):
    stub = generation_pb2_grpc.GenerationStub(channel)
    return stub.GetServerInfo(info_pb2.GetServerInfoRequest(), timeout=60)


def test_it_is_what_clients_are_advised_to_use():
    assert CONFIG["loadBalancingConfig"] == [{"round_robin": {}}]
    assert CONFIG["healthCheckConfig"] == {"serviceName": "readiness"}
    (methods,) = CONFIG["methodConfig"]
    assert methods["name"] == [{"service": "tandem.v1.Generation"}]
    assert methods["retryPolicy"] == {
        "maxAttempts": 3, "initialBackoff": "0.1s", "maxBackoff": "2s", "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"]}


def test_a_client_takes_it_and_would_complain_about_a_wrong_one(server):
    with server.channel(*channel_options(CONFIG)) as channel:
        assert get_server_info(channel).version
    wrong = json.loads(TEXT)
    wrong["methodConfig"][0]["retryPolicy"]["maxAttempts"] = 1
    with server.channel(*channel_options(wrong)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            get_server_info(channel)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


class Refuser(grpc.GenericRpcHandler):
    """Answers every call with one status code and counts the attempts."""

    def __init__(self, code):
        self.code, self.attempts = code, 0

    def service(self, details):
        if not details.method.startswith("/tandem.v1.Generation/"):
            return None  # no health service: clients then take it as healthy
        return grpc.unary_unary_rpc_method_handler(self._refuse)

    def _refuse(self, _, context):
        self.attempts += 1
        context.abort(self.code, "refused")


@pytest.mark.parametrize("code, attempts", [(grpc.StatusCode.UNAVAILABLE, 3),
                                            (grpc.StatusCode.RESOURCE_EXHAUSTED, 1),
                                            (grpc.StatusCode.INTERNAL, 1)])
def test_only_unavailable_is_tried_again(code, attempts):
    refuser = Refuser(code)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1), handlers=[refuser])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}", channel_options(CONFIG)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            get_server_info(channel)
    server.stop(None).wait()
    assert caught.value.code() == code
    assert refuser.attempts == attempts


def test_clients_leave_a_server_that_drains_while_it_still_takes_calls(program, tmp_path):
    # Given a server, a client that watches its readiness and one that does not.
    server = Server(program, tmp_path / "log", "--drain-grace-s", "600")
    try:
        with server.channel(*channel_options(CONFIG)) as watching, server.channel() as plain:
            assert get_server_info(watching).version

            def turned_away():
                try:
                    get_server_info(watching)
                    return False
                except grpc.RpcError as error:
                    assert error.code() == grpc.StatusCode.UNAVAILABLE
                    return True

            # When the server is asked to end.
            server.terminate()
            # Then the one goes elsewhere, and calls that still come are taken.
            eventually(turned_away)
            assert get_server_info(plain).version
    finally:
        server.end()
