#!/usr/bin/env python3
"""The dashboards: each answers one question. Grafana's files, in grafana/dashboards, are made from the tables below.

    grafana/dashboards.py            say which files are not as this makes them; exit 1 if any
    grafana/dashboards.py --write    write them; `scripts/chart-check --write` copies them into the chart

To add a panel, add a line to the dashboard whose question it helps to answer:

    lines("Title", "Unit", "Normal: what is to be seen. Otherwise: what to do.", ("legend", "expression"), ...)
    number("Title", "Unit", "Normal: …", "expression", thresholds)

`$who` in an expression stands for the selectors of job and instance. Panels are laid out in the order given: six numbers, or two
drawings, a row. A panel must show something whenever its dashboard is for the server that is there: what only a cluster has is
on dashboards of their own, and so is what only the embedded store has. `scripts/grafana-check live` asks a real Prometheus.
"""

import json
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "dashboards"
WHO = 'job=~"$job", instance=~"$instance"'
GREEN, YELLOW, RED = "green", "yellow", "red"


def quantile(q, metric, by=(), more=""):
    """Of a histogram, over all nodes that are shown, or for each value of the labels `by`."""
    labels = ", ".join([*by, "le"])
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{$who{more}}}[$__rate_interval])))"


def rate(metric, by=(), more=""):
    by = f" by ({', '.join(by)})" if by else ""
    return f"sum{by} (rate({metric}{{$who{more}}}[$__rate_interval]))"


def within(seconds, metric, window="$__range"):
    """The share of a histogram's events that took no longer; `seconds` is one of its bounds."""
    return (
        f'sum(increase({metric}_bucket{{$who, le="{seconds}"}}[{window}]))'
        f" / sum(increase({metric}_count{{$who}}[{window}]))"
    )


def steps(first, *others):
    """Colours: that of everything below the first bound, then (bound, colour)."""
    return {"mode": "absolute", "steps": [{"color": first, "value": None}, *({"color": c, "value": v} for v, c in others)]}


def is_bad_below(bound, warn=None):
    return steps(RED, *([(bound, YELLOW), (warn, GREEN)] if warn is not None else [(bound, GREEN)]))


def is_bad_from(bound, warn=None):
    return steps(GREEN, *([(warn, YELLOW)] if warn is not None else []), (bound, RED))


DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def targets(queries, is_one_figure=False):
    return [
        {
            "refId": chr(ord("A") + index),
            "datasource": DATASOURCE,
            "expr": expression.replace("$who", WHO),
            "legendFormat": legend,
            "range": not is_one_figure,
            "instant": is_one_figure,
        }
        for index, (legend, expression) in enumerate(queries)
    ]


def number(title, unit, description, expression, thresholds=None):
    """One figure: that of now, or of the whole range where the expression says `$__range`."""
    return {
        "type": "stat",
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "gridPos": {"w": 4, "h": 4},
        "fieldConfig": {
            "defaults": {"unit": unit, "thresholds": thresholds or steps("text")},
            "overrides": [],
        },
        "options": {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "none",
        },
        "targets": targets([("", expression)], is_one_figure=True),
    }


def lines(title, unit, description, *queries, thresholds=None, stacked=False):
    """Lines over time, one for each series of each (legend, expression). Thresholds are drawn as lines."""
    return {
        "type": "timeseries",
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "gridPos": {"w": 12, "h": 8},
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "min": 0,
                "custom": {
                    "drawStyle": "line",
                    "lineWidth": 1,
                    "fillOpacity": 30 if stacked else 0,
                    "showPoints": "never",
                    "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
                    "thresholdsStyle": {"mode": "line" if thresholds else "off"},
                },
                "thresholds": thresholds or steps(GREEN),
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": targets(queries),
    }


def may_be_negative(panel):
    del panel["fieldConfig"]["defaults"]["min"]
    return panel


def laid_out(panels):
    """From left to right, and then below."""
    x = y = height = 0
    for index, panel in enumerate(panels):
        place = panel["gridPos"]
        if x + place["w"] > 24 or place["h"] != height and x:
            x, y = 0, y + height
        height = place["h"]
        panel["gridPos"] = {"x": x, "y": y, **place}
        panel["id"] = index + 1
        x += place["w"]
    return panels


def variable(name, label, query):
    """Of several values; all, until one is chosen."""
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": ["All"], "value": ["$__all"]},
        "options": [],
    }


def dashboard(name, title, description, tags, since, *panels):
    return {
        "uid": f"taskflow-{name}",
        "title": title,
        "description": description,
        "tags": ["taskflow", *tags],
        "editable": False,
        "graphTooltip": 1,
        "schemaVersion": 41,
        "time": {"from": f"now-{since}", "to": "now"},
        "refresh": "30s",
        "timezone": "browser",
        # From each to all others, with the same time and nodes.
        "links": [
            {
                "type": "dashboards",
                "title": "TaskFlow",
                "tags": ["taskflow"],
                "asDropdown": True,
                "keepTime": True,
                "includeVars": True,
                "icon": "external link",
                "targetBlank": False,
                "tooltip": "",
                "url": "",
            }
        ],
        "templating": {
            "list": [
                {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "current": {}},
                variable("job", "Job", "label_values(taskflow_ready, job)"),
                variable("instance", "Node", 'label_values(taskflow_ready{job=~"$job"}, instance)'),
            ]
        },
        "annotations": {"list": []},
        "panels": laid_out(panels),
    }


CLUSTER, ONE_NODE = ["taskflow-cluster"], ["taskflow-one-node"]

