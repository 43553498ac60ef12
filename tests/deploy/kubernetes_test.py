"""The manifests: valid, consistent with each other, and with what the program accepts and does."""

import json
import re
import subprocess
import tomllib

import grpc
import pytest
import yaml
from conftest import DEPLOY, REPOSITORY, eventually, run, system_tool, tool
from kustomize import identity, render

KUBERNETES = DEPLOY / "kubernetes"
DIRECTORIES = sorted(path.parent for path in KUBERNETES.rglob("kustomization.yaml"))
SERVING = [KUBERNETES / "base", KUBERNETES / "overlays" / "cpu"]  # what runs pods

every_directory = pytest.mark.parametrize("directory", DIRECTORIES, ids=lambda d: d.name)
every_serving = pytest.mark.parametrize("directory", SERVING, ids=lambda d: d.name)


def one(objects, kind):
    found = [thing for thing in objects if thing["kind"] == kind]
    assert len(found) == 1, f"{len(found)} of {kind}"
    return found[0]


def pod_of(directory):
    return one(render(directory), "Deployment")["spec"]["template"]


def container_of(directory):
    containers = pod_of(directory)["spec"]["containers"]
    assert len(containers) == 1
    return containers[0]


@every_directory
def test_a_kustomization_lists_exactly_the_files_beside_it(directory):
    kustomization = yaml.safe_load((directory / "kustomization.yaml").read_text())
    listed = kustomization["resources"] + [p["path"] for p in kustomization.get("patches", [])]
    beside = {path.name for path in directory.iterdir() if path.is_file()}
    assert {name for name in listed if "/" not in name} == beside - {"kustomization.yaml"}
    assert len(listed) == len(set(listed))


@every_serving
def test_the_objects_are_valid(directory, tmp_path):
    validate = tool("venv/bin/kubernetes-validate")
    objects = render(directory)
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    for release in ("1.30", "1.37"):  # the oldest with preStop.sleep; the newest it knows
        said = run(validate, "--strict", "-k", release, str(file))
        assert said.count(" passed for resource ") == len(objects)


@every_directory
def test_kubectl_renders_the_same_objects(directory):
    kubectl = system_tool("kubectl")
    version = json.loads(run(kubectl, "version", "--client", "-o", "json"))["clientVersion"]
    if (int(version["major"]), int(version["minor"].rstrip("+"))) < (1, 27):
        pytest.skip(f"kubectl {version['gitVersion']} has too old a Kustomize")
    rendered = list(yaml.safe_load_all(run(kubectl, "kustomize", str(directory))))
    assert sorted(rendered, key=identity) == sorted(render(directory), key=identity)


def test_yamllint_finds_nothing():
    rules = "{extends: default, rules: {line-length: {max: 160}, document-start: disable, " \
            "braces: {max-spaces-inside: 1}, comments: {min-spaces-from-content: 1}}}"
    run(system_tool("yamllint"), "--strict", "-d", rules, str(DEPLOY))


@every_serving
def test_the_image_is_of_this_version(directory):
    project = (REPOSITORY / "CMakeLists.txt").read_text()
    version = re.search(r"project\(tandem VERSION (\S+)", project)[1]
    assert container_of(directory)["image"].endswith(f"/tandem:{version}")


