"""What the two modes are, and what each value does."""

import json
import shutil
import tomllib

import pytest
import yaml
from chart import CHART, EXAMPLES, of_kind, one, pods, render, rendered, selects, values, workloads
from generate import PRICES, settings

SECRET = {"signing_key", "redis", "smtp", "sentry_dsn", "cql_password_file", "cql_tls_ca", "tls_certificate", "tls_key"}


def settings_file(documents, name="work-taskflow"):
    return tomllib.loads(one(documents, "ConfigMap", name)["data"]["taskflow.toml"])


def container(documents, kind, name):
    return one(documents, kind, name)["spec"]["template"]["spec"]["containers"][0]


def variables(documents, kind, name):
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container(documents, kind, name)["env"]}


def metrics_of(autoscaler):
    found = {}
    for metric in autoscaler["spec"]["metrics"]:
        if metric["type"] == "Resource":
            found[metric["resource"]["name"]] = metric["resource"]["target"]["averageUtilization"]
        else:
            found[metric["pods"]["metric"]["name"]] = metric["pods"]["target"]["averageValue"]
    return found


# Embedded.


def test_embedded_is_one_pod_with_a_volume():
    [only] = workloads(rendered("embedded"))
    assert (only["kind"], only["spec"]["replicas"]) == ("StatefulSet", 1)
    [claim] = only["spec"]["volumeClaimTemplates"]
    assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}}


def test_the_volume_is_as_large_and_of_the_class_that_is_asked_for():
    [claim] = one(rendered("tls"), "StatefulSet", "work-taskflow")["spec"]["volumeClaimTemplates"]
    assert (claim["spec"]["resources"]["requests"]["storage"], claim["spec"]["storageClassName"]) == ("20Gi", "local")


def test_the_data_folder_is_one_of_its_own_in_the_volume():
    documents = rendered("embedded")
    [mount] = [mount for mount in container(documents, "StatefulSet", "work-taskflow")["volumeMounts"] if mount["name"] == "data"]
    assert settings_file(documents)["data_dir"] == mount["mountPath"] + "/data"
    assert not mount.get("readOnly")


def test_the_key_in_the_volume_stays_for_its_owner_only():
    spec = one(rendered("embedded"), "StatefulSet", "work-taskflow")["spec"]["template"]["spec"]
    assert spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


def test_the_set_is_governed_by_a_service_without_an_address():
    documents = rendered("embedded")
    name = one(documents, "StatefulSet", "work-taskflow")["spec"]["serviceName"]
    assert one(documents, "Service", name)["spec"]["clusterIP"] == "None"


