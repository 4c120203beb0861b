"""What the chart uses of kinds that Kubernetes does not bring, as JSON schemas that know nothing else: a misspelt field of
theirs is refused by no schema of Kubernetes, and ignored by a cluster."""

TEXT = {"type": "string", "minLength": 1}
LABELS = {"type": "object", "additionalProperties": TEXT}


def fields(required, **properties):
    return {"type": "object", "additionalProperties": False, "required": required.split(), "properties": properties}


def items(schema):
    return {"type": "array", "minItems": 1, "items": schema}


KINDS = {
    ("external-secrets.io/v1", "ExternalSecret"): fields(
        "secretStoreRef refreshInterval target data",
        secretStoreRef=fields("kind name", kind={"enum": ["SecretStore", "ClusterSecretStore"]}, name=TEXT),
        refreshInterval={"pattern": "^[0-9]+(ms|s|m|h)$"},
        target=fields("name", name=TEXT),
        data=items(fields("secretKey remoteRef", secretKey=TEXT, remoteRef=fields("key", key=TEXT, property=TEXT))),
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): fields(
        "parentRefs hostnames rules",
        parentRefs=items(fields("name", name=TEXT, namespace=TEXT, sectionName=TEXT, port={"type": "integer"})),
        hostnames=items(TEXT),
        rules=items(
            fields(
                "matches timeouts backendRefs",
                matches=items(fields("path", path=fields("type value", type={"const": "PathPrefix"}, value=TEXT))),
                timeouts=fields("request", request={"pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}),
                backendRefs=items(fields("name port", name=TEXT, port={"type": "integer"})),
            )
        ),
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): fields(
        "selector endpoints",
        selector=fields("matchLabels", matchLabels=LABELS),
        endpoints=items(fields("port path interval", port=TEXT, path=TEXT, interval=TEXT)),
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): fields(
        "groups",
        groups=items(
            fields(
                "name rules",
                name=TEXT,
                interval=TEXT,
                rules=items(
                    {
                        **fields(
                            "expr",
                            alert=TEXT,
                            record=TEXT,
                            expr=TEXT,
                            labels=LABELS,
                            annotations=LABELS,
                            keep_firing_for=TEXT,
                            **{"for": TEXT},
                        ),
                        "oneOf": [{"required": ["alert"]}, {"required": ["record"]}],
                    }
                ),
            )
        ),
    ),
}
