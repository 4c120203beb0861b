"""The checks that need no server."""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import figures
import yaml
from promql import named
from sources import (
    GRAFANA,
    OPERATIONS,
    ROOT,
    TARGET_LABELS,
    dashboards,
    inventory,
    panels,
    rule_files,
    rule_tests,
    rules,
    runbook,
    test_files,
)

import dashboards as source

TOOLS = ROOT / "target/grafana-check"
RUNBOOK_URL = "https://github.com/taskflow/taskflow/blob/main/docs/operations.md#"


def said(*command, cwd=ROOT):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def expressions():
    """(where, expression) of every panel and rule."""
    for name, dashboard in dashboards().items():
        for panel in panels(dashboard):
            for target in panel.get("targets", []):
                yield f"{name}: {panel['title']}", target["expr"]
    for path, rule in rules():
        yield f"{path.name}: {rule.get('alert') or rule['record']}", rule["expr"]


def prometheus(checks):
    code, text = said("promtool", "check", "rules", *map(str, rule_files()))
    checks.check("Prometheus takes the rules", code == 0 and rule_files(), text)
    code, text = said("promtool", "test", "rules", *map(str, test_files()))
    checks.check("each alert fires when it should, and not when it should not", code == 0 and test_files(), text)
    # Side by side, as compose.cluster.yaml mounts them.
    with tempfile.TemporaryDirectory(prefix="taskflow-grafana.") as folder:
        shutil.copy(ROOT / "deploy/prometheus.yml", folder)
        shutil.copytree(GRAFANA / "rules", f"{folder}/rules")
        code, text = said("promtool", "check", "config", f"{folder}/prometheus.yml")
    wanted = f"{len(rule_files())} rule files found"
    checks.check("the Prometheus of the compose file finds the rules", code == 0 and wanted in text, text)


def alerts(checks):
    known = {rule["alert"]: rule for _, rule in rules() if "alert" in rule}
    # What a rule is about, through recorded ones.
    recorded = {rule["record"]: rule["expr"] for _, rule in rules() if "record" in rule}

    def roots(expression):
        found = set()
        for metric in named(expression).metrics:
            found |= roots(recorded[metric]) if metric in recorded else {metric}
        return found

    tests = list(rule_tests())
    firing = {question["alertname"] for _, _, question in tests if question.get("exp_alerts")}
    # A test in which nothing can fire proves nothing.
    quiet = {
        question["alertname"]
        for _, series, question in tests
        if not question.get("exp_alerts") and roots(known.get(question["alertname"], {"expr": ""})["expr"]) <= series
    }
    checks.none("each alert has a test in which it fires", sorted(set(known) - firing))
    checks.none("each alert has a test in which it has all of its series and does not fire", sorted(set(known) - quiet))
    book = runbook()
    checks.none("each alert has a heading in the runbook, and each heading an alert", sorted(set(known) ^ set(book)))
    parts = ["**For users.**", "**Look at.**", "**Do.**"]
    checks.none(
        "each heading says what it means for users, what to look at and what to do",
        [f"{name}: {part}" for name, text in book.items() for part in parts if part not in text],
    )
    wrong = []
    for name, rule in known.items():
        notes = rule.get("annotations", {})
        if rule.get("labels") not in ({"severity": "page"}, {"severity": "ticket"}):
            wrong.append(f"{name}: severity must be page or ticket, and the only label")
        if notes.get("runbook_url") != RUNBOOK_URL + name.lower():
            wrong.append(f"{name}: its runbook_url must end in #{name.lower()}")
        if not notes.get("summary"):
            wrong.append(f"{name}: has no summary")
    checks.none("each alert has a severity, a summary and the link to its heading", wrong)


