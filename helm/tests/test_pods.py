"""Facts about every pod, in every example, that no schema sees."""

import re
import tomllib

import pytest
from chart import EXAMPLES, of_kind, one, pods, render, rendered, selects, values, workloads

# Each pod of each example is a case of its own.
PODS = [pytest.param(spec, id=f"{example} {name}") for example in EXAMPLES for name, (_, spec) in pods(rendered(example)).items()]
each_pod = pytest.mark.parametrize("spec", PODS)
each_example = pytest.mark.parametrize("example", EXAMPLES)
UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def number(quantity):
    digits, unit = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(quantity)).groups()
    return float(digits) * UNITS[unit]


@each_pod
def test_no_pod_gets_a_token_of_its_service_account(spec):
    assert spec["automountServiceAccountToken"] is False


def test_nor_does_the_service_account_give_one():
    [account] = of_kind(rendered("embedded"), "ServiceAccount")
    assert account["automountServiceAccountToken"] is False


@each_pod
def test_every_pod_runs_as_the_user_of_the_image(spec):
    security = spec["securityContext"]
    assert [security[key] for key in ("runAsUser", "runAsGroup", "fsGroup")] == [65532] * 3
    assert security["runAsNonRoot"] is True


@each_pod
def test_every_pod_has_the_default_seccomp_profile(spec):
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


@each_pod
def test_every_container_has_a_read_only_root_and_no_capabilities(spec):
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@each_pod
def test_no_pod_gets_variables_that_look_like_settings(spec):
    assert spec["enableServiceLinks"] is False


@each_pod
def test_requests_are_within_limits_and_memory_and_disk_have_one(spec):
    for container in spec["containers"]:
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert {"memory", "ephemeral-storage"} <= set(limits)
        for resource, limit in limits.items():
            assert number(requests[resource]) <= number(limit), resource


@each_pod
def test_every_port_has_a_name_of_its_own(spec):
    for container in spec["containers"]:
        names = [port.get("name") for port in container.get("ports", [])]
        assert None not in names and len(names) == len(set(names))


@each_pod
def test_what_is_mounted_is_a_volume_and_every_volume_is_mounted(spec):
    volumes = {volume["name"] for volume in spec.get("volumes", [])} | {"data"}
    mounted = {mount["name"] for container in spec["containers"] for mount in container.get("volumeMounts", [])}
    assert mounted | {"data"} == volumes


@each_pod
def test_no_hook_stands_before_the_signal(spec):
    # The server waits for the balancer itself, and the image has nothing to sleep with.
    assert all("lifecycle" not in container for container in spec["containers"])


@each_example
def test_probes_of_three_kinds_ask_the_operators_port(example):
    for workload in workloads(rendered(example)):
        [container] = workload["spec"]["template"]["spec"]["containers"]
        asked = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
        assert asked == {
            "startup": {"path": "/health/startup", "port": "operator"},
            "liveness": {"path": "/health/live", "port": "operator"},
            "readiness": {"path": "/health/ready", "port": "operator"},
        }


@each_example
def test_readiness_is_noticed_before_clients_are_sent_away(example):
    documents = rendered(example)
    wait = tomllib.loads(one(documents, "ConfigMap", "work-taskflow")["data"]["taskflow.toml"])["drain_wait_seconds"]
    for workload in workloads(documents):
        probe = workload["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"] < wait


@pytest.mark.parametrize("seconds", [60, 300])
def test_the_grace_period_outlasts_the_drain(seconds):
    documents = render(values("cluster", {"config": {"drain_seconds_max": seconds}}))
    for workload in workloads(documents):
        assert workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= seconds + 10


@each_example
def test_selectors_find_their_own_pods_and_no_others(example):
    documents = rendered(example)
    for workload in workloads(documents):
        selector = workload["spec"]["selector"]["matchLabels"]
        found = [name for name, (labels, _) in pods(documents).items() if selects(selector, labels)]
        assert found == [f"{workload['kind']} {workload['metadata']['name']}"]


@each_example
def test_services_find_pods_that_all_have_the_port(example):
    documents = rendered(example)
    for service in of_kind(documents, "Service"):
        found = [spec for labels, spec in pods(documents).values() if selects(service["spec"]["selector"], labels)]
        assert found, service["metadata"]["name"]
        for port in service["spec"]["ports"]:
            for spec in found:
                assert port["targetPort"] in [known["name"] for known in spec["containers"][0]["ports"]]


@each_example
def test_clients_are_led_to_the_pods_that_serve_them_only(example):
    documents = rendered(example)
    service = one(documents, "Service", "work-taskflow")
    found = [name for name, (labels, _) in pods(documents).items() if selects(service["spec"]["selector"], labels)]
    assert found in (["StatefulSet work-taskflow"], ["Deployment work-taskflow"])


@each_example
def test_the_operators_service_finds_every_node_also_one_that_drains(example):
    documents = rendered(example)
    spec = one(documents, "Service", "work-taskflow-operator")["spec"]
    found = [name for name, (labels, _) in pods(documents).items() if selects(spec["selector"], labels)]
    assert found == [f"{workload['kind']} {workload['metadata']['name']}" for workload in workloads(documents)]
    assert (spec["publishNotReadyAddresses"], spec["clusterIP"]) == (True, "None")


@each_example
def test_what_pods_refer_to_is_there_when_they_start(example):
    documents = rendered(example)
    hooks = {
        name: document["metadata"].get("annotations", {}).get("helm.sh/hook-weight")
        for document in documents
        for name in [(document["kind"], document["metadata"]["name"])]
    }
    for name, (_, spec) in pods(documents).items():
        is_migration = name.startswith("Job")
        for volume in spec.get("volumes", []):
            if "configMap" in volume:
                weight = hooks["ConfigMap", volume["configMap"]["name"]]
                assert (weight is not None and int(weight) < 0) == is_migration, name
            for source in volume.get("projected", {}).get("sources", []):
                made = hooks.get(("ExternalSecret", source["secret"]["name"]), "given")
                assert made == "given" or (made is not None) == is_migration, name
        # A hook runs before the release has its account.
        assert (spec.get("serviceAccountName") == "work-taskflow") == (not name.startswith(("Job", "Pod")))


@each_example
def test_images_are_the_one_of_this_version_unless_another_is_named(example):
    tag = values(example).get("image", {}).get("tag", "0.1.0")
    for name, (_, spec) in pods(rendered(example)).items():
        wanted = "busybox:1.37" if name.startswith("Pod") else f"ghcr.io/taskflow/taskflow:{tag}"
        assert [container["image"] for container in spec["containers"]] == [wanted]


def test_every_pod_has_the_logins_for_its_image():
    assert {name: spec["imagePullSecrets"] for name, (_, spec) in pods(rendered("full")).items()} == {
        name: [{"name": "images"}] for name in pods(rendered("full"))
    }


@pytest.mark.parametrize("release", ["a-release-with-a-name-of-as-many-letters-as-helm-takes", "taskflow"])
def test_no_name_is_longer_than_kubernetes_takes_and_none_is_there_twice(release):
    documents = render(values("full"), release=release[:53])
    names = [(document["kind"], document["metadata"]["name"]) for document in documents]
    # What pods are made of gets more letters behind it.
    makers = [name.split()[1] for name in pods(documents)]
    assert makers and all(len(name) <= 63 - 11 for name in makers) and all(len(name) <= 63 for _, name in names)
    assert len(names) == len(set(names))