@pytest.mark.parametrize("kind", ["Job", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Deployment"])
def test_embedded_has_nothing_of_a_cluster(kind):
    assert of_kind(rendered("embedded"), kind) == []


# Settings.


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_setting_is_one_of_docs_operations(example):
    assert set(settings_file(rendered(example))) <= set(settings())


@pytest.mark.parametrize("example", EXAMPLES)
def test_no_setting_that_is_secret_is_in_a_config_map(example):
    for document in of_kind(rendered(example), "ConfigMap"):
        if "grafana_dashboard" in document["metadata"]["labels"]:
            continue
        found = set(tomllib.loads(document["data"]["taskflow.toml"])) & SECRET
        # An address of Redis without a password in it is none.
        assert found <= {"redis"} and "@" not in json.dumps(document["data"]["taskflow.toml"].split("mail_from")[0])


def test_settings_keep_their_types_on_the_way_to_the_server():
    given = {
        "mail_from": 'say "no" \\ <&> \n',
        "sign_in_attempts_max": 0,
        "outbound_bytes_total_max": 500_000_000,
        "trace_sample_ratio": 0.25,
        "behind_proxy": False,
        "origins_allowed": [],
        "issuers": [{"issuer": "https://a.example", "audience": "b"}, {"issuer": "https://c.example", "audience": "d"}],
    }
    read = settings_file(render(values("embedded", {"config": given})))
    assert {key: read[key] for key in given} == given
    assert type(read["sign_in_attempts_max"]) is int and type(read["outbound_bytes_total_max"]) is int
    assert settings_file(rendered("full"))["trace_sample_ratio"] == 0.1


@pytest.mark.parametrize("ratio", ["0.25", "1e-05"])
def test_numbers_that_are_set_by_flags_are_numbers(ratio):
    # Helm makes a string of what is not whole.
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["config"]["properties"]
    ratios = [key for key, what in schema.items() if "number" in what.get("type", ())]
    flags = ["--set", "config.workers=2,config.outbound_bytes_total_max=500000000"]
    flags += [flag for key in ratios for flag in ("--set", f"config.{key}={ratio}")]
    read = settings_file(render(values("embedded"), flags=flags))
    assert ratios and [read[key] for key in ratios] == [float(ratio)] * len(ratios)
    assert [(read[key], type(read[key])) for key in ("workers", "outbound_bytes_total_max")] == [(2, int), (500_000_000, int)]


@pytest.mark.parametrize(
    ("example", "store", "data_dir"), [("embedded", "embedded", "/var/lib/taskflow/data"), ("cluster", "cql", None)]
)
def test_the_store_follows_from_the_mode(example, store, data_dir):
    read = settings_file(rendered(example))
    assert (read["store"], read.get("data_dir")) == (store, data_dir)


def checksum(documents):
    return {workload["spec"]["template"]["metadata"]["annotations"]["checksum/config"] for workload in workloads(documents)}


def test_other_settings_are_other_pods():
    assert checksum(rendered("full")) != checksum(render(values("full", {"config": {"log_level": "debug"}})))


def test_what_is_no_setting_leaves_the_pods_alone():
    more = {"server": {"autoscaling": {"max": 30}}, "service": {"port": 81}, "ingress": {"className": "other"}}
    assert workloads(rendered("full")) == workloads(render(values("full", more)))


# Secrets.


def test_a_setting_from_a_secret_is_a_file_that_the_server_is_told_of():
    found = variables(rendered("full"), "Deployment", "work-taskflow")
    folder = "/run/secrets/taskflow"
    assert {name: value for name, value in found.items() if str(value).startswith(folder)} == {
        "TASKFLOW_SIGNING_KEY_FILE": f"{folder}/signing_key",
        "TASKFLOW_REDIS_FILE": f"{folder}/redis",
        "TASKFLOW_SMTP_FILE": f"{folder}/smtp",
        "TASKFLOW_SENTRY_DSN_FILE": f"{folder}/sentry_dsn",
        "TASKFLOW_CQL_PASSWORD_FILE": f"{folder}/cql_password",
        "TASKFLOW_CQL_TLS_CA": f"{folder}/cql_tls_ca",
    }


def test_files_of_tls_are_named_by_the_settings_that_name_files():
    found = variables(rendered("tls"), "StatefulSet", "work-taskflow")
    assert found["TASKFLOW_TLS_CERTIFICATE"] == "/run/secrets/taskflow/tls_certificate"
    assert found["TASKFLOW_TLS_KEY"] == "/run/secrets/taskflow/tls_key"


@pytest.mark.parametrize(("kind", "name"), [("Deployment", "work-taskflow"), ("Job", "work-taskflow-migrate")])
def test_secrets_are_where_the_variables_say_and_for_the_group_only(kind, name):
    spec = one(rendered("full"), kind, name)["spec"]["template"]["spec"]
    [volume] = [volume["projected"] for volume in spec["volumes"] if volume["name"] == "secrets"]
    assert volume["defaultMode"] == 0o440
    assert {
        item["path"]: (source["secret"]["name"], item["key"])
        for source in volume["sources"]
        for item in source["secret"]["items"]
    } == {setting: (where["name"], where["key"]) for setting, where in values("full")["secrets"].items()}
    [mount] = [mount for mount in spec["containers"][0]["volumeMounts"] if mount["name"] == "secrets"]
    assert mount == {"name": "secrets", "mountPath": "/run/secrets/taskflow", "readOnly": True}


def test_every_variable_is_one_of_docs_operations():
    known = {*settings(), "config"}
    for example in EXAMPLES:
        for _, spec in pods(rendered(example)).values():
            for entry in spec["containers"][0].get("env", []):
                key = entry["name"].removeprefix("TASKFLOW_").lower()
                assert key in known or key.removesuffix("_file") in known, entry


def test_an_external_secret_makes_what_the_pods_mount():
    documents = rendered("prod")
    for name, kind, of in [
        ("work-taskflow", "Deployment", "work-taskflow"),
        ("work-taskflow-migrate", "Job", "work-taskflow-migrate"),
    ]:
        secret = one(documents, "ExternalSecret", name)["spec"]
        assert secret["secretStoreRef"] == {"kind": "ClusterSecretStore", "name": "vault"}
        made = {entry["secretKey"]: entry["remoteRef"] for entry in secret["data"]}
        assert made == values("prod")["externalSecret"]["data"]
        spec = one(documents, kind, of)["spec"]["template"]["spec"]
        [volume] = [volume["projected"] for volume in spec["volumes"] if volume["name"] == "secrets"]
        mounted = {(source["secret"]["name"], item["key"]) for source in volume["sources"] for item in source["secret"]["items"]}
        assert mounted == {(secret["target"]["name"], key) for key in made}


# Cluster.


def test_a_node_goes_by_the_name_of_its_pod():
    found = variables(rendered("cluster"), "Deployment", "work-taskflow")
    assert found["TASKFLOW_NODE_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}


@pytest.mark.parametrize(
    ("example", "name", "roles"),
    [
        ("cluster", "work-taskflow", "gateway,feeds"),
        ("full", "work-taskflow", "gateway"),
        ("full", "work-taskflow-feeds", "feeds"),
    ],
)
def test_each_deployment_has_its_roles(example, name, roles):
    assert variables(rendered(example), "Deployment", name)["TASKFLOW_ROLES"] == roles


def test_who_hosts_feeds_only_has_no_port_for_clients():
    ports = container(rendered("full"), "Deployment", "work-taskflow-feeds")["ports"]
    assert [port["name"] for port in ports] == ["operator"]


def test_ports_are_those_that_the_settings_say():
    documents = render(values("cluster", {"config": {"listen": "[::]:9000", "operator_listen": "[::]:9001"}}))
    ports = container(documents, "Deployment", "work-taskflow")["ports"]
    assert [(port["name"], port["containerPort"]) for port in ports] == [("clients", 9000), ("operator", 9001)]


@pytest.mark.parametrize(("more", "replicas"), [({}, 3), ({"server": {"replicas": 5}}, 5)])
def test_a_cluster_has_three_pods_or_as_many_as_it_says(more, replicas):
    [only] = workloads(render(values("cluster", more)))
    assert only["spec"]["replicas"] == replicas


@pytest.mark.parametrize("example", ["cluster", "full", "prod"])
def test_an_update_adds_a_pod_before_it_stops_one_and_lets_each_drain_alone(example):
    for deployment in of_kind(rendered(example), "Deployment"):
        spec = deployment["spec"]
        assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
        assert spec["minReadySeconds"] == settings_file(rendered(example))["drain_seconds_max"]
        # Kubernetes refuses it otherwise.
        assert spec["progressDeadlineSeconds"] > spec["minReadySeconds"]


@pytest.mark.parametrize("example", ["cluster", "full", "prod"])
def test_pods_are_spread_and_those_of_an_old_version_do_not_count(example):
    for deployment in of_kind(rendered(example), "Deployment"):
        template = deployment["spec"]["template"]
        spread = template["spec"]["topologySpreadConstraints"]
        assert [constraint["topologyKey"] for constraint in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        for constraint in spread:
            assert constraint["labelSelector"]["matchLabels"] == deployment["spec"]["selector"]["matchLabels"]
            assert constraint["matchLabelKeys"] == ["pod-template-hash"]
            assert (constraint["maxSkew"], constraint["whenUnsatisfiable"]) == (1, "ScheduleAnyway")


def test_each_deployment_goes_to_the_machines_that_are_meant_for_it():
    documents, given = rendered("full"), values("full")
    server = one(documents, "Deployment", "work-taskflow")["spec"]["template"]["spec"]
    feeds = one(documents, "Deployment", "work-taskflow-feeds")["spec"]["template"]["spec"]
    assert server["tolerations"] == given["server"]["tolerations"]
    assert (feeds["nodeSelector"], feeds["affinity"]) == (given["feeds"]["nodeSelector"], given["feeds"]["affinity"])
    assert "tolerations" not in feeds and "nodeSelector" not in server and "affinity" not in server


# Scaling.


def test_pods_are_scaled_on_cpu_memory_and_connections():
    scaled = one(rendered("full"), "HorizontalPodAutoscaler", "work-taskflow")
    assert metrics_of(scaled) == {"cpu": 70, "memory": 80, "taskflow_connections": "20000"}
    assert metrics_of(one(rendered("full"), "HorizontalPodAutoscaler", "work-taskflow-feeds")) == {"cpu": 70, "memory": 80}


def test_what_is_zero_is_not_looked_at():
    documents = render(values("full", {"server": {"autoscaling": {"cpu": 0, "memory": 0}}}))
    assert metrics_of(one(documents, "HorizontalPodAutoscaler", "work-taskflow")) == {"taskflow_connections": "20000"}


def test_the_metric_of_connections_is_one_that_the_server_has():
    page = (CHART.parents[1] / "docs/metrics.md").read_text()
    assert "| `taskflow_connections` |" in page


def test_what_is_scaled_has_no_number_of_pods_beside():
    documents = rendered("full")
    scalers = of_kind(documents, "HorizontalPodAutoscaler")
    assert len(scalers) == 2
    for scaler in scalers:
        target = scaler["spec"]["scaleTargetRef"]
        assert "replicas" not in one(documents, target["kind"], target["name"])["spec"]
        assert scaler["spec"]["maxReplicas"] >= scaler["spec"]["minReplicas"]


def test_pods_go_one_by_one_and_only_after_the_one_before_has_drained():
    documents = rendered("full")
    for scaler in of_kind(documents, "HorizontalPodAutoscaler"):
        down = scaler["spec"]["behavior"]["scaleDown"]
        [policy] = down["policies"]
        grace = one(documents, "Deployment", "work-taskflow")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert (policy["type"], policy["value"]) == ("Pods", 1) and policy["periodSeconds"] >= grace
        assert down["stabilizationWindowSeconds"] == 600


def test_a_drain_that_lasts_longer_than_kubernetes_counts_is_cut_to_that():
    documents = render(values("full", {"config": {"drain_seconds_max": 3600}}))
    [policy] = one(documents, "HorizontalPodAutoscaler", "work-taskflow")["spec"]["behavior"]["scaleDown"]["policies"]
    assert policy["periodSeconds"] == 1800


@pytest.mark.parametrize("example", ["cluster", "full", "prod"])
def test_every_deployment_has_a_budget_with_one_bound(example):
    documents = rendered(example)
    for deployment in of_kind(documents, "Deployment"):
        spec = one(documents, "PodDisruptionBudget", deployment["metadata"]["name"])["spec"]
        assert len({"minAvailable", "maxUnavailable"} & set(spec)) == 1
        assert spec["selector"]["matchLabels"] == deployment["spec"]["selector"]["matchLabels"]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({}, ("maxUnavailable", 1)),
        ({"maxUnavailable": 2}, ("maxUnavailable", 2)),
        ({"minAvailable": 2}, ("minAvailable", 2)),
        # Two of three.
        ({"minAvailable": "66%"}, ("minAvailable", "66%")),
        ({"minAvailable": 0}, ("minAvailable", 0)),
    ],
)
def test_the_bound_is_the_one_that_is_given_or_one_pod(bounds, expected):
    spec = one(render(values("cluster", {"podDisruptionBudget": bounds})), "PodDisruptionBudget", "work-taskflow")["spec"]
    assert spec[expected[0]] == expected[1]


# Migration.


@pytest.mark.parametrize("example", ["cluster", "full", "prod"])
def test_the_schema_is_migrated_before_pods_start(example):
    documents = rendered(example)
    job = one(documents, "Job", "work-taskflow-migrate")
    assert job["metadata"]["annotations"] == {
        "helm.sh/hook": "pre-install,pre-upgrade",
        "helm.sh/hook-weight": "0",
        "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
    }
    assert container(documents, "Job", "work-taskflow-migrate")["args"] == ["migrate"]
    assert settings_file(documents, "work-taskflow-migrate") == settings_file(documents)


def test_the_migration_may_go_where_pods_may_and_nobody_comes_to_it():
    documents = rendered("full")
    migrate = one(documents, "NetworkPolicy", "work-taskflow-migrate")
    assert int(migrate["metadata"]["annotations"]["helm.sh/hook-weight"]) < 0
    assert migrate["spec"]["egress"] == one(documents, "NetworkPolicy", "work-taskflow")["spec"]["egress"]
    assert "ingress" not in migrate["spec"] and migrate["spec"]["policyTypes"] == ["Ingress", "Egress"]
    [(labels, _)] = [pod for name, pod in pods(documents).items() if name.startswith("Job")]
    assert selects(migrate["spec"]["podSelector"]["matchLabels"], labels)


# The network.


def rules(example, name="work-taskflow", direction="ingress", documents=None):
    spec = one(documents or rendered(example), "NetworkPolicy", name)["spec"]
    side = {"ingress": "from", "egress": "to"}[direction]
    return {tuple(port["port"] for port in rule["ports"]): rule.get(side) for rule in spec[direction]}


MONITORING = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]


def test_clients_come_from_anywhere_unless_it_is_said_from_where():
    assert rules("prod") == {("clients",): None, ("operator",): MONITORING}
    test = {"podSelector": {"matchLabels": one(rendered("full"), "Pod", "work-taskflow-test")["metadata"]["labels"]}}
    selector = rules("full")["clients",][1]["podSelector"]["matchLabels"]
    assert rules("full")["clients",][0] == values("full")["networkPolicy"]["clients"][0]
    assert selects(selector, test["podSelector"]["matchLabels"])


def test_the_operators_port_is_for_the_namespace_of_monitoring_only():
    assert rules("full")["operator",] == MONITORING
    assert rules("full", "work-taskflow-feeds") == {("operator",): MONITORING}


def test_pods_go_only_where_what_they_use_is():
    data = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "data"}}}]
    assert rules("full", direction="egress") == {
        (53, 53): None,
        (9142,): data,
        (443,): None,
        (4318,): None,
        (6379, 26379): None,
        (465, 587): None,
        (9000,): None,
    }
    assert rules("prod", direction="egress") == {(53, 53): None, (9042,): None, (6379, 26379): None}
    assert rules("tls", direction="egress") == {(53, 53): None}