@every_serving
def test_selectors_match_the_pods(directory):
    objects = render(directory)
    labels = pod_of(directory)["metadata"]["labels"]
    deployment = one(objects, "Deployment")
    selectors = [deployment["spec"]["selector"]["matchLabels"],
                 one(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
                 *(o["spec"]["selector"] for o in objects if o["kind"] == "Service")]
    monitor = one(render(KUBERNETES / "overlays" / "monitoring"), "PodMonitor")
    selectors.append(monitor["spec"]["selector"]["matchLabels"])
    assert len(selectors) == 5
    for selector in selectors:
        assert selector and selector.items() <= labels.items()


@every_serving
def test_ports_are_those_of_the_container_and_of_the_program(directory, program):
    container = container_of(directory)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    settings = effective(program, directory)
    assert [f"0.0.0.0:{ports['grpc']}"] == settings["grpc_listen"]
    assert f"0.0.0.0:{ports['http']}" == settings["http_listen"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["grpc"]["port"] == ports["grpc"]
    for thing in render(directory):
        if thing["kind"] == "Service":
            for port in thing["spec"]["ports"]:
                assert port["port"] == ports[port["targetPort"]]
    annotations = pod_of(directory)["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["http"])
    assert annotations["prometheus.io/path"] == "/metrics"


def test_the_headless_service_has_no_address_of_its_own():
    services = [o for o in render(KUBERNETES / "base") if o["kind"] == "Service"]
    headless = {s["metadata"]["name"]: s["spec"].get("clusterIP") for s in services}
    assert headless == {"tandem-headless": "None", "tandem": None}


def test_probes_ask_for_health_services_that_the_program_has(server):
    container = container_of(KUBERNETES / "base")
    assert container["livenessProbe"]["grpc"]["service"] == "liveness"
    assert container["readinessProbe"]["grpc"]["service"] == "readiness"
    with server.channel() as channel:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            service = container[probe]["grpc"]["service"]
            eventually(lambda: health(channel, service) == b"\x08\x01")  # SERVING
        with pytest.raises(grpc.RpcError) as unknown:
            health(channel, "no-such-service")
        assert unknown.value.code() == grpc.StatusCode.NOT_FOUND


def health(channel, service):
    """HealthCheckResponse bytes; the request has the name as field 1."""
    name = service.encode()
    return channel.unary_unary("/grpc.health.v1.Health/Check")(
        b"\x0a" + bytes([len(name)]) + name, timeout=60)


def configuration(directory):
    """The configuration file of the pods, as text."""
    config_map = one(render(directory), "ConfigMap")
    spec = pod_of(directory)["spec"]
    volume = next(v for v in spec["volumes"] if v.get("configMap"))
    assert volume["configMap"]["name"] == config_map["metadata"]["name"]
    mount = next(m for m in spec["containers"][0]["volumeMounts"] if m["name"] == volume["name"])
    arguments = spec["containers"][0]["args"]
    file = arguments[arguments.index("--config") + 1].removeprefix(mount["mountPath"] + "/")
    return config_map["data"][file]


def effective(program, directory):
    """All settings in force with the pods' file, arguments and environment, as a dict."""
    container = container_of(directory)
    arguments = container["args"][1:]
    position = arguments.index("--config") + 1
    environment = {}
    for variable in container.get("env", []):
        # resourceFieldRef gives whole CPUs, rounded up.
        assert variable["valueFrom"]["resourceFieldRef"]["resource"] == "requests.cpu"
        environment[variable["name"]] = container["resources"]["requests"]["cpu"]
    arguments[position] = "/dev/stdin"
    done = subprocess.run([program, "config", *arguments], env=environment, text=True, timeout=60,
                          input=configuration(directory), capture_output=True)
    assert done.returncode == 0, done.stderr
    # Lines with a # in front are the defaults.
    return tomllib.loads(re.sub(r"^# (?=[a-z_]+ = )", "", done.stdout, flags=re.MULTILINE))


@every_serving
def test_the_program_accepts_the_configuration(directory, program):
    settings = effective(program, directory)
    for key, value in tomllib.loads(configuration(directory)).items():
        assert settings[key] == value
    for variable in container_of(directory)["env"]:
        key = variable["name"].removeprefix("TANDEM_").lower()
        assert settings[key] > 0, f"{variable['name']} has no effect"


@every_serving
def test_a_pod_has_the_time_that_it_needs_to_drain(directory, program):
    settings = effective(program, directory)
    container = container_of(directory)
    needed = (container["lifecycle"]["preStop"]["sleep"]["seconds"] + settings["drain_grace_s"]
              + settings["drain_timeout_s"] + 15)
    assert pod_of(directory)["spec"]["terminationGracePeriodSeconds"] >= needed


@every_serving
def test_liveness_is_slower_than_the_start_and_readiness_is_fast(directory):
    container = container_of(directory)
    liveness, readiness = container["livenessProbe"], container["readinessProbe"]
    seconds = {name: p["periodSeconds"] * p["failureThreshold"]
               for name, p in (("live", liveness), ("ready", readiness))}
    # A pod that drains must be out of the endpoints before it refuses calls.
    assert seconds["ready"] <= container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert seconds["live"] >= 60


@every_serving
def test_pods_can_not_write_and_have_no_rights(directory):
    spec = pod_of(directory)["spec"]
    container = spec["containers"][0]
    assert spec["securityContext"]["runAsNonRoot"]
    assert f"{spec['securityContext']['runAsUser']}" == "65532"  # USER of the Dockerfile
    assert not spec["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]}}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for mount in container["volumeMounts"]:
        writable = not mount.get("readOnly", False)
        assert writable == (mount["mountPath"] == "/tmp")
        assert not writable or "emptyDir" in volumes[mount["name"]]
    assert len(volumes) == len(container["volumeMounts"])


def test_the_cpu_overlay_asks_for_whole_cpus_of_its_own():
    resources = container_of(KUBERNETES / "overlays" / "cpu")["resources"]
    assert resources["requests"] == resources["limits"]
    assert str(int(resources["requests"]["cpu"])) == resources["requests"]["cpu"]


def test_the_base_does_not_throttle_but_bounds_memory():
    limits = container_of(KUBERNETES / "base")["resources"]["limits"]
    assert set(limits) == {"memory"}


def test_the_monitor_scrapes_a_port_and_path_that_exist(server):
    monitor = one(render(KUBERNETES / "overlays" / "monitoring"), "PodMonitor")
    assert set(monitor) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(monitor["spec"]) == {"jobLabel", "selector", "podMetricsEndpoints"}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert set(endpoint) == {"port", "path", "interval"}
    assert endpoint["port"] in {p["name"] for p in container_of(KUBERNETES / "base")["ports"]}
    assert server.http(endpoint["path"]).startswith("# HELP")
    # The rules look for job="tandem", which comes from this label of the pods.
    labels = pod_of(KUBERNETES / "base")["metadata"]["labels"]
    assert labels[monitor["spec"]["jobLabel"]] == "tandem"


def test_the_rule_object_is_the_rule_file():
    rules = (DEPLOY / "prometheus" / "rules.yaml").read_text()
    thing = one(render(KUBERNETES / "overlays" / "monitoring"), "PrometheusRule")
    assert thing["spec"] == yaml.safe_load(rules)
    generated = run("/usr/bin/python3", "-c",
                    "import to_prometheus_rule as t; print(t.prometheus_rule(), end='')",
                    cwd=DEPLOY / "prometheus")
    file = KUBERNETES / "overlays" / "monitoring" / "prometheusrule.yaml"
    assert file.read_text() == generated, "run deploy/prometheus/to_prometheus_rule.py"


def test_monitor_and_rules_carry_the_same_release_label():
    objects = render(KUBERNETES / "overlays" / "monitoring")
    assert len({o["metadata"]["labels"]["release"] for o in objects}) == 1
