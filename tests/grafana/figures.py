"""Which colour a figure has: for what Prometheus has scraped, what the panel's expression says, and where that lies in its steps."""

import json
import re
import tempfile

from sources import dashboards, panels


def ready(*values, job="taskflow"):
    """One node for each of them: whether it takes clients, as `Prometheus` keeps it; `None`: it does not answer any more."""
    series = {}
    for number, value in enumerate(values):
        node = f'{{job="{job}", instance="node-{number}:9464"}}'
        series[f"taskflow_ready{node}"] = "1x5 stale" if value is None else f"{value}x20"
        series[f"up{node}"] = "1x5 0x20" if value is None else "1x20"
    return series


def each(metric, *values, job="taskflow"):
    """The metric of one node for each of them."""
    return {f'{metric}{{job="{job}", instance="node-{number}:9464"}}': f"{value}x20" for number, value in enumerate(values)}


# A node that was replaced: neither it nor what scraped it is there any more.
REPLACED = {f'{metric}{{job="taskflow", instance="node-9:9464"}}': "1x5 stale" for metric in ("taskflow_ready", "up")}
# (dashboard, panel, what is there, the figure, its colour)
FIGURES = [
    ("well", "Nodes that take clients", ready(1), 1, "green"),
    ("well", "Nodes that take clients", ready(1, 1, 1, 1), 1, "green"),
    ("well", "Nodes that take clients", ready(1, 1) | REPLACED, 1, "green"),
    ("well", "Nodes that take clients", ready(1, 1, 1, 0), 0.75, "yellow"),
    ("well", "Nodes that take clients", ready(1, 1, 1, None), 0.75, "yellow"),
    ("well", "Nodes that take clients", ready(1, 0, 0, None), 0.25, "red"),
    ("well", "Nodes that take clients", ready(None), 0, "red"),
    ("cluster", "Nodes that see each other", each("taskflow_cluster_members", 4, 4, 4, 4), 1, "green"),
    ("cluster", "Nodes that see each other", each("taskflow_cluster_members", 4, 3, 4, 4), 0.75, "yellow"),
    ("cluster", "Nodes that see each other", each("taskflow_cluster_members", 1, 1, 1, 1), 0.25, "red"),
    # Two clusters, both whole.
    (
        "cluster",
        "Nodes that see each other",
        each("taskflow_cluster_members", 2, 2) | each("taskflow_cluster_members", 1, job="other"),
        1,
        "green",
    ),
    # A queue has its bound on each node.
    ("pushes", "Bytes that wait, fullest node", each("taskflow_queue_bytes", *[20_000_000] * 20), 20_000_000, "green"),
    ("pushes", "Bytes that wait, fullest node", each("taskflow_queue_bytes", 0, 600_000_000), 600_000_000, "red"),
]
VARIABLES = {"$__range": "20m", "$__rate_interval": "5m", "$job": ".+", "$instance": ".+"}


def colour(panel, value):
    """Of a figure: that of the last step that it has reached."""
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    return [step["color"] for step in steps if step["value"] is None or step["value"] <= value][-1]


def check(checks, said):
    known = {(name, panel["title"]): panel for name, dashboard in dashboards().items() for panel in panels(dashboard)}
    tests, wrong = [], []
    for dashboard, title, series, value, wanted in FIGURES:
        panel = known.get((dashboard, title))
        if panel is None:
            wrong.append(f"{dashboard}: {title}: there is no such panel")
            continue
        [target] = panel["targets"]
        expression = re.sub("|".join(map(re.escape, VARIABLES)), lambda found: VARIABLES[found[0]], target["expr"])
        asked = {"expr": expression, "eval_time": "10m", "exp_samples": [{"labels": "{}", "value": value}]}
        given = [{"series": name, "values": values} for name, values in series.items()]
        tests.append({"interval": "1m", "input_series": given, "promql_expr_test": [asked]})
        if (found := colour(panel, value)) != wanted:
            wrong.append(f"{dashboard}: {title}: {value} is {found}, not {wanted}")
    checks.none("figures have the colours that fit", wrong)
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        json.dump({"evaluation_interval": "1m", "tests": tests}, file)
        file.flush()
        code, text = said("promtool", "test", "rules", file.name)
    checks.check("and are what Prometheus makes of what it has scraped", code == 0, text)


def shapes(checks):
    """What the eye takes for something else."""
    mixed, counts = [], []
    for name, dashboard in dashboards().items():
        for panel in panels(dashboard):
            where, defaults = f"{name}: {panel['title']}", panel["fieldConfig"]["defaults"]
            if len({"rate(" in target["expr"] for target in panel["targets"]}) > 1:
                mixed.append(where)
            colours = [step["color"] for step in defaults["thresholds"]["steps"]]
            if panel["type"] == "stat" and colours[-1] == "green" != colours[0] and defaults["unit"] in ("none", "short"):
                counts.append(where)
    checks.none("no panel has figures of now and of a second on one axis", mixed)
    checks.none("what is good from a figure on is a share, not a count: whoever has more nodes needs more", counts)