WELL = dashboard(
    "well",
    "Is TaskFlow well?",
    "The first one to open. Green figures: go back to bed. The others say where to look.",
    [],
    "6h",
    number(
        "Nodes that take clients",
        "percentunit",
        "Normal: 100 % of those that are scraped. Otherwise: one that is missing is stopped, drains, or its store does not answer (below);"
        " 0 means that nobody comes in (TaskflowDown).",
        # A node that does not answer counts, with what it said last; one that is no longer asked does not.
        "avg(last_over_time(taskflow_ready{$who}[6h]) * up{$who})",
        is_bad_below(0.5, 1),
    ),
    number(
        "Changes answered in 0.5 s",
        "percentunit",
        "Normal: 99.9 % or more, which is what people are promised. Otherwise: see “Who is slow?”.",
        within("0.5", "taskflow_operation_duration_seconds"),
        is_bad_below(0.99, 0.999),
    ),
    number(
        "Pushes within 0.25 s",
        "percentunit",
        "Normal: 99.9 % or more, which is what people are promised. Otherwise: see “Are pushes late?”.",
        within("0.25", "taskflow_push_duration_seconds"),
        is_bad_below(0.99, 0.999),
    ),
    number(
        "Requests that failed",
        "percentunit",
        "Normal: 0, but for a few while a node stops (503). Those that failed on our side (5xx). Otherwise: the log names each that"
        " was answered with 500; 503 and 507 are a store that does not answer or is full.",
        'sum(increase(taskflow_http_requests_total{$who, class="5xx"}[$__range]))'
        " / sum(increase(taskflow_http_requests_total{$who}[$__range]))",
        is_bad_from(0.05, 0.001),
    ),
    number(
        "Errors of the store",
        "none",
        "Normal: 0 on one node; a cluster has some when a node of its database stops. Otherwise: see “Is the store hurting?” or"
        " “Is the database hurting?”.",
        "sum(increase(taskflow_store_errors_total{$who}[$__range]))",
        is_bad_from(100, 1),
    ),
    number(
        "Feeds that failed",
        "none",
        "Normal: 0. Each is a fault in the program: the feed was started again from the store, and the log has the reason."
        " Otherwise: report it.",
        "sum(increase(taskflow_feed_panics_total{$who}[$__range]))",
        is_bad_from(1),
    ),
    lines(
        "The slowest in a hundred",
        "s",
        "Normal: changes and pushes take milliseconds, most requests too. Otherwise: what rises first is the cause: the store makes"
        " changes slow, busy threads everything. Long-polls and streams wait on purpose, and are left out.",
        ("changes", quantile(0.99, "taskflow_operation_duration_seconds")),
        ("pushes", quantile(0.99, "taskflow_push_duration_seconds")),
        ("requests", quantile(0.99, "taskflow_http_request_duration_seconds", more=', route!~"changes|events"')),
        thresholds=is_bad_from(0.5),
    ),
    lines(
        "Changes a second, by outcome",
        "ops",
        "Normal: nearly all accepted; conflicts are two people at one row. Otherwise: `unknown` is a store that does not answer;"
        " many refused are a full store, a limit, or a client that is wrong.",
        ("{{outcome}}", rate("taskflow_operations_total", ["outcome"])),
        stacked=True,
    ),
    lines(
        "Changes refused a second, by whose fault",
        "ops",
        "Normal: few, all the client's: rows that are gone, values that are too long. Otherwise: the server's is a full or silent store"
        " (see there); many of clients' are one client that is wrong and does not stop.",
        ("{{fault}}", rate("taskflow_operation_refusals_total", ["fault"])),
        stacked=True,
    ),
    lines(
        "Nodes, by the version that runs",
        "none",
        "Normal: one version, but for the minutes of an update. Otherwise: two for long are an update that hangs.",
        ("{{version}}", "count by (version) (taskflow_build_info{$who})"),
        stacked=True,
    ),
    lines(
        "Requests a second, by class of the answer",
        "reqps",
        "Normal: 2xx, and 4xx for what clients ask in vain. Otherwise: 5xx is ours; a rise of 4xx is one client, or tokens that are"
        " no longer good.",
        ("{{class}}", rate("taskflow_http_requests_total", ["class"])),
        stacked=True,
    ),
    lines(
        "Connections, by kind",
        "none",
        "Normal: they follow the day. Otherwise: a step down on one node is its drain, on all of them the network or the proxy.",
        ("{{kind}} {{instance}}", "sum by (kind, instance) (taskflow_connections{$who})"),
        stacked=True,
    ),
    lines(
        "Connections cut by the server, a second",
        "ops",
        "Normal: heartbeat_missed and signed_out now and then. Otherwise: too_slow and queues_full are readers that do not keep up;"
        " many heartbeat_missed at once are the network.",
        ("{{reason}}", rate("taskflow_evictions_total", ["reason"])),
    ),
    lines(
        "Cores in use, by node",
        "none",
        "Normal: well below the cores that the node has. Otherwise: sign-ins take most (each hashes a password), then fan-out;"
        " add nodes.",
        ("{{instance}}", "rate(process_cpu_seconds_total{$who}[$__rate_interval])"),
    ),
    lines(
        "Memory, by node",
        "bytes",
        "Normal: about 2.5 KiB an idle connection, and what lately used feeds take. It is given back after a peak. Otherwise: look at what waits for slow"
        " readers (“Are pushes late?”).",
        ("{{instance}}", "process_resident_memory_bytes{$who}"),
    ),
    lines(
        "Memory, share of the limit",
        "percentunit",
        "Normal: below 0.75 (TaskflowMemoryNearLimit). Otherwise: from 0.8 on the node does less, as the panel below shows.",
        ("{{instance}}", "process_resident_memory_bytes{$who} / on (job, instance) taskflow_memory_bytes_max{$who}"),
        thresholds=is_bad_from(0.8, 0.75),
    ),
    lines(
        "Overload",
        "none",
        "Normal: 0. Otherwise (TaskflowOverloaded): 1 no statistics, 2 nobody new, 3 nothing that is asked but operations that can be done; its"
        " causes are busy threads (“Who is slow?”), memory, and operations that wait (below).",
        ("{{instance}}", "taskflow_overload{$who}"),
        thresholds=is_bad_from(2, 1),
    ),
    lines(
        "Not done for overload, by what",
        "ops",
        "Normal: nothing. Otherwise: what clients were told to ask for again in two seconds.",
        ("{{what}}", rate("taskflow_shed_total", ["what"])),
    ),
    lines(
        "Operations by WebSocket under way",
        "none",
        "Normal: few, and no limit (0). Otherwise: with a limit, the node is asked for more than it does in half a second; what is beyond it is"
        " refused.",
        ("{{instance}}", "taskflow_socket_operations{$who}"),
        ("{{instance}}, limit", "taskflow_socket_operations_max{$who}"),
    ),
    lines(
        "Open files, share of the limit",
        "percentunit",
        "Normal: below 0.85; each connection is one. Otherwise: raise the limit (`ulimit -Hn`), or add nodes.",
        ("{{instance}}", "process_open_fds{$who} / process_max_fds{$who}"),
        thresholds=is_bad_from(0.85),
    ),
    lines(
        "Ready, and draining",
        "none",
        "Normal: each node is ready (1). A node that stops drains first: ready 0, draining 1. Otherwise: ready 0 without draining is a store"
        " that does not answer (TaskflowNodeNotReady).",
        ("{{instance}} ready", "taskflow_ready{$who}"),
        ("{{instance}} draining", "taskflow_draining{$who}"),
    ),
    lines(
        "Running for",
        "s",
        "Normal: it grows. Otherwise: a fall to 0 that you did not cause is a crash; the log ends with its reason. One after the other:"
        " TaskflowRestarts.",
        ("{{instance}}", "time() - process_start_time_seconds{$who}"),
    ),
)

