"""What can be said of the image, the compose files, the workflows and the examples of proxies by reading them."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tomllib

import yaml

# Each with what it is laid over.
COMPOSE = {"compose.yaml": None, "compose.cluster.yaml": None, "compose.logs.yaml": "compose.yaml"}

# Its start writes its configuration where the image has it, and gives its folder to its user.
NOT_HARDENED = {"scylla"}

OPERATOR_PORT = 9464

# Keys of a service that are used; another one is a slip of the pen until it is put here.
SERVICE_KEYS = set(
    "build cap_drop command depends_on environment healthcheck image logging mem_limit networks ports read_only restart secrets "
    "security_opt stop_grace_period tmpfs user volumes".split()
)


def run(*command, **more):
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **more)
    return done.returncode, done.stdout


def text(name):
    return pathlib.Path(name).read_text(encoding="utf-8")


def settings():
    """The variables that the server knows, as docs/operations.md lists them (its table is generated from the code)."""
    return set(re.findall(r"^\| `\w+` \| `(TASKFLOW_\w+)` \|", text("docs/operations.md"), re.MULTILINE))


def unknown(variables, known):
    """What looks like a setting and is none; any may be in a file."""
    return [name for name in variables if name.startswith("TASKFLOW_") and not {name, name.removesuffix("_FILE")} & known]


def laid_over(below, above):
    """As compose does with a second file, as far as ours need it: keys of the second count."""
    services = {name: below["services"].get(name, {}) | service for name, service in above["services"].items()}
    return {"services": below["services"] | services, "volumes": below.get("volumes", {}) | above.get("volumes", {})}


def services():
    """Each service of each compose file: the file, the whole document, the service's name, the service."""
    for file, below in COMPOSE.items():
        document = yaml.safe_load(text(file))
        if below:
            document = laid_over(yaml.safe_load(text(below)), document)
        for name, service in document["services"].items():
            yield file, document, name, service


def list_of(value):
    return list(value) if value else []


def check_dockerfile(checks, known):
    code, said = run("hadolint", "Dockerfile")
    checks.check("hadolint finds nothing in the Dockerfile", code == 0, said)
    last = text("Dockerfile").rpartition("\nFROM ")[2]
    variables = re.findall(r"\b(TASKFLOW_\w+)=", last)
    checks.none("every setting in the Dockerfile is one", unknown(variables, known) or ([] if variables else ["there is none"]))
    members = tomllib.loads(text("Cargo.toml"))["workspace"]["members"]
    ignored = text(".dockerignore").splitlines()
    checks.none("every member of the workspace is in the build", [name for name in members if f"!{name}" not in ignored])


