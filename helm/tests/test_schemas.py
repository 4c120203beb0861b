"""What is rendered is what Kubernetes takes, and what is made from other files is as those are."""

import re
import tomllib
from functools import cache

import jsonschema
import kubernetes_validate
import pytest
import yaml
from chart import CHART, EXAMPLES, ROOT, VALUES, render, rendered, values
from custom import KINDS
from generate import main, settings, uncommented
from test_modes import with_files  # noqa: F401

# The oldest that the chart takes, and some up to the newest that there are schemas for.
VERSIONS = ["1.27", "1.30", "1.33", "1.35", "1.37"]
# It reads megabytes of definitions anew for each document.
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)


def check_custom(document):
    jsonschema.validate(document["spec"], KINDS[document["apiVersion"], document["kind"]])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("example", EXAMPLES)
def test_kubernetes_takes_it(example, version):
    for document in rendered(example):
        if (document["apiVersion"], document["kind"]) in KINDS:
            check_custom(document)
        else:
            kubernetes_validate.validate(document, version, strict=True)


NOTHING = {
    "image": {"tag": None},
    "secrets": None,
    "externalSecret": {"store": None, "data": None},
    "server": {
        "replicas": None,
        "resources": {"requests": None, "limits": None},
        "nodeSelector": None,
        "tolerations": None,
        "affinity": None,
    },
    "topologySpread": None,
    "podDisruptionBudget": {"minAvailable": None, "maxUnavailable": None},
    "persistence": {"storageClass": None},
    "service": {"annotations": None},
    "ingress": {"className": None, "annotations": None, "tlsSecret": None},
    "networkPolicy": {"clients": None},
    "metrics": {"labels": None},
    "dashboards": {"labels": None},
}


@pytest.mark.parametrize(
    ("example", "more"),
    [
        ("embedded", {}),
        ("cluster", {"secrets": {"signing_key": {"name": "a", "key": "b"}}}),
        ("cluster", {"secrets": {"signing_key": {"name": "a", "key": "b"}}, "dashboards": {"labels": {"grafana_dashboard": None}}}),
    ],
)
def test_what_may_be_empty_may_be_nothing(example, more):
    shown = {
        "config": {"hosts": ["a.example"], "trusted_proxies": ["10.0.0.0/8"]},
        "ingress": NOTHING["ingress"] | {"enabled": True},
        "networkPolicy": NOTHING["networkPolicy"] | {"enabled": True},
        "metrics": NOTHING["metrics"] | {"scrape": "serviceMonitor"},
        "dashboards": NOTHING["dashboards"] | {"enabled": True},
    }
    # Not `values`: nothing over something that the example does not have is for Helm to take away.
    given = yaml.safe_load((VALUES / f"{example}.yaml").read_text())
    for document in render(NOTHING | given | shown | {"config": given.get("config", {}) | shown["config"]} | more):
        if (document["apiVersion"], document["kind"]) in KINDS:
            check_custom(document)
        else:
            kubernetes_validate.validate(document, VERSIONS[-1], strict=True)


def test_rules_are_what_the_operator_of_prometheus_takes(with_files):  # noqa: F811
    documents = [document for document in render(values("full"), chart=with_files) if document["kind"] == "PrometheusRule"]
    assert documents
    for document in documents:
        check_custom(document)


def test_what_is_made_from_other_files_is_as_those_are():
    assert main(is_to_write=False) == []


def test_every_value_has_a_comment():
    assert uncommented((CHART / "values.yaml").read_text().splitlines(keepends=True)) == []


def test_the_schema_knows_every_value_and_no_other():
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    default = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(value, part, path):
        if "$ref" in part:
            part = schema["definitions"][part["$ref"].rsplit("/", 1)[1]]
        properties = part.get("properties") if isinstance(part, dict) else None
        # `config`, `secrets` and resources may have more than the default says.
        if isinstance(value, dict) and properties is not None:
            assert set(value) <= set(properties), path
            if value and path not in ("config",) and not path.endswith(("requests", "limits")):
                assert set(properties) - {"global"} == set(value), path
            assert part["additionalProperties"] is False, path
            for key, inner in value.items():
                compare(inner, properties[key], f"{path}.{key}".lstrip("."))

    compare(default, schema, "")


def test_every_value_is_used_by_a_template():
    templates = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    default = yaml.safe_load((CHART / "values.yaml").read_text())
    free = {"config", "labels", "annotations", "monitoring", "requests", "limits", "topologySpread"}

    def names(value):
        for key, inner in value.items() if isinstance(value, dict) else ():
            yield key
            if key not in free:
                yield from names(inner)

    unused = [name for name in set(names(default)) if not re.search(rf'[.\s"]{name}\b', templates)]
    assert unused == []


def test_the_schema_knows_the_settings_of_docs_operations_and_no_other():
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    assert set(schema["properties"]["config"]["properties"]) == set(settings())


def test_the_chart_is_for_the_version_in_cargo_toml():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())
    assert chart["appVersion"] == cargo["workspace"]["package"]["version"]