SLOW = dashboard(
    "slow",
    "Who is slow?",
    "What waits for what: from the request to the disk.",
    [],
    "3h",
    lines(
        "Changes: until the feed had their results",
        "s",
        "Normal: a few milliseconds, which are the store's. Otherwise: if appends (beside this) are as slow, it is the store;"
        " if not, the threads of feeds are busy.",
        ("half", quantile(0.5, "taskflow_operation_duration_seconds")),
        ("99 %", quantile(0.99, "taskflow_operation_duration_seconds")),
        ("99.9 %", quantile(0.999, "taskflow_operation_duration_seconds")),
        thresholds=is_bad_from(0.5),
    ),
    lines(
        "Appends: until they were durable, 99 %",
        "s",
        "Normal: one fsync on one node, one conditional write of the database in a cluster: milliseconds. Otherwise: see “Is the"
        " store hurting?” or “Is the database hurting?”.",
        ("{{instance}}", quantile(0.99, "taskflow_append_duration_seconds", ["instance"])),
        thresholds=is_bad_from(0.1),
    ),
    lines(
        "Requests, 99 %, by route",
        "s",
        "Normal: `auth` takes tenths of a second, because it hashes a password; the others milliseconds. Otherwise: `tasks` with search and filters reads whole"
        " feeds; look at who asks so often. Long-polls and streams wait on purpose, and are left out.",
        (
            "{{route}}",
            quantile(0.99, "taskflow_http_request_duration_seconds", ["route"], ', route!~"changes|events"'),
        ),
    ),
    lines(
        "Requests under way, on average, by route",
        "none",
        "Normal: below the number of cores. It is the rate times the duration: who is high here keeps the server busy. Otherwise: see"
        " its rate (“How is TaskFlow used?”).",
        (
            "{{route}}",
            rate("taskflow_http_request_duration_seconds_sum", ["route"], ', route!~"changes|events"'),
        ),
        stacked=True,
    ),
    lines(
        "Busy threads: how late a timer rings, 99 %",
        "s",
        "Normal: below 10 ms. For so long everything else on the thread waits. Otherwise (TaskflowThreadsBusy): more cores, or more nodes; `feeds`"
        " alone: a few very large feeds.",
        ("{{thread}} {{instance}}", quantile(0.99, "taskflow_thread_delay_duration_seconds", ["thread", "instance"])),
        thresholds=is_bad_from(0.1),
    ),
    lines(
        "Changes that wait at feeds",
        "none",
        "Normal: a few, on their way to the store. Otherwise: many at all feeds are a slow store; many at one are a script, or a list that many"
        " change: a feed refuses the 257th (`feed_overloaded`). The operator's page names the feeds.",
        ("all feeds {{instance}}", "taskflow_feed_operations_waiting{$who}"),
        ("the fullest {{instance}}", "taskflow_feed_operations_waiting_max{$who}"),
    ),
    lines(
        "Passwords",
        "none",
        "Normal: none wait. 2 are hashed at a time, 64 may wait, and who comes then is told to come again. Otherwise: a storm of sign-ins, or"
        " somebody who tries passwords (“Who is kept out?”).",
        ("running {{instance}}", "taskflow_passwords_running{$who}"),
        ("waiting {{instance}}", "taskflow_passwords_waiting{$who}"),
        thresholds=is_bad_from(64),
    ),
    lines(
        "Snapshots and exports under way",
        "none",
        "Normal: below 8; beyond that they wait. Otherwise: many clients start anew, see the resets (“Are pushes late?”).",
        ("{{instance}}", "taskflow_snapshots_running{$who}"),
        thresholds=is_bad_from(8),
    ),
    lines(
        "Until a client is in, 99 %",
        "s",
        "Normal: milliseconds, for each of the two: from hello to welcome (who may come in), and from follow to the first word about the feed."
        " Otherwise: a slow reset waits for its turn among the snapshots (beside this) or for the store; a slow hello, for the token's look-up.",
        ("hello, {{outcome}}", quantile(0.99, "taskflow_hello_duration_seconds", ["outcome"])),
        ("follow, {{outcome}}", quantile(0.99, "taskflow_follow_duration_seconds", ["outcome"])),
    ),
    lines(
        "Messages that wait for actors",
        "none",
        "Normal: near 0. Otherwise: starts wait for the thread of the supervisor (the first of the feeds), events for that of a worker: see busy"
        " threads (above).",
        ("feeds to start {{instance}}", "taskflow_feed_starts_waiting{$who}"),
        ("events for sessions {{instance}}", "taskflow_session_events_waiting{$who}"),
    ),
    lines(
        "Handshakes under way",
        "none",
        "Normal: a few. Otherwise: clients come back all at once; 512 are taken at a time, the others are refused and come again.",
        ("{{instance}}", "taskflow_handshakes_pending{$who}"),
    ),
    lines(
        "Tokens that had to be looked up",
        "percentunit",
        "Normal: a small share; the others were checked lately. Otherwise: Redis came and went (everything is looked up then), or"
        " clients make a new token for each request.",
        (
            "share",
            rate("taskflow_token_lookups_total", more=', outcome="miss"') + " / " + rate("taskflow_token_lookups_total"),
        ),
    ),
    lines(
        "Feeds in memory",
        "none",
        "Normal: those used in the last minutes. Otherwise: a steep fall is a node that ended, and its feeds start elsewhere.",
        ("{{instance}}", "taskflow_feeds_running{$who}"),
    ),
    lines(
        "Feeds started, a second",
        "ops",
        "Normal: as many as users come back. Otherwise: many with few in memory (beside this) are users who come and go, each of whom is"
        " read from the store.",
        ("{{instance}}", rate("taskflow_feed_starts_total", ["instance"])),
    ),
)