def test_an_address_that_is_in_a_secret_is_one_that_is_used():
    secret = {"name": "traces", "key": "url"}
    documents = render(values("tls", {"secrets": {"otlp_endpoint": secret}}))
    assert rules("tls", direction="egress", documents=documents) == {(53, 53): None, (4318,): None}
    found = variables(documents, "StatefulSet", "work-taskflow")
    assert found["TASKFLOW_OTLP_ENDPOINT_FILE"] == "/run/secrets/taskflow/otlp_endpoint"


@pytest.mark.parametrize(
    ("more", "ports"),
    [
        ({"config": {"otlp_endpoint": "http://c:9999/"}, "networkPolicy": {"egress": {"otlp": {"ports": [9999]}}}}, (9999,)),
        ({"config": {"smtp": "smtp://mail.example?tls=required"}}, (465, 587)),
        ({"config": {"issuers": [{"issuer": "https://id.example", "audience": "a"}]}}, (443,)),
    ],
)
def test_ports_that_addresses_lead_to_are_ones_that_pods_may_go_to(more, ports):
    assert set(rules("tls", direction="egress", documents=render(values("tls", more)))) == {(53, 53), ports}


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_policy_is_of_one_workload_and_closes_both_directions(example):
    documents = rendered(example)
    for policy in of_kind(documents, "NetworkPolicy"):
        found = [
            name for name, (labels, _) in pods(documents).items() if selects(policy["spec"]["podSelector"]["matchLabels"], labels)
        ]
        assert len(found) == 1 and found[0].endswith(" " + policy["metadata"]["name"])
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