def metrics(checks):
    known = inventory()
    recorded = {rule["record"]: rule["expr"] for _, rule in rules() if "record" in rule}
    unknown, labels_unknown, masked = [], [], []
    for where, expression in expressions():
        found = named(expression)
        may = set(TARGET_LABELS)
        for metric, matchers in found.selectors:
            if metric in recorded:
                may |= named(recorded[metric]).kept or set()
                continue
            if metric not in known:
                unknown.append(f"{where}: {metric}")
                continue
            values = known[metric].labels
            may |= set(values)
            for label, operator, value in matchers:
                if label in TARGET_LABELS:
                    continue
                wanted = value.split("|") if "~" in operator else [value]
                if label == "le":
                    wanted = [float(each) for each in wanted]
                wrong = [each for each in wanted if each not in values.get(label, ())]
                labels_unknown += [f'{where}: {metric}{{{label}="{each}"}}' for each in wrong]
        labels_unknown += [f"{where}: {label}" for label in found.labels - may]
        if re.search(r"\bvector\s*\(|\bor\s+on\s*\(\s*\)|\babsent\w*\s*\(", expression):
            masked.append(where)
    checks.none("every metric in a panel or rule is in docs/metrics.md", unknown)
    checks.none("every label is one that the metric has, with values that it has", labels_unknown)
    checks.none("nothing stands in for what is absent", masked)
    bare = {name.removesuffix(end) for name in known for end in ("", "_bucket", "_sum", "_count")}
    text = OPERATIONS.read_text()
    # Not the volume of compose.yaml.
    named_there = set(re.findall(r"\b(?:taskflow|process)_[a-z_]+\b", text)) - {"taskflow_data"}
    checks.none("every metric in docs/operations.md is in docs/metrics.md", sorted(named_there - bare))


def pages(checks):
    checks.none("the dashboards are what grafana/dashboards.py makes", source.main(is_to_write=False))
    found = dashboards()
    alerts = {rule["alert"] for _, rule in rules() if "alert" in rule}
    titles = {dashboard["title"] for dashboard in found.values()}
    known = inventory()
    recorded = {rule["record"]: named(rule["expr"]).kept for _, rule in rules() if "record" in rule}
    wrong, legends, references = [], [], []
    for name, dashboard in found.items():
        if dashboard["uid"] != f"taskflow-{name}" or not dashboard["title"].endswith("?"):
            wrong.append(f"{name}: its uid must be taskflow-{name}, its title a question")
        if len({panel["id"] for panel in panels(dashboard)}) != len(dashboard["panels"]):
            wrong.append(f"{name}: two panels have the same id")
        taken = {}
        for panel in panels(dashboard):
            where, place, text = f"{name}: {panel['title']}", panel["gridPos"], panel.get("description", "")
            for cell in [(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])]:
                if cell in taken or cell[0] >= 24:
                    wrong.append(f"{where}: lies over {taken.get(cell, 'the edge')}")
                    break
                taken[cell] = panel["title"]
            if "Normal: " not in text or "Otherwise" not in text:
                wrong.append(f"{where}: its description must say what is normal, and what to do otherwise")
            if not panel["fieldConfig"]["defaults"].get("unit"):
                wrong.append(f"{where}: has no unit")
            if "noValue" in panel["fieldConfig"]["defaults"] or panel["fieldConfig"]["defaults"].get("mappings"):
                wrong.append(f"{where}: shows something where there is nothing")
            if not panel.get("targets"):
                wrong.append(f"{where}: asks nothing")
            references += [f"{where}: {each}" for each in re.findall(r"\bTaskflow\w+", text) if each not in alerts]
            references += [f"{where}: {each}" for each in re.findall(r"“(.*?)”", text) if each not in titles]
            for target in panel.get("targets", []):
                query = named(target["expr"])
                for metric, matchers in query.selectors:
                    # What was recorded of all nodes together has no instance; beside those that are chosen, all may be counted.
                    is_beside = any(("instance", "=~", "$instance") in others for other, others in query.selectors if other == metric)
                    chosen = {("job", "=~", "$job")} | (set() if is_beside else {("instance", "=~", "$instance")})
                    chosen = {each for each in chosen if each[0] in (recorded.get(metric) or TARGET_LABELS)}
                    if chosen - set(matchers):
                        wrong.append(f"{where}: {metric} is not asked of {', '.join(sorted(each[2] for each in chosen))}")
                has = query.kept
                if has is None:
                    has = TARGET_LABELS.union(*(known[metric].labels for metric in query.metrics if metric in known))
                legends += [f"{where}: {each}" for each in re.findall(r"{{(\w+)}}", target["legendFormat"]) if each not in has]
    checks.none("each panel has its own place, a unit, a description with what is normal, and asks the nodes that are chosen", wrong)
    checks.none("each legend names labels that are there", legends)
    checks.none("alerts and dashboards that panels name are there", references)


