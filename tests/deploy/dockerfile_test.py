"""The Dockerfile, without Docker: its instructions, and what it copies and installs."""

import json
import pathlib
import re
import shlex
import subprocess

import pytest
from conftest import REPOSITORY, eventually, run, system_tool


class Stage:
    def __init__(self, base):
        self.base = base
        self.instructions = []  # (instruction, arguments) in order

    def all(self, name):
        return [arguments for instruction, arguments in self.instructions if instruction == name]

    def only(self, name):
        found = self.all(name)
        assert len(found) == 1, f"{name}: {found}"
        return found[0]


@pytest.fixture(scope="module")
def stages():
    """The build stage and the final one."""
    text = re.sub(r"^\s*#.*\n", "", (REPOSITORY / "Dockerfile").read_text(), flags=re.MULTILINE)
    found = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if not line.strip():
            continue
        instruction, arguments = line.split(maxsplit=1)
        if instruction == "FROM":
            found.append(Stage(arguments))
        else:
            found[-1].instructions.append((instruction, arguments.strip()))
    return found


def test_the_program_is_built_on_the_release_it_runs_on(stages):
    build, final = stages
    release = re.fullmatch(r"debian:(\d+) AS build", build.base)[1]
    assert final.base == f"debian:{release}-slim"


def test_the_build_leaves_packages_to_setup_and_files_to_the_install_rules(stages):
    build, final = stages
    command = build.only("RUN")
    assert "./setup " in command and "apt" not in command
    prefix = re.search(r"cmake --install build/release --prefix (\S+) --strip", command)[1]
    assert final.only("COPY") == f"--from=build {prefix} {prefix}"
    assert json.loads(final.only("ENTRYPOINT")) == [f"{prefix}/bin/tandem"]


def test_the_final_user_is_numeric_owns_nothing_and_is_the_last_to_be_set(stages):
    final = stages[-1]
    assert final.only("USER") == "65532:65532"
    names = [name for name, _ in final.instructions]
    assert not {"RUN", "COPY", "ADD", "USER"} & set(names[names.index("USER") + 1:])
    assert "--chown" not in final.only("COPY") and not final.all("VOLUME")


def test_no_shell_stands_between_signals_and_the_program(stages):
    final = stages[-1]
    assert final.only("STOPSIGNAL") == "SIGTERM"
    for form in ("ENTRYPOINT", "CMD"):
        words = json.loads(final.only(form))  # the exec form is JSON, the shell form is not
        assert words and all(isinstance(word, str) for word in words)
    assert not final.all("HEALTHCHECK")  # probes belong to who runs it


def test_the_labels_name_the_image(stages):
    final = stages[-1]
    labels = dict(word.split("=", 1) for word in shlex.split(final.only("LABEL")))
    arguments = dict(argument.split("=", 1) for argument in final.all("ARG"))
    for name in ("source", "version", "revision", "licenses"):
        value = labels[f"org.opencontainers.image.{name}"]
        assert value == f"${{{name.upper()}}}" and arguments[name.upper()]
    project = (REPOSITORY / "CMakeLists.txt").read_text()
    assert arguments["VERSION"] == re.search(r"project\(tandem VERSION (\S+)", project)[1]


def test_the_exposed_ports_are_the_ones_it_listens_on(stages, program):
    settings = run(program, "config")
    listens = re.findall(r'^# (?:grpc|http)_listen = .*?:(\d+)"', settings, flags=re.MULTILINE)
    assert stages[-1].only("EXPOSE").split() == listens


def test_without_arguments_it_serves_the_model_that_lies_beside_it(stages, installed, server):
    assert json.loads(stages[-1].only("CMD")) == ["serve"]  # as the fixture `server` does
    assert (installed / "share/tandem/models/demo/model.safetensors").exists()
    assert "model: name=demo" in server.log.read_text()


def test_the_image_can_ask_for_its_own_health(program, server):
    # For those who run probes as commands in the container; Kubernetes asks by itself.
    probe = [program, "health", "--address", server.grpc_address, "--service"]
    eventually(lambda: subprocess.run([*probe, "readiness"], check=False).returncode == 0)
    assert subprocess.run([*probe, "no-such-service"], check=False).returncode == 1


def owners(program):
    """The packages of the libraries that `program` names."""
    resolved = dict(re.findall(r"(\S+) => (\S+)", run("ldd", program)))
    needed = re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", program))
    # Some packages list /lib, some /usr/lib; it is one directory.
    files = {resolved[library].removeprefix("/usr") for library in needed if library in resolved}
    both = [prefix + file for file in files for prefix in ("", "/usr")]
    listing = run("sh", "-c", 'dpkg-query -S "$@" 2>/dev/null || true', "sh", *both)
    owner = {file.removeprefix("/usr"): package.split(":")[0]
             for package, file in (line.split(": ") for line in listing.splitlines())}
    return {owner[file] for file in files}


def test_the_final_image_installs_exactly_what_the_program_is_linked_to(stages, program):
    system_tool("dpkg-query")
    release = re.search(r"\d+", stages[-1].base)[0]
    if f'VERSION_ID="{release}"' not in pathlib.Path("/etc/os-release").read_text():
        pytest.skip(f"packages have other names than in Debian {release}")
    command = re.search(r"--no-install-recommends (.*?)&&", stages[-1].only("RUN"))[1]
    in_every_image = {"libc6", "libgcc-s1"}
    assert set(command.split()) == owners(program) - in_every_image


def test_the_context_leaves_out_what_is_large_and_nothing_that_is_built():
    ignored = (REPOSITORY / ".dockerignore").read_text().split()
    assert {".git", "build"} <= set(ignored)
    project = (REPOSITORY / "CMakeLists.txt").read_text()
    folders = set(re.findall(r"add_subdirectory\((\w+)\)", project)) - {"tests"}
    needed = folders | {"setup", "CMakeLists.txt", "CMakePresets.json", "models"}
    assert folders and not needed & set(ignored)