def check_compose(checks, known, folder):
    version = tomllib.loads(text("Cargo.toml"))["workspace"]["package"]["version"]
    wrong = {key: [] for key in "keys hardened health memory tags ports settings names mounts".split()}
    for file, document, name, service in services():
        where = f"{file}: {name}"
        wrong["keys"] += [f"{where}: {key}" for key in service if key not in SERVICE_KEYS]
        is_hardened = (
            service.get("read_only") is True
            and service.get("cap_drop") == ["ALL"]
            and service.get("security_opt") == ["no-new-privileges:true"]
        )
        if is_hardened == (name in NOT_HARDENED):
            wrong["hardened"].append(where)
        image, _, tag = service["image"].rpartition(":")
        is_taskflow = image.endswith("/taskflow")
        # TaskFlow's image brings its own.
        if ("test" in service.get("healthcheck", {})) == is_taskflow:
            wrong["health"].append(where)
        if "mem_limit" not in service:
            wrong["memory"].append(where)
        if not re.search(r"\d\.\d", tag) or is_taskflow and tag != version:
            wrong["tags"].append(f"{where}: {service['image']}")
        for port in list_of(service.get("ports")):
            if not port.startswith("127.0.0.1:") or port.endswith(f":{OPERATOR_PORT}"):
                wrong["ports"].append(f"{where}: {port}")
        environment = service.get("environment", {})
        wrong["settings"] += [f"{where}: {key}" for key in unknown(environment, known)]
        for kind, names in (
            ("services", service.get("depends_on")),
            ("networks", service.get("networks")),
            ("secrets", service.get("secrets")),
            ("volumes", [v.partition(":")[0] for v in list_of(service.get("volumes")) if not v.startswith(".")]),
        ):
            wrong["names"] += [f"{where}: {kind}: {n}" for n in list_of(names) if n not in document.get(kind, {})]
        for volume in list_of(service.get("volumes")):
            source = volume.partition(":")[0]
            # In the place of a file that is not there a folder would be made, and mounted.
            if source.startswith("./") and "." in source.rpartition("/")[2] and not pathlib.Path(source).is_file():
                wrong["mounts"].append(f"{where}: {source}")
            if source.startswith("./") and not volume.endswith(":ro"):
                wrong["mounts"].append(f"{where}: {volume} is not read-only")
    checks.none("every key in the compose files is one", wrong["keys"])
    checks.none("every service is hardened, but those that are named here", wrong["hardened"])
    checks.none("every service says how its health is asked for; TaskFlow's image does", wrong["health"])
    checks.none("every service has a limit of memory", wrong["memory"])
    checks.none(f"every image has a version, and TaskFlow's is that of Cargo.toml ({version})", wrong["tags"])
    checks.none("ports are published on this machine only, and none of the operator's", wrong["ports"])
    checks.none("every setting in the compose files is one", wrong["settings"])
    checks.none("every service, network, volume and secret that is named is there", wrong["names"])
    checks.none("files that are mounted are there, and read-only", wrong["mounts"])

    cluster = yaml.safe_load(text("compose.cluster.yaml"))
    nodes = {name: service for name, service in cluster["services"].items() if name.startswith("node-")}
    wait = {name: service["depends_on"].get("migrate", {}).get("condition") for name, service in nodes.items()}
    checks.check("nodes wait for the end of the migration", set(wait.values()) == {"service_completed_successfully"}, wait)
    waits = cluster["services"]["migrate"]["depends_on"]
    checks.check("the migration waits for the database", waits == {"scylla": {"condition": "service_healthy"}}, waits)
    named = {name: service["environment"]["TASKFLOW_NODE_NAME"] for name, service in nodes.items()}
    checks.check("nodes are called what they are", all(name == called for name, called in named.items()), named)

    # Twice: what is there stays.
    shutil.copy("deploy/make-secrets", folder)
    made = []
    for _ in range(2):
        code, said = run(f"{folder}/make-secrets")
        if code != 0:
            made.append(said)
            continue
        made.append({path.name: path.read_text() for path in pathlib.Path(folder, "secrets").iterdir()})
    checks.check("secrets that were made stay", made[0] == made[1], made)
    wanted = {pathlib.Path(secret["file"]).name for secret in cluster["secrets"].values()}
    checks.check("make-secrets makes those of the cluster, and no other", set(made[0]) == wanted, made[0])
    password = made[0]["redis-conf"].removeprefix("requirepass ").strip()
    checks.check("Redis and the nodes have one password", f":{password}@" in made[0]["redis-url"] and len(password) == 48)
    return nodes


def check_proxies(checks, nodes):
    targets = [f"{name}:{OPERATOR_PORT}" for name in nodes]
    jobs = yaml.safe_load(text("deploy/prometheus.yml"))["scrape_configs"]
    scraped = next(job for job in jobs if job["job_name"] == "taskflow")["static_configs"][0]["targets"]
    checks.check("Prometheus scrapes each node on its operator's port", scraped == targets, scraped)

    haproxy, caddy, nginx = text("deploy/haproxy.cfg"), text("deploy/Caddyfile"), text("deploy/nginx.conf")
    backends = {
        "haproxy": re.findall(r"^ +server \S+ (\S+)$", haproxy, re.MULTILINE),
        "caddy": re.search(r"reverse_proxy (.*) \{", caddy)[1].split(),
        "nginx": re.findall(r"^ +server (node\S+) max_fails=0;$", nginx, re.MULTILINE),
    }
    expected = [f"{name}:8080" for name in nodes]
    checks.none(
        "every proxy sends to each node, and nginx takes none of them for dead",
        [f"{proxy}: {found}" for proxy, found in backends.items() if found != expected],
    )
    asks = {
        "haproxy": ("option httpchk GET /health/ready\n", f"check port {OPERATOR_PORT} "),
        "caddy": ("health_uri /health/ready\n", f"health_port {OPERATOR_PORT}\n"),
    }
    checks.none(
        "proxies that can ask for /health/ready do so on the operator's port",
        [f"{proxy}: {line}" for proxy, lines in asks.items() for line in lines if line not in {"haproxy": haproxy, "caddy": caddy}[proxy]],
    )
    lasts = {"haproxy": (haproxy, "timeout tunnel 1h"), "nginx": (nginx, "proxy_read_timeout 1h;")}
    checks.none(
        "a WebSocket may be silent for an hour; Caddy has no limit",
        [proxy for proxy, (configuration, line) in lasts.items() if line not in configuration],
    )


