"""compose.cluster.yaml as it runs: the image, and for the others stand-ins made of this machine's programs.

Their images come from elsewhere, and not every machine can fetch them. A stand-in has the name of such an image and runs what
Debian packages: HAProxy, Redis and Prometheus are those, ScyllaDB is Apache Cassandra, and Grafana only says that it has found
its password and what is provisioned. So this says that the file's services find each other and are healthy as it asks, not
what is in those images.
"""

import io
import json
import os
import pathlib
import shutil
import socket
import tarfile
import time

import yaml
from podman import READY_SECONDS_MAX, Failed, run, within

# What a database takes on a busy machine.
DATABASE_SECONDS_MAX = 180
# Podman's name server is away for a while when containers have come, and scrapes fail meanwhile.
SEEN_SECONDS_MAX = 60
# The machine's programs, in a stand-in.
HOST = "/host/usr"
LINKS = {name: f"host/usr/{name}" for name in ("bin", "sbin", "lib", "lib64")} | {"usr/bin": "../host/usr/bin"}

SCYLLA = f"""#!/bin/bash
export CASSANDRA_ADDRESS=$(hostname -i) CASSANDRA_CACHE=/opt/cassandra CASSANDRA_RUN=/var/lib/scylla CASSANDRA_JAVA={HOST}%s
export CASSANDRA_HEAP=512M
/opt/cassandra-up && exec sleep infinity
"""
CQLSH = """#!/bin/bash
exec 3<>"/dev/tcp/$(hostname -i)/9042"
"""
GRAFANA = """#!/bin/bash
[[ -s $GF_SECURITY_ADMIN_PASSWORD__FILE ]] || { echo "no password"; exit 1; }
ls "$GF_PATHS_PROVISIONING"/*/*.y*ml /grafana/dashboards/*.json || exit 1
mkdir -p /tmp/api && touch /tmp/api/health && cd /tmp && exec python3 -m http.server 3000
"""
# By the service's name: what the image of that name begins with.
ENTRYPOINTS = {
    "scylla": ["/opt/scylla"],
    "redis": [],
    "haproxy": ["haproxy", "-f", "/usr/local/etc/haproxy/haproxy.cfg"],
    "prometheus": ["prometheus", "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"],
    "grafana": ["/opt/grafana"],
}


def stand_in(java):
    """The files of all of them."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in ("host/usr", "etc", "opt/cassandra", "proc", "sys", "dev", "run", "tmp", "usr/local/etc/haproxy", "var/lib"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        for name, target in LINKS.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        scripts = {
            "scylla": SCYLLA % java.removeprefix("/usr"),
            "cqlsh": CQLSH,
            "grafana": GRAFANA,
            "cassandra-up": pathlib.Path("scripts/services/cassandra-up").read_text(encoding="utf-8"),
        }
        for name, script in scripts.items():
            file = tarfile.TarInfo(f"opt/{name}")
            file.mode, file.size = 0o755, len(script.encode())
            archive.addfile(file, io.BytesIO(script.encode()))
    return content.getvalue()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


class Cluster:
    """A copy of the file and of what it names, so that nothing is written where the sources are."""

    def __init__(self, podman, image):
        self.podman = podman
        self.folder = podman.folder / "cluster"
        for name in ("deploy", "grafana"):
            shutil.copytree(name, self.folder / name, ignore=shutil.ignore_patterns("secrets"))
        # What the container's own users are to read.
        podman.folder.chmod(0o755)
        run(self.folder / "deploy/make-secrets")
        self.file = yaml.safe_load(pathlib.Path("compose.cluster.yaml").read_text(encoding="utf-8"))
        self.services = self.file["services"]
        self.ports = {}
        self.name_images(image)
        self.change()
        (self.folder / "compose.yaml").write_text(yaml.safe_dump(self.file), encoding="utf-8")

    def name_images(self, image):
        """Each image has the name that the file gives it."""
        java = os.path.realpath(shutil.which("java"))
        archive = self.podman.folder / "stand-in.tar"
        archive.write_bytes(stand_in(java))
        path = f"ENV PATH=/opt:{HOST}/bin:{HOST}/sbin"
        for service in self.services.values():
            if self.podman("image", "exists", service["image"], fails=True)[0] == 0 and service["image"] not in self.podman.images:
                raise Failed(f"there is a {service['image']} here, which this check would replace: podman rmi it first")
            name = next(name for name, other in self.services.items() if other["image"] == service["image"])
            if service["image"] in self.podman.images:
                continue
            if name in ENTRYPOINTS:
                entrypoint = f"ENTRYPOINT {json.dumps(ENTRYPOINTS[name])}"
                self.podman("import", "--quiet", "--change", path, "--change", entrypoint, archive, service["image"])
            else:
                self.podman("tag", image, service["image"])
            self.podman.images.append(service["image"])

    def change(self):
        """The ports are those that are free, and stand-ins get the machine's programs."""
        for name, service in self.services.items():
            service.pop("build", None)
            if "ports" in service:
                inside = service["ports"][0].rpartition(":")[2]
                self.ports[name] = free_port()
                service["ports"] = [f"127.0.0.1:{self.ports[name]}:{inside}"]
            if name in ENTRYPOINTS:
                service.setdefault("volumes", []).append(f"/usr:{HOST}:ro")
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"), "taskflow-cassandra")
        jars = next(cache.glob("lib-*"))
        self.services["scylla"]["volumes"].append(f"{jars}:/opt/cassandra/{jars.name}:ro")
        self.services["scylla"]["volumes"].extend(f"{path}:{path}:ro" for path in pathlib.Path("/etc").glob("java-*"))

    def compose(self, *command, **more):
        compose = ("podman-compose", "--project-name", self.podman.mark, "--file", self.folder / "compose.yaml")
        return run(*compose, *command, env=self.podman.environment, cwd=self.folder, **more)

    def container(self, service):
        return f"{self.podman.mark}_{service}_1"

    def up(self, *services):
        self.compose("up", "--detach", "--no-build", *services)

    def healthy(self, *services, seconds=READY_SECONDS_MAX):
        """Those that are not, with what they say."""
        end = time.monotonic() + seconds
        late = [name for name in services if within(end - time.monotonic(), lambda: self.podman.is_healthy(self.container(name))) is None]
        return [f"{name}:\n{self.podman.logs(self.container(name))}" for name in late]

    def ask_prometheus(self, path):
        said = self.podman("exec", self.container("prometheus"), "wget", "-q", "-O", "-", f"http://127.0.0.1:9090/api/v1/{path}")
        return json.loads(said)["data"]

    def down(self):
        self.compose("down", "--volumes", fails=True)
        for network in ("inside", "outside"):
            self.podman("network", "rm", "--force", f"{self.podman.mark}_{network}", fails=True)


