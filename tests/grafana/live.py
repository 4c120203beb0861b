"""The checks with real servers: a Prometheus scrapes them every second and is asked for every panel and every rule."""

import contextlib
import json
import math
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from load import Load
from promql import as_answers
from sources import GRAFANA, ROOT, dashboards, panels, rules

# As long as the load goes on before anybody asks: a few scrapes, and what happens every few seconds.
WARM_SECONDS = 12
# Scraped every second, `$__rate_interval` is four scrapes; a panel shows the last so many seconds.
SHOWN_SECONDS = 10


def free_port():
    """Below those that the system gives to connections: a service takes seconds until it listens."""
    while True:
        port = random.randrange(15_000, 22_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def until(what, holds, seconds=60):
    end = time.monotonic() + seconds
    while not (found := holds()):
        if time.monotonic() > end:
            raise SystemExit(f"grafana-check: not within {seconds} s: {what}")
        time.sleep(0.1)
    return found


def is_there(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


class Process:
    """Ends when the block does."""

    def __init__(self, folder, name, *command, variables=None):
        self.name, self.log = name, Path(folder) / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=os.environ | (variables or {}))

    def __enter__(self):
        return self

    def end(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __exit__(self, *_):
        self.end()

    def until_there(self, url):
        def holds():
            if self.process.poll() is not None:
                raise SystemExit(f"grafana-check: {self.name} ended:\n{self.log.read_text()[-2000:]}")
            return is_there(url)

        until(f"{self.name} answers", holds)


class Node(Process):
    def __init__(self, folder, name, variables):
        self.address, self.operator = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        serve = [os.environ["TASKFLOW"], "serve", "--listen", self.address, "--operator-listen", self.operator]
        # More sign-ins than one address may otherwise try.
        variables = {"TASKFLOW_SIGN_IN_ATTEMPTS_MAX": "0", "TASKFLOW_STRANGERS_A_SECOND_MAX": "0"} | variables
        super().__init__(folder, name, *serve, "--data-dir", f"{folder}/{name}", variables=variables)
        self.until_there(f"http://{self.operator}/health/ready")


class Prometheus(Process):
    """With the rules, as the compose file gives them to it."""

    def __init__(self, folder, nodes):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        shutil.copytree(GRAFANA / "rules", f"{folder}/rules", dirs_exist_ok=True)
        targets = [node.operator for node in nodes]
        settings = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules/*.yml"],
            "scrape_configs": [{"job_name": "taskflow", "static_configs": [{"targets": targets}]}],
        }
        Path(f"{folder}/prometheus.yml").write_text(json.dumps(settings))
        flags = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/prometheus"]
        super().__init__(folder, "prometheus-log", "prometheus", *flags, f"--web.listen-address=127.0.0.1:{port}")
        self.until_there(f"{self.url}/-/ready")

    def get(self, path, **arguments):
        """What is in `data`; the error, if it is one, as a text."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(arguments, doseq=True)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            return json.load(error)["error"]

    def problem(self, expression, has_figures=True):
        """Why it shows nothing, if it does: an error, no series, or (`has_figures`) nothing but NaN for as long as is shown."""
        now = time.time()
        found = self.get("query_range", query=expression, start=now - SHOWN_SECONDS, end=now, step=1)
        if isinstance(found, str):
            return found
        if not found["result"]:
            return "empty"
        values = [float(value) for series in found["result"] for _, value in series["values"]]
        return "nothing but NaN" if has_figures and all(map(math.isnan, values)) else None

    def values(self, query):
        """What Grafana's `label_values` finds."""
        metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()
        found = self.get(f"label/{label}/values", **{"match[]": metric})
        return [] if isinstance(found, str) else found

    def pending(self):
        """Alerts that fire, or would if what is now went on for a quarter of an hour. Those that want it to go on for longer look at
        hours, of which there are seconds here."""
        loaded = [rule for group in self.get("rules")["groups"] for rule in group["rules"]]
        return {rule["name"] for rule in loaded if rule.get("alerts") and rule["duration"] <= 900}


def substituted(expression, variables):
    for name, value in variables.items():
        expression = expression.replace("${" + name + "}", value).replace("$" + name, value)
    return expression


def asked(prometheus, dashboard):
    """How many queries its panels have, and what is wrong: asked with all nodes chosen, and with each of them named."""
    shown = {"__rate_interval": "4s", "__range": f"{SHOWN_SECONDS}s", "__interval": "1s"}
    every, chosen = dict(shown), dict(shown)
    for variable in dashboard["templating"]["list"]:
        if variable["type"] != "query":
            continue
        found = prometheus.values(substituted(variable["query"]["query"], chosen))
        if not found:
            return 0, [f"{dashboard['uid']}: the variable {variable['name']} has no values"]
        every[variable["name"]] = variable["allValue"]
        chosen[variable["name"]] = "(" + "|".join(re.escape(value).replace("\\", "\\\\") for value in found) + ")"
    count, wrong = 0, []
    for panel in panels(dashboard):
        for target in panel["targets"]:
            count += 1
            for variables in (every, chosen):
                expression = substituted(target["expr"], variables)
                if problem := prometheus.problem(expression):
                    wrong.append(f"{dashboard['uid']}: {panel['title']}: {problem}: {expression}")
    return count, wrong


def everything(checks, prometheus, what, left_out):
    """Each panel of the dashboards that are for it, and each rule."""
    count, wrong = 0, []
    for dashboard in dashboards().values():
        if left_out not in dashboard["tags"]:
            more, problems = asked(prometheus, dashboard)
            count += more
            wrong += problems
    checks.none(f"{what}: {count} queries of panels show something", wrong)
    wrong = []
    for _, rule in rules():
        name = rule.get("alert") or rule["record"]
        # A ratio of what does not happen here is NaN; what it names is there all the same.
        if problem := prometheus.problem(as_answers(rule["expr"]), has_figures=False):
            wrong.append(f"{name}: {problem}: {as_answers(rule['expr'])}")
    checks.none(f"{what}: {len(list(rules()))} rules find what they name", wrong)
    loaded = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    wrong = [f"{rule['name']}: {rule.get('lastError')}" for rule in loaded if rule["health"] != "ok"]
    checks.check(f"{what}: Prometheus computes all of them", not wrong and len(loaded) == len(list(rules())), wrong)
    pending = until_calm(prometheus)
    checks.none(f"{what}: no alert is on its way while all is well", sorted(pending))


def until_calm(prometheus):
    """What an alert says in the first seconds of a node is not held against it."""
    end = time.monotonic() + 10
    while (pending := prometheus.pending()) and time.monotonic() < end:
        time.sleep(0.5)
    return pending


def says(checks, prometheus, sentence, *alerts, seconds=60):
    until(f"{sentence}: {', '.join(alerts)}, not {prometheus.pending()}", lambda: set(alerts) <= prometheus.pending(), seconds)
    checks.check(sentence, True)


@contextlib.contextmanager
def loaded(addresses):
    load = Load(addresses)
    try:
        yield load
    finally:
        load.stop()


def one_node(checks, folder):
    with Node(folder, "node", {}) as node, Prometheus(folder, [node]) as prometheus, loaded([node.address]) as load:
        time.sleep(WARM_SECONDS)
        everything(checks, prometheus, "one node", "taskflow-cluster")
        checks.none("one node: nobody under load met an error", load.problems)
        load.stop()
        node.end(signal.SIGKILL)
        says(checks, prometheus, "one node: killed, and the alerts say so", "TaskflowDown", "TaskflowNodeDown")


@contextlib.contextmanager
def services(folder):
    """A Redis and a database of their own."""
    variables = os.environ | {
        "REDIS_RUN": f"{folder}/redis",
        "REDIS_PORT": str(free_port()),
        "CASSANDRA_RUN": f"{folder}/cassandra",
        "CASSANDRA_PORT": str(free_port()),
        "CASSANDRA_GOSSIP": str(free_port()),
    }

    def script(name, *arguments, may_fail=False):
        done = subprocess.run([ROOT / "scripts/services" / name, *arguments], env=variables, capture_output=True, text=True)
        if done.returncode and not may_fail:
            raise SystemExit(f"grafana-check: {name}: {done.stderr}")
        return done.stdout.split()

    def redis_down():
        script("redis-down", "--wipe")

    try:
        [redis] = script("redis-up", "standalone")
        database = script("cassandra-up", "1")
        settings = {
            "TASKFLOW_STORE": "cql",
            "TASKFLOW_CQL_NODES": ",".join(database),
            "TASKFLOW_CQL_REPLICATION": "1",
            "TASKFLOW_REDIS": redis,
            "TASKFLOW_KEY_DIR": f"{folder}/key",
            # Nothing is in front of it that had to notice first.
            "TASKFLOW_DRAIN_WAIT_SECONDS": "0",
        }
        yield settings, redis_down
    finally:
        script("redis-down", "--wipe", may_fail=True)
        script("cassandra-down", "--wipe", may_fail=True)


def cluster(checks, folder):
    with contextlib.ExitStack() as stack:
        settings, redis_down = stack.enter_context(services(folder))
        Path(settings["TASKFLOW_KEY_DIR"]).mkdir()
        names = ["node-1", "node-2", "node-3"]
        subprocess.run([os.environ["TASKFLOW"], "migrate"], env=os.environ | settings, check=True, capture_output=True)
        nodes = [stack.enter_context(Node(folder, name, settings | {"TASKFLOW_NODE_NAME": name})) for name in names]
        prometheus = stack.enter_context(Prometheus(folder, nodes))
        load = stack.enter_context(loaded([node.address for node in nodes]))
        time.sleep(WARM_SECONDS)
        everything(checks, prometheus, "cluster", "taskflow-one-node")
        checks.none("cluster: nobody under load met an error", load.problems)
        load.leave(nodes[2].address)
        nodes[2].end()
        says(checks, prometheus, "cluster: a node is stopped, and the alerts say so", "TaskflowNodeDown", "TaskflowMembersMissing")
        redis_down()
        says(checks, prometheus, "cluster: Redis is gone, and the alerts say so", "TaskflowBusDown", seconds=120)


def check(checks, arguments):
    # Told to stop, it ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="taskflow-grafana.", dir=shared if shared.is_dir() else None) as folder:
        os.mkdir(f"{folder}/one")
        one_node(checks, f"{folder}/one")
        if arguments == ["cluster"]:
            os.mkdir(f"{folder}/many")
            cluster(checks, f"{folder}/many")