def check_logs(checks):
    """How logs are shipped. Vector itself is in no registry that tests have: where it is installed, it says more."""
    vector = yaml.safe_load(text("deploy/vector.yaml"))
    compose = yaml.safe_load(text("compose.logs.yaml"))["services"]
    parts = {**vector["sources"], **vector["transforms"]}
    named = [name for part in [*vector["transforms"].values(), *vector["sinks"].values()] for name in part["inputs"]]
    named += [test["inputs"][0]["insert_at"] for test in vector["tests"]]
    checks.none("every part that Vector's configuration names is there", [name for name in named if name not in parts])
    asked = set(re.findall(r"\$\{(\w+)\}", text("deploy/vector.yaml")))
    checks.check("it is given each variable that it asks for", asked == set(compose["vector"]["environment"]), asked)
    to = compose["taskflow"]["logging"]["options"]["fluentd-address"]
    port = to.rpartition(":")[2]
    listens = vector["sources"]["containers"]["address"].rpartition(":")[2]
    checks.check("the log goes where Vector listens", listens == port and compose["vector"]["ports"] == [f"{to}:{port}"], to)
    table = re.search(r"<!-- fields: begin.*?-->\n(.*?)<!-- fields: end -->", text("docs/operations.md"), re.DOTALL)[1]
    fields = re.findall(r"^\| `([\w.]+)` \|", table, re.MULTILINE)
    line = json.loads(next(test["inputs"][0]["log_fields"]["log"] for test in vector["tests"]))
    checks.none("its test is a line with fields of the table", [name for name in line if name not in fields])
    checks.none(
        "it looks for each field that every line has",
        [name for name in fields[:4] if f"line.{name}" not in vector["transforms"]["checked"]["source"]],
    )
    if shutil.which("vector"):
        code, said = run("vector", "test", "deploy/vector.yaml")
        checks.check("Vector passes its tests", code == 0, said)


def check_workflows(checks):
    workflows = sorted(pathlib.Path(".github/workflows").glob("*.yml"))
    code, said = run("actionlint", "-no-color", *map(str, workflows))
    checks.check("actionlint finds nothing in the workflows", code == 0, said)
    wrong = {key: [] for key in "pins permissions concurrency time".split()}
    for path in workflows:
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        for line in path.read_text(encoding="utf-8").splitlines():
            uses = re.search(r"uses: (.*)", line)
            if uses and not re.fullmatch(r"\./\S+|[\w./-]+@[0-9a-f]{40} # v[\d.]+", uses[1]):
                wrong["pins"].append(f"{path.name}: {uses[1]}")
        if workflow.get("permissions") != {"contents": "read"}:
            wrong["permissions"].append(path.name)
        if "concurrency" not in workflow:
            wrong["concurrency"].append(path.name)
        for name, job in workflow["jobs"].items():
            # A job that is a workflow has those of that.
            if "uses" not in job and "timeout-minutes" not in job:
                wrong["time"].append(f"{path.name}: {name}")
    checks.none("every action is pinned to a commit, with its version beside it", wrong["pins"])
    checks.none("workflows may read, and only jobs that need it may do more", wrong["permissions"])
    checks.none("every workflow says what it must not run beside", wrong["concurrency"])
    checks.none("every job has a limit of time", wrong["time"])


