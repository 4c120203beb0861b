"""Values that contradict each other render nothing, and each fault is one sentence that says what to do."""

import re
import subprocess

import pytest
from chart import CHART, EXAMPLES, HELM, VALUES, helm_template, refusal, values

# (the example that is right, what makes it wrong, the sentence)
CASES = [
    (
        "cluster",
        {"config": {"cql_nodes": []}},
        "A cluster keeps everything in a database: name some of its nodes in config.cql_nodes.",
    ),
    (
        "cluster",
        {"config": {"redis": []}},
        "The nodes of a cluster talk over Redis: set config.redis, or secrets.redis if there is a password in its address.",
    ),
    (
        "cluster",
        {"secrets": {"signing_key": None}},
        "The nodes of a cluster sign access tokens with one key: name the Secret that has it in secrets.signing_key.",
    ),
    (
        "embedded",
        {"server": {"replicas": 2}},
        "Mode embedded keeps everything in one volume, which one pod uses: leave server.replicas out, or set mode to cluster.",
    ),
    (
        "embedded",
        {"server": {"autoscaling": {"enabled": True}}},
        "Mode embedded has one pod and nothing to scale: leave server.autoscaling.enabled out, or set mode to cluster.",
    ),
    (
        "embedded",
        {"feeds": {"enabled": True}},
        "Mode embedded has one pod, which hosts the feeds, too: leave feeds.enabled out, or set mode to cluster.",
    ),
    *[
        ("embedded", more, f"{key} belongs to a cluster: set mode to cluster, or leave it out.")
        for key, more in [
            ("cql_nodes", {"config": {"cql_nodes": ["a:9042"]}}),
            ("redis", {"config": {"redis": ["redis://a"]}}),
            ("redis", {"secrets": {"redis": {"name": "a", "key": "b"}}}),
            ("cql_tls_ca", {"secrets": {"cql_tls_ca": {"name": "a", "key": "b"}}}),
            ("cql_password", {"config": {"cql_user": "a"}, "secrets": {"cql_password": {"name": "a", "key": "b"}}}),
        ]
    ],
    *[
        ("embedded", {"config": {key: value}}, f"config.{key} follows from mode and is set by the chart: leave it out.")
        for key, value in {"store": "cql", "data_dir": "x", "node_name": "x", "roles": ["feeds"]}.items()
    ],
    *[
        (
            "cluster",
            {"config": {key: "x"}},
            f"config.{key} would be read by whoever can read the ConfigMap, or lead to no file: name the Secret that has it in "
            f"secrets.{instead}.",
        )
        for key, instead in {
            "signing_key": "signing_key",
            "key_dir": "signing_key",
            "cql_password_file": "cql_password",
            "cql_tls_ca": "cql_tls_ca",
            "tls_certificate": "tls_certificate",
            "tls_key": "tls_key",
            "sentry_dsn": "sentry_dsn",
        }.items()
    ],
    (
        "embedded",
        {"config": {"redirect_listen": "0.0.0.0:80"}},
        "config.redirect_listen opens a port that no Service leads to: let what is in front send clients on to TLS, and leave it out.",
    ),
    (
        "cluster",
        {"config": {"redis": ["redis://:hidden@redis.data:6379"]}},
        "config.redis has a password, which would be in the ConfigMap: name the Secret that has the whole value in secrets.redis.",
    ),
    (
        "embedded",
        {"config": {"smtp": "smtps://tasks:hidden@mail.example"}},
        "config.smtp has a password, which would be in the ConfigMap: name the Secret that has the whole value in secrets.smtp.",
    ),
    (
        "embedded",
        {"config": {"otlp_endpoint": "http://tasks:hidden@collector"}},
        "config.otlp_endpoint has a password, which would be in the ConfigMap: name the Secret that has the whole value in "
        "secrets.otlp_endpoint.",
    ),
    (
        "cluster",
        {"secrets": {"redis": {"name": "a", "key": "b"}}},
        "config.redis and secrets.redis are both set: leave out the one that does not count.",
    ),
    (
        "prod",
        {"secrets": {"redis": {"name": "a", "key": "b"}}},
        "secrets.redis and externalSecret.data.redis are both set: leave out the one that does not count.",
    ),
    (
        "prod",
        {"externalSecret": {"store": None}},
        "externalSecret.data is to be asked for, but nobody is named who has it: set externalSecret.store.",
    ),
    (
        "embedded",
        {"externalSecret": {"store": {"kind": "SecretStore", "name": "a"}}},
        "externalSecret.store is named, but not what to ask it for: set externalSecret.data.",
    ),
    (
        "cluster",
        {"config": {"cql_user": "taskflow"}},
        "config.cql_user and secrets.cql_password belong together: set both or none.",
    ),
    (
        "embedded",
        {"secrets": {"tls_key": {"name": "a", "key": "b"}}},
        "secrets.tls_certificate and secrets.tls_key belong together: set both or none.",
    ),
    *[
        (
            "embedded",
            {"config": {key: address}},
            f"config.{key} is an address that nobody reaches from outside of the pod: write 0.0.0.0 or [::] and the port.",
        )
        for key, address in [("listen", "127.0.0.1:8080"), ("operator_listen", "[::1]:9464")]
    ],
    (
        "embedded",
        {"config": {"listen": "0.0.0.0:9464"}},
        "config.listen and config.operator_listen have the same port: give each its own.",
    ),
    *[
        (
            "embedded",
            {"config": {"environment": environment, "hosts": ["tasks.example"]}},
            f"environment {environment} does not start where passwords could cross the network in the clear: set "
            "config.behind_proxy if an Ingress or Gateway speaks TLS, or secrets.tls_certificate and secrets.tls_key.",
        )
        for environment in ("staging", "prod")
    ],
    (
        "tls",
        {"config": {"hosts": []}},
        "environment prod does not start without names: set config.hosts to those by which clients reach it.",
    ),
    *[
        (
            example,
            more,
            "Behind a proxy all clients would have its address, and be limited together: name its network in "
            "config.trusted_proxies.",
        )
        for example, more in [
            ("prod", {"config": {"trusted_proxies": []}}),
            ("tls", {"config": {"proxy_protocol": True}}),
            ("embedded", {"config": {"hosts": ["a.example"]}, "ingress": {"enabled": True}}),
        ]
    ],
    (
        "embedded",
        {"ingress": {"enabled": True}, "config": {"trusted_proxies": ["10.0.0.0/8"]}},
        "ingress leads clients here by name: set config.hosts.",
    ),
    (
        "embedded",
        {"httpRoute": {"enabled": True, "parentRefs": [{"name": "a"}]}, "config": {"trusted_proxies": ["10.0.0.0/8"]}},
        "httpRoute leads clients here by name: set config.hosts.",
    ),
    (
        "tls",
        {"ingress": {"enabled": True}, "config": {"trusted_proxies": ["10.0.0.0/8"]}},
        "ingress speaks without TLS to pods that expect it: leave out secrets.tls_certificate and secrets.tls_key, or set "
        "ingress.enabled to false and service.type to LoadBalancer.",
    ),
    ("prod", {"httpRoute": {"parentRefs": []}}, "A route belongs to a gateway: name it in httpRoute.parentRefs."),
    (
        "embedded",
        {"config": {"drain_wait_seconds": 60}},
        "config.drain_wait_seconds is not below config.drain_seconds_max, so no time is left to send clients away: lower the one or "
        "raise the other.",
    ),
    (
        "embedded",
        {"config": {"connections_max": 50001}},
        "A pod may have 50001 connections (config.connections_max), but a drain sends only 50000 away in time: raise "
        "config.drain_clients_a_second or config.drain_seconds_max, or lower connections_max.",
    ),
    (
        "cluster",
        {"podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": 1}},
        "A budget has one bound: set podDisruptionBudget.minAvailable or podDisruptionBudget.maxUnavailable.",
    ),
    *[
        (
            "cluster",
            {"podDisruptionBudget": {"maxUnavailable": none}},
            "podDisruptionBudget.maxUnavailable lets no pod go, so no machine could be emptied: set 1 or more.",
        )
        for none in (0, "0%")
    ],
    *[
        (
            example,
            {"podDisruptionBudget": {"minAvailable": bound}} | more,
            f"podDisruptionBudget.minAvailable keeps {stay} of the {least} pods that {component} has at least (a percentage is rounded "
            "up), so no machine could be emptied: set less, or maxUnavailable in its place.",
        )
        for example, bound, more, component, stay, least in [
            ("cluster", 3, {}, "server", 3, 3),
            ("cluster", "100%", {}, "server", 3, 3),
            ("cluster", "90%", {}, "server", 3, 3),
            ("cluster", "67%", {}, "server", 3, 3),
            ("cluster", "50%", {"server": {"replicas": 1}}, "server", 1, 1),
            ("full", 2, {}, "feeds", 2, 2),
            ("full", "51%", {}, "feeds", 2, 2),
        ]
    ],
    *[
        (
            example,
            {"feeds": more},
            f"feeds.{key} is about pods that are there only with feeds.enabled: set that to true, or leave it out.",
        )
        for example, key, more in [
            ("cluster", "replicas", {"replicas": 2}),
            ("cluster", "autoscaling.enabled", {"autoscaling": {"enabled": True}}),
            ("embedded", "replicas", {"replicas": 2}),
        ]
    ],
    (
        "full",
        {"config": {"proxy_protocol": True}},
        "Controllers of Ingresses send no PROXY header unless they are told to, and config.proxy_protocol refuses what comes without: "
        "leave it out, or add the annotation of yours (such as haproxy.org/send-proxy-protocol) to ingress.annotations.",
    ),
    (
        "full",
        {"server": {"replicas": 3}},
        "server.replicas and server.autoscaling would set the number of pods in turn: leave out the one or the other.",
    ),
    (
        "full",
        {"feeds": {"autoscaling": {"max": 1}}},
        "feeds.autoscaling.max is below feeds.autoscaling.min: raise the one or lower the other.",
    ),
    (
        "full",
        {"feeds": {"autoscaling": {"cpu": 0, "memory": 0}}},
        "feeds.autoscaling looks at nothing: set cpu, memory or connections.",
    ),
    *[
        (
            "full",
            {"server": {"resources": {"requests": {resource: None}}}},
            f"server.autoscaling.{resource} is percent of what a pod asks for: set server.resources.requests.{resource}, or 0 to "
            "look elsewhere.",
        )
        for resource in ("cpu", "memory")
    ],
    (
        "full",
        {"server": {"autoscaling": {"connections": 50001}}},
        "server.autoscaling.connections is never reached: set it below config.connections_max.",
    ),
    *[
        (
            "full",
            {component: {"resources": {"requests": {"memory": "1025Mi"}}}},
            f"{component}.resources.requests.memory is above the limit: lower it to 1Gi, or raise "
            f"{component}.resources.limits.memory.",
        )
        for component in ("server", "feeds")
    ],
    (
        "cluster",
        {"server": {"resources": {"requests": {"cpu": "1.5"}, "limits": {"cpu": "1400m"}}}},
        "server.resources.requests.cpu is above the limit: lower it to 1400m, or raise server.resources.limits.cpu.",
    ),
    (
        "embedded",
        {"config": {"outbound_bytes_total_max": 600_000_000}},
        "config.outbound_bytes_total_max is more than half of server.resources.limits.memory, so slow readers could have the pod "
        "killed: lower it, or raise the limit.",
    ),
    *[
        (
            example,
            {"networkPolicy": {"enabled": True}, "config": {key: address}},
            f"config.{key} leads to port {port}, which networkPolicy.egress.{egress} does not let pods go to: add it to its ports.",
        )
        for example, key, address, egress, port in [
            ("full", "cql_nodes", ["scylla.data:9142", "scylla.data"], "cql", 9042),
            ("cluster", "redis", ["redis://redis.data:6380"], "redis", 6380),
            ("cluster", "redis", ["redis://redis.data", "rediss://user@redis.data:6380/0"], "redis", 6380),
            ("tls", "otlp_endpoint", "http://collector:9999", "otlp", 9999),
            ("tls", "otlp_endpoint", "http://collector", "otlp", 80),
            ("tls", "otlp_endpoint", "https://collector/", "otlp", 443),
            ("tls", "smtp", "smtp://mail:2525", "smtp", 2525),
            ("tls", "smtp", "smtp://localhost", "smtp", 25),
            ("tls", "smtp", "smtps://mail:2465?a=b", "smtp", 2465),
            ("tls", "issuers", [{"issuer": "https://id.example:8443/realms/home", "audience": "a"}], "issuers", 8443),
            ("tls", "issuers", [{"issuer": "a", "audience": "b", "jwks": "http://id.example/keys"}] * 2, "issuers", 80),
        ]
    ],
]


