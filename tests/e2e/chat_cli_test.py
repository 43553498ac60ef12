"""`tandem chat` as a person meets it in a terminal, and as a script meets it in a pipe."""

import fcntl
import json
import os
import pty
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import termios
import time

import pytest
from cli_test import DONE, FAILED, INTERRUPTED, USAGE, fails, tandem
from conftest import PATIENCE_S, REPOSITORY, Server, eventually, model_directory

MODEL = REPOSITORY / "tests" / "golden" / "e2b-like" / "target"
DEMO = model_directory()
GREEDY = ["--model", DEMO, "--temperature", "0"]


class Terminal:
    """The program in a terminal of its own. `screen` is all that it wrote."""

    def __init__(self, *words):
        self.reader, writer = pty.openpty()
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        environment = {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        self.process = subprocess.Popen(
            [os.environ["TANDEM_BINARY"], "chat", *map(str, words)], stdin=writer, stdout=writer,
            stderr=writer, start_new_session=True, env=environment, preexec_fn=self._own_terminal)
        os.close(writer)
        self.screen = ""
        self.seen = 0

    @staticmethod
    def _own_terminal():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def wait_for(self, pattern):
        """Reads until `pattern` stands behind what was waited for before; returns the match."""
        end = time.monotonic() + PATIENCE_S
        while True:
            if found := re.search(pattern, self.screen[self.seen:], re.S):
                self.seen += found.end()
                return found
            assert time.monotonic() < end, f"no {pattern!r} in {self.screen[self.seen:]!r}"
            if select.select([self.reader], [], [], 0.1)[0]:
                try:
                    self.screen += os.read(self.reader, 4096).decode(errors="replace")
                except OSError:  # the other end is closed
                    time.sleep(0.05)

    def type(self, text):
        os.write(self.reader, text.encode())

    def wait_for_prompt(self):
        """Until keys are the editor's; what comes sooner is the terminal's own line."""
        self.wait_for("> ")
        eventually(lambda: not termios.tcgetattr(self.reader)[3] & termios.ICANON)

    def say(self, text):
        self.wait_for_prompt()
        self.type(text + "\r")

    def end(self):
        code = self.process.wait(PATIENCE_S)
        os.close(self.reader)
        return code


@pytest.fixture
def terminal():
    """Starts programs in terminals; none is left behind."""
    started = []

    def start(*words):
        started.append(Terminal(*words))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def where(way, server):
    return GREEDY if way == "local" else ["--connect", server.grpc_address, "--temperature", "0"]


# In a pipe.


@pytest.mark.parametrize("way", ["local", "remote"])
def test_a_pipe_gets_the_answers_alone(server, way):
    ended = tandem("chat", *where(way, server), "--max-tokens", "8", stdin="Hello\n\nAgain\n")
    assert ended.returncode == DONE and ended.stderr == "", ended
    answers = tandem("chat", *where(way, server), "--max-tokens", "8", stdin="Hello\n").stdout
    assert ended.stdout.startswith(answers) and len(ended.stdout) > len(answers)
    assert "\033" not in ended.stdout


def test_here_and_at_a_server_the_answers_are_the_same(server):
    script = "/system Answer in one word.\nHello\nWhat is 3 + 4?\n"
    here = tandem("chat", *where("local", server), "--max-tokens", "24", stdin=script)
    there = tandem("chat", *where("remote", server), "--max-tokens", "24", stdin=script)
    assert here.returncode == there.returncode == DONE, (here, there)
    assert here.stdout == there.stdout != ""


def test_a_conversation_can_be_saved_and_loaded(tmp_path):
    file = tmp_path / "talk.json"
    ended = tandem("chat", *GREEDY, "-n", "8", "--system", "Be kind.", stdin=f"Hello\n/save {file}\n")
    assert ended.returncode == DONE, ended
    saved = json.loads(file.read_text())["messages"]
    assert [message["role"] for message in saved] == ["system", "user", "assistant"]
    assert saved[2]["content"] == ended.stdout.rstrip("\n")
    again = tmp_path / "again.json"
    ended = tandem("chat", *GREEDY, "-n", "8", "--load", file, stdin=f"More\n/save {again}\n")
    assert ended.returncode == DONE
    assert json.loads(again.read_text())["messages"][:3] == saved
    file.write_text(file.read_text()[:-20])
    message = fails(FAILED, "chat", *GREEDY, "--load", file)
    assert str(file) in message and "not JSON" in message


def test_a_message_that_is_too_long_is_refused():
    message = fails(FAILED, "chat", *GREEDY, "--max-context", "64", stdin="word " * 500 + "\n")
    assert "64" in message or "63" in message, message


def test_a_long_conversation_is_cut_and_goes_on(server):
    words = [*GREEDY, "--max-context", "160", "-n", "16"]
    ended = tandem("chat", *words, stdin="Tell me about the sea and the wind.\n" * 12)
    assert ended.returncode == DONE, ended
    assert "oldest" in ended.stderr and "left out" in ended.stderr


def test_a_model_that_was_not_trained_to_chat_is_refused(tmp_path):
    model = shutil.copytree(MODEL, tmp_path / "base")
    (model / "generation_config.json").write_text('{"eos_token_id": 1}')
    message = fails(FAILED, "chat", "--model", model, stdin="Hello\n")
    assert "was not trained to chat" in message and "--raw" in message


def test_what_contradicts_itself_is_refused():
    message = fails(USAGE, "chat", "--connect", "localhost:1", "--model", "x")
    assert "--connect" in message and "--model" in message
    assert "did you mean --thinking?" in fails(USAGE, "chat", "--thinkin")


def test_a_server_that_is_not_there():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        address = "127.0.0.1:%d" % closed.getsockname()[1]
        message = fails(FAILED, "chat", "--connect", address, stdin="Hello\n")
    assert f"nothing answers at {address}" in message and "tandem serve" in message


def test_a_server_that_drains():
    # Given a person who talks to a server.
    server = Server("--drain-grace-s", "0")
    chat = subprocess.Popen(
        [os.environ["TANDEM_BINARY"], "chat", "--connect", server.grpc_address, "-n", "4"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    chat.stdin.write("Hello\n")
    chat.stdin.flush()
    assert chat.stdout.readline() != ""
    # When the server is told to end, and the person goes on.
    server.process.send_signal(signal.SIGTERM)
    assert server.stop() == DONE
    out, error = chat.communicate("Again\n", timeout=PATIENCE_S)
    # Then there is a message that names the server.
    assert chat.returncode == FAILED and server.grpc_address in error, error


def test_an_interrupt_without_a_terminal_ends_everything():
    process = subprocess.Popen(
        [os.environ["TANDEM_BINARY"], "chat", "--model", str(DEMO)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True)
    process.stdin.write("Hello\n")
    process.stdin.flush()
    assert process.stdout.readline() != ""
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == INTERRUPTED
    process.stdin.close()
    process.stdout.close()


# In a terminal.


@pytest.mark.parametrize("way", ["local", "remote"])
def test_a_person_sees_answer_and_figures(terminal, server, way):
    chat = terminal(*where(way, server))
    chat.wait_for(r"/help lists the commands")
    chat.say("Hello")
    chat.wait_for(r"\d+ tokens?  .*first after [\d.]+ m?s")
    chat.say("/stats")
    chat.wait_for(r"answers 1  messages 2  tokens in \d+, out \d+")
    chat.wait_for_prompt()
    chat.type("\x04")  # Ctrl-D
    assert chat.end() == DONE


@pytest.mark.parametrize("way", ["local", "remote"])
def test_a_turn_tells_what_the_one_before_it_saved(terminal, server, way):
    # Given a message that fills blocks of the cache, and that nobody has sent before.
    chat = terminal(*where(way, server), "--max-tokens", "8")
    chat.say(" ".join(map(str, random.sample(range(1000), 60))))
    chat.wait_for(r"first after [\d.]+ m?s")
    assert "cached" not in chat.screen
    # When the conversation goes on, then it is not computed again.
    chat.say("And then?")
    chat.wait_for(r"first after [\d.]+ m?s  [\d ]+ of [\d ]+ prompt tokens cached")
    chat.say("/stats")
    chat.wait_for(r"tokens in [\d ]+ \([\d ]+ cached\), out \d+")
    chat.say("/quit")
    assert chat.end() == DONE


def test_keys_edit_the_line_and_recall_earlier_ones(terminal):
    chat = terminal(*GREEDY)
    chat.say("/sett temperature 1\x01\x1b[C\x1b[C\x1b[C\x1b[C\x04")  # home, four right, delete
    chat.wait_for("temperature 1 ")
    chat.wait_for_prompt()
    chat.type("\x1b[A\x7f2\r")  # up, backspace
    chat.wait_for("temperature 2 ")
    chat.say("/set seed 7é")
    chat.wait_for("seed is '7é'")
    chat.say("/quit")
    assert chat.end() == DONE


def endless(*more):
    """Words for a model that answers for minutes."""
    return ["--model", MODEL, "--cpu-isa", "ref", *more]


@pytest.mark.parametrize("way", ["local", "remote"])
def test_an_interrupt_stops_the_answer_only(terminal, way, monkeypatch):
    monkeypatch.setenv("TANDEM_MODEL", str(MODEL))
    server = Server("--cpu-isa", "ref") if way == "remote" else None
    words = ["--connect", server.grpc_address] if server else endless()
    chat = terminal(*words, "--seed", "1", "--temperature", "1.5")
    chat.wait_for(r"/help lists")
    chat.say("Hello")
    chat.wait_for(r"\.\.\..*\x1b\[K.+")  # the first of it
    chat.type("\x03")
    chat.wait_for(r"stopped")
    # It goes on with the next message, and says how to leave.
    chat.wait_for_prompt()
    chat.type("half a line\x03")
    chat.wait_for("Ctrl-D or /quit leaves")
    chat.say("/stats")
    chat.wait_for("answers 1  messages 2")
    chat.say("/quit")
    assert chat.end() == DONE
    if server:
        assert server.stop() == DONE


def test_a_request_to_end_is_followed_in_the_midst_of_an_answer(terminal):
    chat = terminal(*endless("--seed", "1", "--temperature", "1.5"))
    chat.say("Hello")
    chat.wait_for(r"\.\.\..*\x1b\[K.+")
    chat.process.send_signal(signal.SIGTERM)
    assert chat.end() == 128 + signal.SIGTERM


def test_a_request_to_end_is_followed_at_the_prompt(terminal):
    chat = terminal(*GREEDY)
    chat.wait_for_prompt()
    chat.process.send_signal(signal.SIGTERM)
    assert chat.end() == 128 + signal.SIGTERM