# A release for deploy.yml, as its history in the file HISTORY. HELM_FAILS says when what fails: an upgrade `early`, before there is
# a revision, or `late`; or everything, because the cluster is `away`.
HELM = """#!/usr/bin/env python3
import json, os, pathlib, sys
command, name = sys.argv[1:3]
file = pathlib.Path(os.environ["HISTORY"])
history = json.loads(file.read_text())
fails = os.environ.get("HELM_FAILS")
def revision(status):
    history.append({"revision": len(history) + 1, "status": status})
    file.write_text(json.dumps(history))
def deployed():
    for entry in history:
        entry["status"] = entry["status"].replace("deployed", "superseded")
    revision("deployed")
if fails == "away":
    sys.exit("Error: Kubernetes cluster unreachable")
elif command == "list":
    print("taskflow" if history else "")
elif command == "history":
    print(json.dumps(history) if history else sys.exit("Error: release: not found"))
elif command == "upgrade" and fails:
    if fails == "late":
        revision("failed")
    sys.exit("Error: UPGRADE FAILED")
elif command == "upgrade":
    deployed()
elif command == "rollback":
    to = sys.argv[3] if sys.argv[3].isdigit() else history[-2]["revision"]
    deployed()
    print(f"to {to}")
"""


def deploy(folder, history, **fails):
    """Runs the steps of deploy.yml around a release with this history: what the last one said."""
    folder = pathlib.Path(folder, "deploy")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "helm").write_text(HELM)
    (folder / "helm").chmod(0o755)
    (folder / "history").write_text(json.dumps([{"revision": at, "status": status} for at, status in enumerate(history, 1)]))
    steps = yaml.safe_load(text(".github/workflows/deploy.yml"))["jobs"]["deploy"]["steps"]
    outputs = folder / "outputs"
    names = {"HISTORY": folder / "history", "GITHUB_OUTPUT": outputs, "RUNNER_TEMP": folder, "GITHUB_REPOSITORY_OWNER": "o"}
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", **{key: str(path) for key, path in names.items()}, **fails}
    outputs.touch()
    said = ""
    for step in steps:
        if "helm" not in step.get("run", ""):
            continue
        found = dict(line.split("=", 1) for line in outputs.read_text().splitlines())
        given = {key: found.get(value.split(".")[-1].split()[0], "") for key, value in step.get("env", {}).items()}
        code, said = run("bash", "-e", "-c", step["run"], env=environment | given)
        if code != 0 and step.get("id") == "before":
            break
    return said.strip()


def check_deploy(checks, folder):
    ran, failed_before = ["superseded", "deployed"], ["deployed", "failed"]
    stays = "::notice::The upgrade failed before it changed anything: revision {} still runs."
    for sentence, history, fails, expected in [
        ("an upgrade that failed early takes nothing back", ran, "early", stays.format(2)),
        ("one that failed late is taken back to what ran", ran, "late", "to 2"),
        ("and so is one whose smoke test failed", ran, "", "to 2"),
        ("what failed before is passed over", failed_before, "late", "to 1"),
        ("and stays where it is", failed_before, "early", stays.format(1)),
        ("a cluster that does not answer is left alone", ran, "away", "Error: Kubernetes cluster unreachable"),
    ]:
        said = deploy(folder, history, HELM_FAILS=fails)
        checks.check(f"deploy: {sentence}", said == expected, said)
    nothing = "::notice::No version ran here before, so there is none to go back to: mend what failed, and deploy again."
    said = [deploy(folder, history, HELM_FAILS=fails) for history in ([], ["failed"]) for fails in ("early", "late", "")]
    checks.none("deploy: from a first version there is no way back", [text for text in said if text != nothing])


def check(checks, folder):
    known = settings()
    check_dockerfile(checks, known)
    nodes = check_compose(checks, known, folder)
    check_proxies(checks, nodes)
    check_logs(checks)
    check_workflows(checks)
    check_deploy(checks, folder)