def sentences(text):
    """Each fault, without what Helm prints around them."""
    text = text.removesuffix("\n\nUse --debug flag to render out invalid YAML\n")
    return re.sub(r"^Error: execution error at \(taskflow/templates/checks.yaml:\d+:\d+\): ", "", text).splitlines()


@pytest.mark.parametrize(("example", "more", "sentence"), CASES, ids=[sentence[:60] for _, _, sentence in CASES])
def test_a_contradiction_is_refused_with_its_sentence_and_no_other(example, more, sentence):
    assert sentences(refusal(values(example, more))) == [sentence]


def test_each_fault_has_its_sentence_when_there_are_many():
    more = {"config": {"store": "cql", "drain_wait_seconds": 90}, "server": {"replicas": 2}}
    assert len(sentences(refusal(values("embedded", more)))) == 3


def test_every_sentence_of_the_chart_is_reached_by_a_case():
    source = (CHART / "templates/checks.yaml").read_text()
    written = re.findall(r'append \$wrong (?:\(printf )?"([^"]+)"', source)
    assert len(written) == source.count("append $wrong") > 0
    said = [sentence for _, _, sentence in CASES]
    patterns = {text: re.sub(r"%[sdv]", ".+", re.escape(text).replace("\\%", "%")) for text in written}
    assert [text for text, pattern in patterns.items() if not any(re.fullmatch(pattern, one) for one in said)] == []


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"replicas": 3}, "additional properties 'replicas' not allowed"),
        ({"config": {"hartbeat_ms": 1}}, "at '/config': additional properties 'hartbeat_ms' not allowed"),
        ({"secrets": {"password": {"name": "a", "key": "b"}}}, "at '/secrets': additional properties 'password' not allowed"),
        ({"secrets": {"redis": {"name": "a"}}}, "at '/secrets/redis': missing property 'key'"),
        (
            {"server": {"autoscaling": {"minReplicas": 3}}},
            "at '/server/autoscaling': additional properties 'minReplicas' not allowed",
        ),
        (
            {"feeds": {"autoscaling": {"connections": 3}}},
            "at '/feeds/autoscaling': additional properties 'connections' not allowed",
        ),
        ({"mode": "swarm"}, "at '/mode': value must be one of 'embedded', 'cluster'"),
        ({"config": {"drain_seconds_max": None}}, "at '/config': missing property 'drain_seconds_max'"),
        ({"config": {"hosts": "a.example"}}, "at '/config/hosts': got string, want array"),
        ({"server": {"resources": {"limits": {"memory": "1 GB"}}}}, "at '/server/resources/limits/memory'"),
        ({"metrics": {"scrape": "both"}}, "at '/metrics/scrape': value must be one of"),
        ({"config": {"workers": 2.5}}, "at '/config/workers': got number, want integer"),
        ({"config": {"workers": "many"}}, "at '/config/workers': got string, want integer"),
        ({"config": {"heartbeat_ms": 10}}, "at '/config/heartbeat_ms': minimum: got 10, want 1,000"),
        ({"config": {"trace_sample_ratio": "much"}}, "at '/config/trace_sample_ratio': 'much' does not match pattern"),
        ({"config": {"log_level": "loud"}}, "at '/config/log_level': value must be one of 'error', 'warn', 'info', 'debug', 'trace'"),
        ({"config": {"cql_compress": "no"}}, "at '/config/cql_compress': got string, want boolean"),
        # What is taken away and needed.
        ({"config": None}, "at '': missing property 'config'"),
        ({"server": {"resources": None}}, "at '/server': missing property 'resources'"),
        ({"podDisruptionBudget": None}, "at '': missing property 'podDisruptionBudget'"),
        ({"feeds": {"autoscaling": {"enabled": None}}}, "at '/feeds/autoscaling': missing property 'enabled'"),
        ({"cost": {"othersDay": None}}, "at '/cost': missing property 'othersDay'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_schema_names_what_is_wrong_and_where(more, place):
    assert place in refusal(values("embedded", more))


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_contradict_nothing(example):
    assert helm_template(values(example)).stderr == ""


@pytest.mark.parametrize("example", EXAMPLES)
def test_helm_lint_has_nothing_to_say(example):
    command = [HELM, "lint", "--strict", str(CHART), "--values", str(VALUES / f"{example}.yaml"), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stdout