PUSHES = dashboard(
    "pushes",
    "Are pushes late?",
    "From a commit to the screens: how long, how much, and who does not keep up.",
    [],
    "3h",
    number(
        "Within 0.25 s",
        "percentunit",
        "Normal: 99.9 % or more. Otherwise: the drawings below say whether threads, readers or (in a cluster) Redis are slow.",
        within("0.25", "taskflow_push_duration_seconds"),
        is_bad_below(0.99, 0.999),
    ),
    number(
        "Within 0.05 s",
        "percentunit",
        "Normal: 99 % or more where few follow each feed. Otherwise: full fan-out to thousands takes longer, and is no fault.",
        within("0.05", "taskflow_push_duration_seconds"),
    ),
    number(
        "Pushes",
        "short",
        "Normal: the changes of the time shown, times the screens that follow each. Otherwise: none while there are changes"
        " means that nobody follows.",
        "sum(increase(taskflow_push_duration_seconds_count{$who}[$__range]))",
    ),
    number(
        "Feeds followed",
        "none",
        "Normal: about one for each user who is connected. Otherwise: far fewer than connections are few users with many screens.",
        "sum(taskflow_feeds_followed{$who})",
    ),
    number(
        "Bytes that wait, fullest node",
        "bytes",
        "Normal: near 0. Otherwise: readers are slower than their feeds; beyond 2 MiB each is cut, and catches up from the log. All together"
        " have `outbound_bytes_total_max` on a node.",
        "max(taskflow_queue_bytes{$who})",
        is_bad_from(500_000_000, 50_000_000),
    ),
    number(
        "Cut for being slow",
        "none",
        "Normal: 0, or a few on bad networks. Otherwise: TaskflowEvictionsSurge.",
        'sum(increase(taskflow_evictions_total{$who, reason=~"too_slow|queues_full"}[$__range]))',
        is_bad_from(100, 10),
    ),
    lines(
        "From the commit to the kernel",
        "s",
        "Normal: milliseconds. Otherwise (TaskflowPushesLate): busy threads on a node that has too many connections, or one change that goes"
        " to thousands.",
        ("half", quantile(0.5, "taskflow_push_duration_seconds")),
        ("99 %", quantile(0.99, "taskflow_push_duration_seconds")),
        ("99.9 %", quantile(0.999, "taskflow_push_duration_seconds")),
        thresholds=is_bad_from(0.25),
    ),
    lines(
        "The same by node, 99 %",
        "s",
        "Normal: all alike. Otherwise: one that is slower has more connections, or a slower machine.",
        ("{{instance}}", quantile(0.99, "taskflow_push_duration_seconds", ["instance"])),
        thresholds=is_bad_from(0.25),
    ),
    lines(
        "Pushes a second, by node",
        "ops",
        "Normal: they follow the changes. Otherwise: a client in a loop changes the same things over and over (“How is TaskFlow used?”).",
        ("{{instance}}", rate("taskflow_pushes_total", ["instance"])),
    ),
    lines(
        "Bytes pushed a second, by node",
        "Bps",
        "Normal: some hundred bytes a push. Otherwise: larger ones are snapshots and catching up.",
        ("{{instance}}", rate("taskflow_push_bytes_total", ["instance"])),
    ),
    lines(
        "Bytes that wait for readers, by node",
        "bytes",
        "Normal: near 0. Otherwise: bounded by `outbound_bytes_total_max`; there, the fullest is cut.",
        ("{{instance}}", "taskflow_queue_bytes{$who}"),
    ),
    lines(
        "Pushes that wait for a thread",
        "none",
        "Normal: near 0: a thread takes all of them each time it runs. It is the thread for which the most wait. Otherwise: it is busy (below);"
        " beyond 16,384 its screens read the log instead.",
        ("{{instance}}", "taskflow_publications_waiting{$who}"),
        thresholds=is_bad_from(16_384),
    ),
    lines(
        "Caught up from the log, a second",
        "ops",
        "Normal: as many as connect again. Otherwise: more than that are followers that the pushes did not reach: a slow reader, or Redis"
        " that lost something.",
        ("{{instance}}", rate("taskflow_catch_ups_total", ["instance"])),
    ),
    lines(
        "Had to begin anew, a second, by reason",
        "ops",
        "Normal: no_cursor, which are new clients. Otherwise: cursor_ahead and epoch_changed follow a restore; cursor_too_old"
        " are clients that were away for long.",
        ("{{reason}}", rate("taskflow_resets_total", ["reason"])),
    ),
    lines(
        "Busy threads: how late a timer rings, 99 %",
        "s",
        "Normal: below 10 ms. Otherwise: pushes wait behind what keeps the workers busy (“Who is slow?”).",
        ("{{thread}} {{instance}}", quantile(0.99, "taskflow_thread_delay_duration_seconds", ["thread", "instance"])),
        thresholds=is_bad_from(0.1),
    ),
)

STORE = dashboard(
    "store",
    "Is the store hurting?",
    "The embedded store of one node (store = embedded). For a cluster see “Is the database hurting?”.",
    ONE_NODE,
    "6h",
    number(
        "Free on the disk",
        "bytes",
        "Normal: more than a week's growth. Otherwise: make room, and delete nothing in the data folder. The last 16 MB are kept"
        " back; then changes are refused (TaskflowDiskFull).",
        "min(taskflow_store_bytes_free{$who})",
        is_bad_below(500_000_000, 5_000_000_000),
    ),
    number(
        "Growth in a day, at this rate",
        "bytes",
        "Normal: little beside what is free; below 0, room was made. Otherwise: see who else writes to this disk; exports and logs"
        " often do.",
        "-sum(deriv(taskflow_store_bytes_free{$who}[$__range])) * 86400",
    ),
    number(
        "Errors",
        "none",
        "Normal: 0. Otherwise (TaskflowStoreErrors): a full disk, a failing disk, or damage; the log says which.",
        "sum(increase(taskflow_store_errors_total{$who}[$__range]))",
        is_bad_from(1),
    ),
    number(
        "Commits for each fsync",
        "none",
        "Normal: 1 at rest; more under load, when what waits goes together. Otherwise: much below 1 are fsyncs for nothing.",
        "sum(increase(taskflow_appends_total{$who}[$__range])) / sum(increase(taskflow_fsyncs_total{$who}[$__range]))",
    ),
    number(
        "Not in its place yet",
        "bytes",
        "Normal: about a second of load. Otherwise: a start after a crash reads it back, and takes as long.",
        "sum(taskflow_store_tail_bytes{$who})",
    ),
    number(
        "Write-ahead log",
        "bytes",
        "Normal: some megabytes. Otherwise: it grows while something reads for long, such as a backup by SQLite's own tools.",
        "sum(taskflow_store_wal_bytes{$who})",
        is_bad_from(1_000_000_000, 200_000_000),
    ),
    lines(
        "Appends: until they were durable",
        "s",
        "Normal: an fsync and a little. Otherwise: slow with quick fsyncs (beside this) is a queue: more is written than the store takes.",
        ("half", quantile(0.5, "taskflow_append_duration_seconds")),
        ("99 %", quantile(0.99, "taskflow_append_duration_seconds")),
        thresholds=is_bad_from(0.1),
    ),
    lines(
        "fsync",
        "s",
        "Normal: below 10 ms on a disk for servers; 0.2 to 1 ms on a good one. Otherwise (TaskflowFsyncSlow): another program writes to this"
        " disk, the volume is throttled, or the disk is dying.",
        ("half", quantile(0.5, "taskflow_fsync_duration_seconds")),
        ("99 %", quantile(0.99, "taskflow_fsync_duration_seconds")),
        thresholds=is_bad_from(0.1),
    ),
    lines(
        "Commits and fsyncs a second",
        "ops",
        "Normal: one fsync for many commits under load. Otherwise: at rest there is one append every two seconds, which asks"
        " whether the store is well.",
        ("commits", rate("taskflow_appends_total")),
        ("fsyncs", rate("taskflow_fsyncs_total")),
    ),
    lines(
        "Free on the disk",
        "bytes",
        "Normal: it falls slowly, if at all. Otherwise: a steep fall is the time that is left.",
        ("{{instance}}", "taskflow_store_bytes_free{$who}"),
        thresholds=is_bad_below(500_000_000),
    ),
    lines(
        "Waiting for the store's threads",
        "none",
        "Normal: tens under load, which share the next fsync. Otherwise: thousands are more than the disk takes; beyond 65,536 changes are"
        " refused (`store_full`), and reads fail.",
        ("writes", "sum(taskflow_store_writes_waiting{$who})"),
        ("reads", "sum(taskflow_store_reads_waiting{$who})"),
        thresholds=is_bad_from(65_536),
    ),
    lines(
        "Waiting to be written, for its place, and the write-ahead log",
        "bytes",
        "Normal: all rise under load and fall after it. Otherwise: what only rises is a store that does not keep up.",
        ("to be written", "sum(taskflow_store_bytes_waiting{$who})"),
        ("not in its place", "sum(taskflow_store_tail_bytes{$who})"),
        ("write-ahead log", "sum(taskflow_store_wal_bytes{$who})"),
    ),
    lines(
        "Size of the store",
        "bytes",
        "Normal: it grows with what people keep, slowly. Otherwise: a steep rise with few new users is a script that makes tasks, or an import.",
        ("{{instance}}", "taskflow_store_bytes{$who}"),
    ),
    lines(
        "Feeds read from the store, a second",
        "ops",
        "Normal: as many as users come back. Otherwise: many with few in memory is a `feed_idle_seconds` that is too short.",
        ("starts", rate("taskflow_feed_starts_total")),
        ("stops", rate("taskflow_feed_stops_total")),
    ),
)