def check(checks, podman, image):
    """Everything is started in the order that the file asks for, which Debian's podman-compose does not keep by itself."""
    cluster = Cluster(podman, image)
    nodes = ["node-1", "node-2", "node-3"]
    try:
        cluster.up("scylla", "redis")
        wrong = cluster.healthy("redis", "scylla", seconds=DATABASE_SECONDS_MAX)
        checks.none("compose.cluster.yaml: the database and Redis are healthy as it asks", wrong)
        cluster.up("migrate")
        migrated = within(DATABASE_SECONDS_MAX, lambda: podman.inspect(cluster.container("migrate"), ".State.Status") == "exited")
        code = podman.inspect(cluster.container("migrate"), ".State.ExitCode")
        checks.check("the migration ends well", migrated is not None and code == 0, podman.logs(cluster.container("migrate")))
        cluster.up()
        checks.none("three nodes, HAProxy, Prometheus and Grafana are healthy", cluster.healthy(*nodes, "haproxy", "prometheus", "grafana"))
        address = f"http://127.0.0.1:{cluster.ports['haproxy']}"
        code, said = run("scripts/smoke", address, fails=True)
        checks.check("the smoke test passes through HAProxy", code == 0, said)

        def seen():
            targets = cluster.ask_prometheus("targets")["activeTargets"]
            return sorted(target["labels"]["instance"] for target in targets if target["health"] == "up")

        wanted = sorted(["127.0.0.1:9090", *(f"{node}:9464" for node in nodes)])
        sees_all = within(SEEN_SECONDS_MAX, lambda: seen() == wanted) is not None
        checks.check("Prometheus sees all of them", sees_all, cluster.ask_prometheus("targets"))
        groups = cluster.ask_prometheus("rules")["groups"]
        checks.check("and has the rules", sum(len(group["rules"]) for group in groups) > 30, groups)
        members = cluster.ask_prometheus("query?query=min(taskflow_cluster_members)")["result"][0]["value"][1]
        checks.check("the nodes know each other", members == "3", members)
        bound = {name: podman.inspect(cluster.container(name), ".NetworkSettings.Ports") or {} for name in cluster.services}
        ways_in = [name for name, ports in bound.items() if any(ports.values())]
        checks.check("nobody gets in but through HAProxy and Grafana", sorted(ways_in) == ["grafana", "haproxy"], ways_in)

        _, code = podman.stop(cluster.container("node-2"))
        checks.check("a node that is stopped ends well", code == 0, podman.logs(cluster.container("node-2")))
        code, said = run("scripts/smoke", address, fails=True)
        checks.check("the smoke test passes with the two others", code == 0, said)
        stopped = [(node, podman.stop(cluster.container(node))) for node in ("node-1", "node-3")]
        checks.none("so do they", [f"{node}: {code}" for node, (_, code) in stopped if code != 0])
    finally:
        cluster.down()
