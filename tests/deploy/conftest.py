"""The installed program, a server of it, and foreign tools.

TANDEM_BUILD  a build tree to install from
TANDEM_TOOLS  what fetch_tools.sh fetched
PYTHONPATH    must hold the modules generated from proto/ (<build>/python)
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import time
import urllib.request

import grpc
import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
PATIENCE_S = 60


def tool(path):
    """A program of fetch_tools.sh; the test is skipped where it could not be fetched."""
    found = pathlib.Path(os.environ["TANDEM_TOOLS"]) / path
    if not found.exists():
        pytest.skip(f"{found} is not there; ./setup test fetches it")
    return str(found)


def system_tool(name):
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command, **options):
    """The output of a program that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def eventually(condition):
    """Waits until `condition()` holds."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """The tree that the image gets as /opt/tandem."""
    prefix = tmp_path_factory.mktemp("opt") / "tandem"
    run("cmake", "--install", os.environ["TANDEM_BUILD"], "--prefix", str(prefix), "--strip")
    return prefix


@pytest.fixture(scope="session")
def program(installed):
    return str(installed / "bin" / "tandem")


class Server:
    """The installed program, serving the demo model on ports of its own choice; ready."""

    def __init__(self, program, log, *options):
        command = [program, "serve", "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0",
                   "--log-format", "text", *options]
        self.log = log
        with open(log, "w", encoding="utf-8") as output:
            self.process = subprocess.Popen(command, stderr=output)
        end = time.monotonic() + PATIENCE_S
        while not (ready := re.search(r"ready: grpc=(\S+) http=(\S+)", log.read_text())):
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise RuntimeError("no server:\n" + log.read_text())
            time.sleep(0.02)
        self.grpc_address, self.http_address = ready.groups()

    def channel(self, *options):
        return grpc.insecure_channel(self.grpc_address, [("grpc.enable_http_proxy", 0), *options])

    def http(self, path):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{self.http_address}{path}", timeout=PATIENCE_S) as answer:
            return answer.read().decode()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def end(self):
        """Ends at once: the second signal does not wait for the drain."""
        while self.process.poll() is None:
            self.terminate()
            time.sleep(0.05)
        assert self.process.returncode == 0, self.log.read_text()


@pytest.fixture(scope="session")
def server(program, tmp_path_factory):
    running = Server(program, tmp_path_factory.mktemp("server") / "log")
    yield running
    running.end()
