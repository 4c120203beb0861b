"""What is in the repository: the inventory of metrics, dashboards, rules and their tests, the runbook."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
GRAFANA = ROOT / "grafana"
OPERATIONS = ROOT / "docs/operations.md"
# What whoever scrapes adds.
TARGET_LABELS = {"namespace", "job", "instance"}

sys.path.insert(0, str(GRAFANA))


@dataclass
class Metric:
    """A name that can be asked for, and the values of its labels; `None`: any."""

    name: str
    labels: dict


def inventory():
    """Of docs/metrics.md, by the names that a scrape has; and `up`, which is Prometheus' own."""
    page = (ROOT / "docs/metrics.md").read_text()
    bounds, unit = re.search(r"bounds ([\d., ]+) and (\d+) ms", page).groups()
    seconds, last = re.search(r"ms, ([\d., ]+) and (\d+) s\.", page).groups()
    bounds = [float(bound) / 1000 for bound in [*bounds.split(","), unit]]
    bounds += [float(bound) for bound in [*seconds.split(","), last]]
    found = {}

    def add(name, labels):
        found[name] = Metric(name, labels)

    for name, kind, rest in re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", page, re.M):
        labels = {label: set(values.split(", ")) for label, values in re.findall(r"`(\w+)`: ([^`]*?)\.(?: |$)", rest)}
        if kind == "histogram":
            add(f"{name}_bucket", labels | {"le": set(bounds)})
            add(f"{name}_sum", labels)
            add(f"{name}_count", labels)
        else:
            add(name, labels)
    for name in re.findall(r"`(process_\w+)`", page):
        add(name, {})
    add("up", {})
    return found


def dashboards():
    return {path.stem: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}


def panels(dashboard):
    """All of them, those in rows too."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def rule_files():
    return sorted((GRAFANA / "rules").glob("*.yml"))


def rules():
    """(file, rule), alerts and recorded ones."""
    for path in rule_files():
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                yield path, rule


def test_files():
    return sorted((GRAFANA / "tests").glob("*.yml"))


def rule_tests():
    """(file, names of the series that go in, the question)."""
    for path in test_files():
        for group in yaml.safe_load(path.read_text())["tests"]:
            series = {re.match(r"[\w:]+", each["series"])[0] for each in group["input_series"]}
            for question in group["alert_rule_test"]:
                yield path, series, question


def runbook():
    """Of the section Alerts: each heading, and what stands below it."""
    page = OPERATIONS.read_text()
    section = re.search(r"^## Alerts$(.*?)(?=^## |\Z)", page, re.M | re.S)
    parts = re.split(r"^### (.*)$", section[1], flags=re.M) if section else [""]
    return dict(zip(parts[1::2], parts[2::2]))