@pytest.mark.parametrize("kind", ["NetworkPolicy", "Ingress", "HTTPRoute", "ServiceMonitor", "PrometheusRule", "ExternalSecret"])
def test_what_nobody_asked_for_is_not_there(kind):
    assert of_kind(rendered("cluster"), kind) == []


def test_an_ingress_leads_every_name_to_the_clients_port_and_keeps_connections_open():
    ingress = one(rendered("full"), "Ingress", "work-taskflow")
    hosts = values("full")["config"]["hosts"]
    assert ingress["spec"]["tls"] == [{"secretName": "tasks-example", "hosts": hosts}]
    assert ingress["spec"]["ingressClassName"] == "nginx"
    assert [rule["host"] for rule in ingress["spec"]["rules"]] == hosts
    for rule in ingress["spec"]["rules"]:
        [path] = rule["http"]["paths"]
        assert (path["path"], path["pathType"]) == ("/", "Prefix")
        assert path["backend"]["service"] == {"name": "work-taskflow", "port": {"name": "clients"}}
    kept = ingress["metadata"]["annotations"]
    assert int(kept["nginx.ingress.kubernetes.io/proxy-read-timeout"]) >= 3600
    assert kept["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"


def test_a_route_leads_every_name_to_the_service_without_a_time_out():
    route = one(rendered("full"), "HTTPRoute", "work-taskflow")["spec"]
    service = one(rendered("full"), "Service", "work-taskflow")["spec"]
    assert route["hostnames"] == values("full")["config"]["hosts"]
    assert route["parentRefs"] == values("full")["httpRoute"]["parentRefs"]
    [rule] = route["rules"]
    assert rule["timeouts"] == {"request": "0s"}
    assert rule["backendRefs"] == [{"name": "work-taskflow", "port": service["ports"][0]["port"]}]
    assert service["ports"][0]["appProtocol"] == "kubernetes.io/ws"


def test_without_a_route_the_service_does_not_say_what_it_speaks():
    assert "appProtocol" not in one(rendered("cluster"), "Service", "work-taskflow")["spec"]["ports"][0]


def test_a_balancer_in_front_leaves_clients_their_addresses():
    spec = one(rendered("tls"), "Service", "work-taskflow")["spec"]
    assert (spec["type"], spec["externalTrafficPolicy"], spec["ports"][0]["port"]) == ("LoadBalancer", "Local", 443)
    assert "externalTrafficPolicy" not in one(rendered("embedded"), "Service", "work-taskflow")["spec"]


def test_an_ingress_whose_controller_is_told_to_send_proxy_headers_may_lead_to_who_expects_them():
    more = {"config": {"proxy_protocol": True}, "ingress": {"annotations": {"haproxy.org/send-proxy-protocol": "proxy-v2"}}}
    assert settings_file(render(values("full", more)))["proxy_protocol"] is True


def test_a_service_has_the_annotations_that_are_given():
    documents = render(values("tls", {"service": {"annotations": {"a": "b"}}}))
    assert one(documents, "Service", "work-taskflow")["metadata"]["annotations"] == {"a": "b"}


# Metrics, alerts, dashboards.


def test_a_service_monitor_finds_the_operators_service():
    documents = rendered("full")
    monitor = one(documents, "ServiceMonitor", "work-taskflow")
    found = [
        service
        for service in of_kind(documents, "Service")
        if selects(monitor["spec"]["selector"]["matchLabels"], service["metadata"]["labels"])
    ]
    assert [service["metadata"]["name"] for service in found] == ["work-taskflow-operator"]
    assert monitor["spec"]["endpoints"] == [{"port": found[0]["spec"]["ports"][0]["name"], "path": "/metrics", "interval": "15s"}]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


@pytest.mark.parametrize("example", EXAMPLES)
def test_pods_are_scraped_in_one_way_at_most(example):
    documents = rendered(example)
    annotated = [
        workload
        for workload in workloads(documents)
        if "prometheus.io/scrape" in workload["spec"]["template"]["metadata"]["annotations"]
    ]
    assert bool(annotated) == (example == "prod") and bool(of_kind(documents, "ServiceMonitor")) == (example == "full")


def test_annotations_name_the_operators_port():
    found = one(rendered("prod"), "Deployment", "work-taskflow")["spec"]["template"]["metadata"]["annotations"]
    assert (found["prometheus.io/port"], found["prometheus.io/path"]) == ("9464", "/metrics")


DASHBOARD = '{\n  "title": "{{ well }}",\n  "panels": []\n}\n'
RULES = """# A comment.
groups:
  - name: taskflow
    rules:
      - alert: TaskflowLate
        expr: taskflow_bus_up == 0
        for: 5m
        labels: {severity: page}
        annotations: {summary: "{{ $labels.pod }} is late"}
"""


@pytest.fixture(scope="module")
def with_files(tmp_path_factory):
    """The chart with a dashboard and a file of rules."""
    chart = tmp_path_factory.mktemp("chart") / "taskflow"
    shutil.copytree(CHART, chart, ignore=shutil.ignore_patterns("files"))
    for path, text in [("dashboards/Is_it_well.json", DASHBOARD), ("rules/slo.yml", RULES)]:
        (chart / "files" / path).parent.mkdir(parents=True, exist_ok=True)
        (chart / "files" / path).write_text(text)
    return chart


def test_dashboards_are_config_maps_that_the_sidecar_finds(with_files):
    found = one(render(values("full"), chart=with_files), "ConfigMap", "work-taskflow-dashboard-is-it-well")
    assert found["data"]["Is_it_well.json"] == DASHBOARD.strip()
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_alerts_are_rules_as_they_were_written(with_files):
    found = one(render(values("full"), chart=with_files), "PrometheusRule", "work-taskflow-slo")
    [group] = found["spec"]["groups"]
    assert group["rules"][0]["annotations"] == {"summary": "{{ $labels.pod }} is late"}
    assert found["metadata"]["labels"]["release"] == "prometheus"


def test_prices_are_those_of_the_values_and_of_this_release_alone():
    def prices(example, **more):
        found = one(render(values(example) | more), "PrometheusRule", "work-taskflow-prices")
        [group] = found["spec"]["groups"]
        return {rule["record"]: rule["expr"] for rule in group["rules"]}

    here = 'taskflow_ready{namespace="tasks", job="work-taskflow-operator"}'
    dear = prices("full", cost={"nodeHour": 1.25, "budgetDay": 1000000})
    assert dear["taskflow:price_node_hour"] == f"1.25 * group by (namespace, job) ({here})"
    assert float(dear["taskflow:budget_day"].split(" * ")[0]) == 1_000_000
    # Whoever finds the pods by annotations has jobs of other names.
    usual = prices("full", metrics={"scrape": "annotations"})
    [group] = yaml.safe_load(PRICES.read_text())["groups"]
    written = {rule["record"]: rule["expr"] for rule in group["rules"]}
    assert usual == {name: text.replace("taskflow_ready", 'taskflow_ready{namespace="tasks"}') for name, text in written.items()}


def test_alerts_and_dashboards_are_there_only_if_asked_for(with_files):
    documents = render(values("cluster"), chart=with_files)
    assert of_kind(documents, "PrometheusRule") == []
    assert len(of_kind(documents, "ConfigMap")) == 2


def test_what_it_costs_is_shown_only_with_the_rules_that_count_it():
    def shown(**more):
        documents = render(values("full") | {"dashboards": {"enabled": True}} | more)
        names = [document["metadata"]["name"] for document in of_kind(documents, "ConfigMap")]
        return [name.removeprefix("work-taskflow-dashboard-") for name in names if "dashboard" in name]

    everything = [path.stem for path in sorted((CHART / "files/dashboards").glob("*.json"))]
    assert shown(alerts={"enabled": True}) == everything
    assert shown(alerts={"enabled": False}) == [name for name in everything if name != "cost"]


def test_without_files_there_is_nothing_of_them(tmp_path):
    shutil.copytree(CHART, tmp_path / "taskflow", ignore=shutil.ignore_patterns("files"))
    documents = render(values("full"), chart=tmp_path / "taskflow")
    assert [document["metadata"]["name"] for document in of_kind(documents, "PrometheusRule")] == ["work-taskflow-prices"]
    assert len(of_kind(documents, "ConfigMap")) == 2


# helm test.


@pytest.mark.parametrize(
    ("example", "more"),
    [
        ("embedded", ["http://work-taskflow:80/.well-known/jwks.json"]),
        ("prod", ["--header", "Host: tasks.example", "http://work-taskflow:80/.well-known/jwks.json"]),
        ("tls", ["--no-check-certificate", "--header", "Host: tasks.example", "https://work-taskflow:443/.well-known/jwks.json"]),
    ],
)
def test_the_test_asks_the_service_by_a_name_that_the_server_goes_by(example, more):
    pod = one(rendered(example), "Pod", "work-taskflow-test")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["spec"]["containers"][0]["args"] == ["-q", "-O", "-", *more]
    assert pod["spec"]["activeDeadlineSeconds"] == 60


def test_where_a_proxy_header_is_expected_nothing_is_asked():
    config = {"proxy_protocol": True, "trusted_proxies": ["10.0.0.0/8"]}
    assert of_kind(render(values("tls", {"config": config})), "Pod") == []