DATABASE = dashboard(
    "database",
    "Is the database hurting?",
    "ScyllaDB or Cassandra (store = cql), as the nodes see it. For a single node see “Is the store hurting?”.",
    CLUSTER,
    "6h",
    number(
        "Requests that failed",
        "percentunit",
        "Normal: 0. Otherwise (TaskflowDatabaseErrors): the classes below say why.",
        "sum(increase(taskflow_cql_errors_total{$who}[$__range]))"
        " / sum(increase(taskflow_cql_request_duration_seconds_count{$who}[$__range]))",
        is_bad_from(0.01, 0.0001),
    ),
    number(
        "Appends below 0.1 s",
        "percentunit",
        "Normal: 99.9 %. A conditional write takes some round trips between replicas. Otherwise: replicas that are slow or far away, or"
        " two nodes at one feed.",
        within("0.1", "taskflow_append_duration_seconds"),
        is_bad_below(0.99, 0.999),
    ),
    number(
        "Appends that found another head",
        "percentunit",
        "Normal: 0; some after a node came or went. Otherwise (TaskflowConflictsSurge): two nodes think that they host the same feeds:"
        " see “Is the cluster well?”.",
        "sum(increase(taskflow_append_conflicts_total{$who}[$__range]))"
        " / sum(increase(taskflow_append_duration_seconds_count{$who}[$__range]))",
        is_bad_from(0.05, 0.01),
    ),
    number(
        "Appends of unknown fate",
        "none",
        "Normal: 0. They were read back, and nothing is lost. Otherwise: write time-outs: too few replicas in time.",
        "sum(increase(taskflow_cql_unknown_appends_total{$who}[$__range]))",
        is_bad_from(100, 1),
    ),
    number(
        "Retries refused",
        "none",
        "Normal: 0. Otherwise: a tenth of all requests was sent again already: the database refuses more than it does.",
        "sum(increase(taskflow_cql_retries_refused_total{$who}[$__range]))",
        is_bad_from(1),
    ),
    number(
        "Rows or logs damaged, other errors",
        "none",
        "Normal: 0. Errors that were not those of requests. Otherwise (TaskflowStoreErrors): the log names the feed; repair the replica.",
        "sum(increase(taskflow_store_errors_total{$who}[$__range])) - sum(increase(taskflow_cql_errors_total{$who}[$__range]))",
        is_bad_from(1),
    ),
    lines(
        "Appends: until they were durable",
        "s",
        "Normal: some milliseconds in one data centre. Otherwise: compare with the requests beside this; slower than those is waiting in"
        " a queue (`cql_requests_max`).",
        ("half", quantile(0.5, "taskflow_append_duration_seconds")),
        ("99 %", quantile(0.99, "taskflow_append_duration_seconds")),
        thresholds=is_bad_from(0.1),
    ),
    lines(
        "Requests, 99 %, by what was asked",
        "s",
        "Normal: `append` is the slowest, three to four times a plain write. Otherwise: all slow is the database or the network; `rows` and `log` alone are"
        " large feeds.",
        ("{{request}}", quantile(0.99, "taskflow_cql_request_duration_seconds", ["request"])),
    ),
    lines(
        "Requests under way, and those that wait",
        "none",
        "Normal: tens under way, and none waits. Otherwise: what waits finds all places taken (`cql_requests_max`, 512): a database that is"
        " slow, or more changes than it takes.",
        ("under way {{instance}}", "taskflow_cql_requests_running{$who}"),
        ("waiting {{instance}}", "taskflow_cql_requests_waiting{$who}"),
    ),
    lines(
        "Feeds that are read whole, and those that wait",
        "none",
        "Normal: none waits. 8 are read at a time on a node. Otherwise: many come to it together, because another node ended; they are there"
        " when this has fallen.",
        ("read {{instance}}", "taskflow_cql_loads_running{$who}"),
        ("waiting {{instance}}", "taskflow_cql_loads_waiting{$who}"),
    ),
    lines(
        "Requests a second, by what was asked",
        "reqps",
        "Normal: `append` follows the changes, `head` the followed feeds. Otherwise: many `rows` and `log` are feeds that come to a node"
        " all at once.",
        ("{{request}}", rate("taskflow_cql_request_duration_seconds_count", ["request"])),
        stacked=True,
    ),
    lines(
        "Errors a second, by class",
        "ops",
        "Normal: none. Otherwise: unavailable and write_timeout are replicas that are away; overloaded is too much work; docs/operations.md"
        " has all of them.",
        ("{{class}}", rate("taskflow_cql_errors_total", ["class"])),
    ),
    lines(
        "Asked twice: another replica, or again",
        "ops",
        "Normal: few. A read that takes 0.1 s is asked of another replica as well. Otherwise: one replica is slow.",
        ("another replica", rate("taskflow_cql_speculations_total")),
        ("again", rate("taskflow_cql_retries_total")),
        ("not again: too many", rate("taskflow_cql_retries_refused_total")),
    ),
    lines(
        "Appends that found another head, a second",
        "ops",
        "Normal: none but when a node comes or goes. Otherwise: nodes disagree who hosts what, mostly because Redis is away.",
        ("{{instance}}", rate("taskflow_append_conflicts_total", ["instance"])),
    ),
)