def provisioning(checks):
    compose = yaml.safe_load((ROOT / "compose.cluster.yaml").read_text())["services"]
    grafana = compose["grafana"]
    mounts = dict(mount.split(":")[:2] for mount in grafana["volumes"])
    inside = {target: ROOT / at for at, target in mounts.items() if at.startswith("./")}

    def here(path):
        """Where a path in the container is in the repository."""
        for target, at in inside.items():
            if path == target or path.startswith(f"{target}/"):
                return at / path[len(target) :].lstrip("/")
        return Path("/nowhere")

    root = here(grafana["environment"]["GF_PATHS_PROVISIONING"])
    sources = [each for path in root.glob("datasources/*.yml") for each in yaml.safe_load(path.read_text())["datasources"]]
    providers = [each for path in root.glob("dashboards/*.yml") for each in yaml.safe_load(path.read_text())["providers"]]
    at = [here(each["options"]["path"]) for each in providers]
    checks.check(
        "Grafana's container finds the dashboards where the provider looks", at and all(list(path.glob("*.json")) for path in at), at
    )
    networks = [set(compose[each]["networks"]) for each in ("grafana", "prometheus")]
    urls = [each["url"] for each in sources if each["type"] == "prometheus"]
    checks.check(
        "its data source is the Prometheus beside it", urls == ["http://prometheus:9090"] and networks[0] & networks[1], sources
    )


OPTIONS = {"stat": "StatPanelOptions", "timeseries": "TimeSeriesOptions"}


def types(checks):
    """Grafana's own types say what may stand where: of the dashboard, and of what each kind of panel adds. Of queries they say
    nothing: those are asked by `grafana-check live`."""
    # Only these are exported under a path of their own.
    composable = "@grafana/schema/dist/esm/raw/composable"
    lines = [
        "import type { Dashboard, Panel, GraphFieldConfig } from '@grafana/schema';",
        f"import type {{ Options as StatPanelOptions }} from '{composable}/stat/panelcfg/x/StatPanelCfg_types.gen';",
        f"import type {{ Options as TimeSeriesOptions }} from '{composable}/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';",
        # JSON has the texts of which TypeScript makes enums.
        "type Plain<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]?: Plain<T[K]> } : T;",
    ]
    kinds = set()
    for name, dashboard in dashboards().items():
        lines.append(f"/* {name} */ ({json.dumps(dashboard)}) satisfies Plain<Dashboard>;")
        for panel in panels(dashboard):
            kinds.add(panel["type"])
            where = f"/* {name}, {panel['id']} */"
            lines.append(f"{where} ({json.dumps(panel)}) satisfies Plain<Panel>;")
            if panel["type"] in OPTIONS:
                lines.append(f"{where} ({json.dumps(panel['options'])}) satisfies Plain<{OPTIONS[panel['type']]}>;")
            custom = panel["fieldConfig"]["defaults"].get("custom", {})
            lines.append(f"{where} ({json.dumps(custom)}) satisfies Plain<GraphFieldConfig>;")
    checks.none("the types of every kind of panel are known", sorted(kinds - set(OPTIONS)))
    (TOOLS / "check.ts").write_text("\n".join(lines) + "\n")
    options = {"noEmit": True, "strict": True, "skipLibCheck": True, "types": [], "target": "es2022", "module": "esnext"}
    settings = {"compilerOptions": options | {"moduleResolution": "bundler"}, "files": ["check.ts"]}
    (TOOLS / "tsconfig.json").write_text(json.dumps(settings))
    code, text = said(str(TOOLS / "node_modules/.bin/tsc"), "--project", str(TOOLS))
    checks.check("every dashboard has the types that Grafana publishes", code == 0, text[:4000])


def check(checks):
    prometheus(checks)
    alerts(checks)
    metrics(checks)
    pages(checks)
    figures.shapes(checks)
    figures.check(checks, said)
    provisioning(checks)
    types(checks)