NODES = dashboard(
    "cluster",
    "Is the cluster well?",
    "What is between the nodes: who sees whom, and what Redis carries. A single node has none of it.",
    CLUSTER,
    "3h",
    number(
        "Nodes that see each other",
        "percentunit",
        "Normal: 100 %: each node sees all that run. It is what the node sees that sees the fewest. Otherwise: TaskflowClusterSplit; 0 % is a"
        " node for which Redis is away (beside this).",
        "min(min by (namespace, job) (taskflow_cluster_members{$who})"
        # Of all nodes, whichever are chosen.
        ' / count by (namespace, job) (taskflow_cluster_members{job=~"$job"}))',
        is_bad_below(0.5, 1),
    ),
    number(
        "Nodes for which Redis works",
        "percentunit",
        "Normal: 100 %. Otherwise (TaskflowBusDown): those nodes work alone, and get changes of others from the log, seconds late.",
        "avg(taskflow_bus_up{$who})",
        is_bad_below(0.5, 1),
    ),
    number(
        "Nodes with stale clients",
        "none",
        "Normal: 0. On these, clients are told that what they show may be old: Redis lost something, and the database does not answer."
        " Otherwise: TaskflowStale.",
        "sum(taskflow_stale{$who})",
        is_bad_from(1),
    ),
    number(
        "Messages dropped",
        "none",
        "Normal: 0. Followers read the log instead, so nothing is lost. Otherwise: Redis was away or too slow.",
        "sum(increase(taskflow_bus_dropped_total{$who}[$__range]))",
        is_bad_from(1000, 1),
    ),
    number(
        "Messages not understood",
        "none",
        "Normal: 0. Otherwise: nodes of versions too far apart, or another program on these channels.",
        "sum(increase(taskflow_cluster_garbled_total{$who}[$__range]))",
        is_bad_from(1),
    ),
    number(
        "Members came or went",
        "none",
        "Normal: 0, and some for each node that you stop or start. Otherwise: machines or networks that stand still for seconds.",
        "sum(increase(taskflow_cluster_changes_total{$who}[$__range]))",
    ),
    lines(
        "From node to node over Redis, 99 %",
        "s",
        "Normal: milliseconds. Otherwise (TaskflowBusLag): Redis has too much to do, swaps, or is far away.",
        ("{{instance}}", quantile(0.99, "taskflow_bus_lag_duration_seconds", ["instance"])),
        thresholds=is_bad_from(0.5),
    ),
    lines(
        "The canary: from a node to itself, 99 %",
        "s",
        "Normal: milliseconds. Each node sends one twice a second; without it a Redis that answers and does not deliver would not be"
        " noticed. Otherwise: as beside this, or the node's threads are busy.",
        ("{{instance}}", quantile(0.99, "taskflow_bus_canary_duration_seconds", ["instance"])),
        thresholds=is_bad_from(0.5),
    ),
    lines(
        "Members, as each node sees them",
        "none",
        "Normal: one line. Otherwise: nodes that see fewer are cut off, or share a name with another.",
        ("{{instance}}", "taskflow_cluster_members{$who}"),
    ),
    lines(
        "Whether Redis works, and whether clients are stale",
        "none",
        "Normal: up 1, stale 0. Otherwise: one node alone is its network; all of them is Redis.",
        ("{{instance}} up", "taskflow_bus_up{$who}"),
        ("{{instance}} stale", "taskflow_stale{$who}"),
    ),
    lines(
        "Waiting for Redis, and for hosts elsewhere",
        "none",
        "Normal: few. Otherwise: messages that wait are a Redis that is slow; beyond 16,384 they are dropped. Changes that wait for the node that"
        " hosts their feed, and no messages: that node, or the database behind it.",
        ("messages {{instance}}", "taskflow_bus_waiting{$who}"),
        ("changes {{instance}}", "taskflow_cluster_operations_waiting{$who}"),
    ),
    lines(
        "Bytes that wait for Redis",
        "bytes",
        "Normal: near 0. Otherwise: as beside this; beyond 64 MiB messages are dropped.",
        ("{{instance}}", "taskflow_bus_bytes_waiting{$who}"),
    ),
    lines(
        "Messages a second",
        "ops",
        "Normal: one received for each node that follows the feed. Otherwise: dropped above 0 is a Redis that does not keep up.",
        ("sent", rate("taskflow_bus_sent_total")),
        ("received", rate("taskflow_bus_received_total")),
        ("dropped", rate("taskflow_bus_dropped_total")),
    ),
    lines(
        "Requests to hosts elsewhere, a second",
        "reqps",
        "Normal: with N nodes, all but one in N changes. Otherwise: far more sent than carried out are repeats: hosts do not answer in time.",
        ("sent {{instance}}", rate("taskflow_cluster_forwards_total", ["instance"])),
        ("carried out {{instance}}", rate("taskflow_cluster_requests_total", ["instance"])),
    ),
    lines(
        "Heads compared with the store, a second",
        "ops",
        "Normal: each followed feed once a minute. Otherwise: many more is a node that reads the log because Redis is away.",
        ("{{instance}}", rate("taskflow_cluster_head_reads_total", ["instance"])),
    ),
    may_be_negative(
        lines(
            "Clocks: ahead of that of Redis",
            "s",
            "Normal: hundredths of a second. Nothing that is kept depends on it; tokens do, by minutes. Otherwise (TaskflowClockOff): NTP.",
            ("{{instance}}", "taskflow_clock_ahead_seconds{$who}"),
        )
    ),
    lines(
        "Feeds in memory, and channels subscribed",
        "none",
        "Normal: spread evenly over the nodes. Otherwise: a node with none does not host feeds, is leaving, or shares its name.",
        ("feeds {{instance}}", "taskflow_feeds_running{$who}"),
        ("channels {{instance}}", "taskflow_bus_subscriptions{$who}"),
    ),
    lines(
        "Connections made to Redis, and sign-ins looked up anew",
        "ops",
        "Normal: none after the start. Otherwise: each new connection may have missed messages, so that everything is compared again.",
        ("connections to Redis", rate("taskflow_bus_connects_total")),
        ("rounds of sign-ins", rate("taskflow_sign_in_rounds_total")),
        ("clients sent to other nodes", rate("taskflow_drained_total")),
        ("of those, cut at the end of a stop", rate("taskflow_drain_cut_total")),
    ),
    lines(
        "Sign-outs that all nodes are still to hear of",
        "none",
        "Normal: 0; it takes the way to Redis and back. Otherwise: Redis is away, and they are told when it is back; beyond 10,000 the oldest are dropped, and other nodes find them"
        " when the token expires.",
        ("{{instance}}", "taskflow_sign_outs_waiting{$who}"),
    ),
)

USE = dashboard(
    "use",
    "How is TaskFlow used?",
    "People and what they do. The figures of a day need a Prometheus that has kept a day.",
    [],
    "7d",
    number(
        "Active users, 24 h",
        "short",
        "Normal: that is for you to say. Users who changed something on a day (UTC). Otherwise: a fall on a working day is worth a look.",
        "sum(increase(taskflow_users_active_total{$who}[1d]))",
    ),
    number(
        "Tasks made, 24 h",
        "short",
        "Normal: a few for each active user. Otherwise: a jump is an import or a script.",
        "sum(increase(taskflow_tasks_created_total{$who}[1d]))",
    ),
    number(
        "Tasks done, 24 h",
        "short",
        "Normal: near to those made, over weeks. Otherwise: a jump is an import or a script.",
        "sum(increase(taskflow_tasks_completed_total{$who}[1d]))",
    ),
    number(
        "Done of those made",
        "percentunit",
        "Normal: half and more over the time shown. Otherwise: far lower are lists that only grow.",
        "sum(increase(taskflow_tasks_completed_total{$who}[$__range])) / sum(increase(taskflow_tasks_created_total{$who}[$__range]))",
    ),
    number(
        "New accounts, 24 h",
        "short",
        "Normal: that is for you to say. Otherwise: hundreds an hour are no people; see `registration` in docs/operations.md.",
        'sum(increase(taskflow_sign_ins_total{$who, outcome="registered"}[1d]))',
    ),
    number(
        "Accounts deleted, 24 h",
        "short",
        "Normal: few. They are gone days after their owners wished it (`account_grace_days`). Otherwise: ask why they leave.",
        "sum(increase(taskflow_accounts_deleted_total{$who}[1d]))",
    ),
    lines(
        "Active users, the last 24 h",
        "short",
        "Normal: it follows the week. Otherwise: after a restart of Prometheus it starts low.",
        ("users", "sum(increase(taskflow_users_active_total{$who}[1d]))"),
    ),
    lines(
        "Tasks made and done, an hour",
        "short",
        "Normal: it follows the day. Otherwise: a flat line at night is a script.",
        ("made", "sum(increase(taskflow_tasks_created_total{$who}[1h]))"),
        ("done", "sum(increase(taskflow_tasks_completed_total{$who}[1h]))"),
    ),
    lines(
        "Connected: users and screens",
        "none",
        "Normal: between one and three screens a user. Otherwise: many more screens than users are connections that nobody closes.",
        ("users", "sum(taskflow_feeds_followed{$who})"),
        ("{{kind}}", "sum by (kind) (taskflow_connections{$who})"),
    ),
    lines(
        "Sign-ins an hour",
        "short",
        "Normal: mostly `opened`, each refresh of a token among them. Otherwise: see “Who is kept out?”.",
        ("{{outcome}}", "sum by (outcome) (increase(taskflow_sign_ins_total{$who}[1h]))"),
    ),
    lines(
        "Requests a second, by route",
        "reqps",
        "Normal: little beside the WebSockets. Otherwise: one route far above the rest is a script, or a client that polls.",
        ("{{route}}", rate("taskflow_http_requests_total", ["route"])),
        stacked=True,
    ),
    lines(
        "Messages from clients a second, by kind",
        "ops",
        "Normal: mostly `heartbeat`. Otherwise: `invalid` is a client that is wrong; many `hello` are clients that connect over and over.",
        ("{{kind}}", rate("taskflow_messages_received_total", ["kind"])),
        stacked=True,
    ),
)

DOOR = dashboard(
    "door",
    "Who is kept out?",
    "Handshakes, sign-ins and limits: who wants in and may not, and whether that is right.",
    [],
    "6h",
    number(
        "Sign-ins refused",
        "percentunit",
        "Normal: a tenth; people mistype. Otherwise (TaskflowSignInsRefused): somebody tries passwords, or a key was removed too early.",
        'sum(increase(taskflow_sign_ins_total{$who, outcome=~"refused|limited"}[$__range]))'
        " / sum(increase(taskflow_sign_ins_total{$who}[$__range]))",
        is_bad_from(0.5, 0.25),
    ),
    number(
        "Sign-ins that failed for us",
        "none",
        "Normal: 0. Too many at once, or the store failed. Otherwise (TaskflowSignInsFail): cores for passwords, or the store.",
        'sum(increase(taskflow_sign_ins_total{$who, outcome=~"busy|failed"}[$__range]))',
        is_bad_from(20, 1),
    ),
    number(
        "Handshakes without a place",
        "none",
        "Normal: 0. Otherwise (TaskflowClientsTurnedAway): `connections_max` is reached, or one user has 64 connections.",
        'sum(increase(taskflow_handshakes_total{$who, outcome="limited"}[$__range]))',
        is_bad_from(50, 1),
    ),
    number(
        "Beyond a limit",
        "none",
        "Normal: 0, or a script now and then. With `rate_limits = count` they went on. Otherwise: TaskflowLimitsHit.",
        'sum(increase(taskflow_limited_total{$who, what!="bytes"}[$__range]))',
        is_bad_from(1000, 1),
    ),
    number(
        "Letters that did not go out",
        "none",
        "Normal: 0. Otherwise (TaskflowLettersFail): the mail server refuses or is away; the log says why.",
        'sum(increase(taskflow_letters_total{$who, outcome=~"failed|dropped"}[$__range]))',
        is_bad_from(3, 1),
    ),
    number(
        "Slow requests cut",
        "none",
        "Normal: 0. Otherwise: somebody floods a node with requests that never end, or does not take answers over HTTP/2; others are not kept out by that.",
        "sum(increase(taskflow_http_idle_closed_total{$who}[$__range]))",
        is_bad_from(1000, 1),
    ),
    lines(
        "Sign-ins a second, by outcome",
        "ops",
        "Normal: opened, and a few refused. Otherwise: refused without opened is an attack, or tokens that are no longer good.",
        ("{{outcome}}", rate("taskflow_sign_ins_total", ["outcome"])),
        stacked=True,
    ),
    lines(
        "Handshakes a second, by outcome",
        "ops",
        "Normal: accepted. Otherwise: refused is a bad token, origin or request; limited is no place.",
        ("{{outcome}}", rate("taskflow_handshakes_total", ["outcome"])),
        stacked=True,
    ),
    lines(
        "How long a handshake takes",
        "s",
        "Normal: a millisecond, and less. Otherwise: the token is looked up in a database that is slow, or the threads are busy (“Who is slow?”).",
        ("half", quantile(0.5, "taskflow_handshake_duration_seconds")),
        ("99 %", quantile(0.99, "taskflow_handshake_duration_seconds")),
    ),
    lines(
        "Beyond a limit, a second, by which",
        "ops",
        "Normal: none. Otherwise: strangers are requests without a good token from one address; reads and writes are one user.",
        ("{{what}}", rate("taskflow_limited_total", ["what"])),
    ),
    lines(
        "Cut because they may not, a second",
        "ops",
        "Normal: signed_out now and then. Otherwise: hello_timeout are connections that say nothing; protocol is a client that is wrong.",
        ("{{reason}}", rate("taskflow_evictions_total", ["reason"], ', reason=~"hello_timeout|signed_out|protocol"')),
    ),
    lines(
        "Hellos and follows refused, a second",
        "ops",
        "Normal: none, or a token that is no longer good now and then. Otherwise: hellos are bad tokens or clients that are too old; follows are feeds"
        " of others, or a store that cannot be read.",
        ("hellos", rate("taskflow_hello_duration_seconds_count", more=', outcome="refused"')),
        ("follows", rate("taskflow_follow_duration_seconds_count", more=', outcome="refused"')),
    ),
    lines(
        "Who is counted",
        "none",
        "Normal: rates are of those who asked in the last ten seconds, attempts of those who signed in within the window. Otherwise: far more than"
        " users is somebody with many addresses; beyond 100,000 attempts the oldest are forgotten.",
        ("rates {{instance}}", "taskflow_rates_counted{$who}"),
        ("attempts to sign in {{instance}}", "taskflow_sign_in_attempts_counted{$who}"),
    ),
    lines(
        "HTTP connections",
        "none",
        "Normal: as many as clients of REST, event streams and proxies hold; WebSockets are not among them. Otherwise: beyond 16,384 they wait to be"
        " accepted: somebody holds far too many; the figure of slow requests above says whether they are cut.",
        ("{{instance}}", "taskflow_http_connections{$who}"),
    ),
    lines(
        "Letters an hour, by what became of them",
        "short",
        "Normal: sent. Otherwise: dropped are more than 5 an hour to one address, which is somebody who asks for others.",
        ("{{outcome}}", "sum by (outcome) (increase(taskflow_letters_total{$who}[1h]))"),
    ),
    lines(
        "Letters under way",
        "none",
        "Normal: none for longer than seconds. Otherwise: the mail server takes none now; they are tried for eleven minutes, and beyond 256 further"
        " ones are dropped.",
        ("{{instance}}", "taskflow_letters_waiting{$who}"),
    ),
    lines(
        "Passwords, hashed and waiting",
        "none",
        "Normal: none wait. Otherwise: 2 are hashed at a time on a node; a storm takes as long as it has people.",
        ("hashed", "sum(taskflow_passwords_running{$who})"),
        ("waiting", "sum(taskflow_passwords_waiting{$who})"),
    ),
    lines(
        "Sign-ins tried on other nodes, heard a second",
        "ops",
        "Normal: with N nodes, all but one in N of the attempts, from each of them; a single node hears of none. Otherwise: none in a cluster is a"
        " Redis that is away: each node counts for itself, and who tries passwords has as many tries more.",
        ("{{instance}}", rate("taskflow_sign_in_attempts_heard_total", ["instance"])),
    ),
)

COST = dashboard(
    "cost",
    "What does it cost?",
    "A day at the prices of grafana/rules/prices.yml (the chart: `cost`), in their currency, and what is had for it. Prices are of whole "
    "installations: the choice of nodes has no part in them.",
    [],
    "7d",
    number(
        "A day, at the nodes of now",
        "short",
        "Normal: what you reckoned with. Otherwise: more nodes than usual are autoscaling or an update; see “How is TaskFlow used?”.",
        'sum(taskflow:cost_a_day{job=~"$job"})',
    ),
    number(
        "The last 24 h",
        "short",
        "Normal: below the budget. Otherwise: TaskflowBudgetExceeded in docs/operations.md.",
        'sum(avg_over_time(taskflow:cost_a_day{job=~"$job"}[1d]))',
    ),
    number(
        "Of the budget",
        "percentunit",
        "Normal: below 80 %. Otherwise: fewer nodes, or a larger budget: TaskflowBudgetExceeded in docs/operations.md.",
        'sum(avg_over_time(taskflow:cost_a_day{job=~"$job"}[1d])) / sum(taskflow:budget_day{job=~"$job"})',
        is_bad_from(1, warn=0.8),
    ),
    number(
        "A thousand active users, 24 h",
        "short",
        "Normal: it falls while more users come. Otherwise: nodes that nobody needs; autoscaling has a minimum.",
        'sum(avg_over_time(taskflow:cost_a_day{job=~"$job"}[1d])) / sum(increase(taskflow_users_active_total{$who}[1d])) * 1000',
    ),
    number(
        "A million changes, 24 h",
        "short",
        "Normal: it falls while there are more changes. Otherwise: as for the users beside it.",
        'sum(avg_over_time(taskflow:cost_a_day{job=~"$job"}[1d])) '
        '/ sum(increase(taskflow_operations_total{$who, outcome="accepted"}[1d])) * 1e6',
    ),
    number(
        "CPU of a node, 24 h",
        "percentunit",
        "Normal: 20 to 50 % of a core for each core that a node has. Otherwise: far below are nodes that are larger than they need be.",
        "avg(rate(process_cpu_seconds_total{$who}[1d]))",
    ),
    lines(
        "A day, and the budget",
        "short",
        "Normal: below the budget, with more by day than by night where autoscaling is on. Otherwise: TaskflowBudgetExceeded.",
        ("a day, at the nodes of the time", 'sum(taskflow:cost_a_day{job=~"$job"})'),
        ("beside the nodes", 'sum(taskflow:price_others_day{job=~"$job"})'),
        ("budget", 'sum(taskflow:budget_day{job=~"$job"})'),
    ),
    lines(
        "Nodes",
        "none",
        "Normal: as many as you want, one more during an update. Otherwise: each is paid for, ready or not.",
        ("that answer", "count(taskflow_ready{$who})"),
        ("ready", "sum(taskflow_ready{$who})"),
    ),
    lines(
        "Cores in use, by node",
        "none",
        "Normal: up to half of what a node has, at the busiest hour. Otherwise: more wants more nodes, far less fewer: docs/capacity.md.",
        ("{{instance}}", rate("process_cpu_seconds_total", ["instance"])),
    ),
    lines(
        "Memory in use, of what a node may have",
        "percentunit",
        "Normal: below 70 %. Otherwise: far below are nodes with more memory than they need.",
        (
            "{{instance}}",
            "max by (instance) (process_resident_memory_bytes{$who}) / max by (instance) (taskflow_memory_bytes_max{$who})",
        ),
    ),
    lines(
        "Connections of a node",
        "none",
        "Normal: alike on all nodes. Otherwise: a balancer that prefers one makes you pay for the others.",
        ("{{instance}}", "sum by (instance) (taskflow_connections{$who})"),
    ),
    lines(
        "Pushed to clients, bytes a second",
        "Bps",
        "Normal: it follows the changes. Otherwise: where traffic is paid for, this is most of it; a jump is a script or a list that many follow.",
        ("pushes", rate("taskflow_push_bytes_total")),
    ),
)

DASHBOARDS = [WELL, SLOW, PUSHES, STORE, DATABASE, NODES, USE, DOOR, COST]


def files():
    return {
        FOLDER / f"{each['uid'].removeprefix('taskflow-')}.json": json.dumps(each, indent=2, ensure_ascii=False) + "\n"
        for each in DASHBOARDS
    }


def main(is_to_write):
    wanted = files()
    extra = set(FOLDER.glob("*.json")) - set(wanted)
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    if is_to_write:
        for path in stale:
            path.write_text(wanted[path])
        for path in extra:
            path.unlink()
        return []
    return sorted(path.name for path in [*stale, *extra])


if __name__ == "__main__":
    if wrong := main("--write" in sys.argv):
        sys.exit(f"not as made from grafana/dashboards.py: {', '.join(wrong)}; grafana/dashboards.py --write")
