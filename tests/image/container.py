"""The image as it runs: the Dockerfile's last stage around the binary in target/dist, by podman."""

import json
import pathlib
import re
import secrets
import socket
import sys
import time
import urllib.error
import urllib.request

import cluster
from podman import READY_SECONDS_MAX, STOP_SECONDS_MAX, Failed, Podman, run, within

MEGABYTE = 1_000_000
IMAGE_BYTES_MAX = 40 * MEGABYTE

# What the server runs with, in this check: nothing that it does not need.
HARDENED = [
    "--read-only",
    "--read-only-tmpfs=false",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--memory=128m",
]


def build(podman):
    """The last stage, with what the one before it makes, from the binary that is here."""
    last = podman.folder / "Dockerfile"
    last.write_text("FROM " + pathlib.Path("Dockerfile").read_text(encoding="utf-8").rpartition("\nFROM ")[2])
    made = podman.folder / "build"
    (made / "data").mkdir(parents=True)
    run("deploy/image-root", "target/dist/taskflow", made / "image")
    image = f"localhost/{podman.mark}"
    podman(
        *("build", "--pull=never", "--no-cache", "--network=none", "--format=docker", f"--build-context=build={made}", f"--tag={image}"),
        *("--build-arg=VERSION=1.2.3", "--build-arg=REVISION=abc", "--file", last, podman.folder),
    )
    podman.images.append(image)
    return image


def ask(address, method, path, body=None, token=None):
    request = urllib.request.Request(address + path, None if body is None else json.dumps(body).encode(), method=method)
    request.add_header("Content-Type", "application/json")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise Failed(f"{method} {path} answered {error.code}: {error.read().decode()}") from error


def has_milk(podman, name, task, token):
    """Whether it becomes healthy, and the task is there."""
    if within(READY_SECONDS_MAX, lambda: podman.is_healthy(name)) is None:
        return False
    try:
        return ask(podman.address(name), "GET", f"/api/v1/tasks/{task}", token=token)["title"] == "Buy milk"
    except Failed:
        return False


def check_image(checks, podman, image):
    size = podman.inspect(image, ".Size")
    checks.check(f"it is under {IMAGE_BYTES_MAX // MEGABYTE} MB: {size / MEGABYTE:.1f} MB", size < IMAGE_BYTES_MAX)
    config = podman.inspect(image, ".Config")
    checks.check("its user is 65532", config.get("User") == "65532:65532", config)
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    wanted = {"title": "TaskFlow", "version": "1.2.3", "revision": "abc", "licenses": "Apache-2.0"}
    checks.check("its labels say what it is", wanted.items() <= labels.items() and "source" in labels, labels)
    health = podman.inspect(image, ".HealthCheck") or {}
    asked = health.get("Test") == ["CMD", "/usr/local/bin/taskflow", "health"]
    checks.check("its health is asked for by the binary", asked, health)
    code, said = podman.once(image, "--entrypoint=/bin/sh", command=["-c", "true"])
    checks.check("there is no shell in it", code != 0 and "no such file" in said, said)


def check_hardened(checks, podman, image):
    volume = f"--volume={podman.mark}:/data"
    begun = time.monotonic()
    name = podman.start(image, *HARDENED, volume, "--publish=127.0.0.1::8080")
    ready = within(READY_SECONDS_MAX, lambda: podman.is_healthy(name))
    seconds = time.monotonic() - begun
    checks.check(f"read-only, without rights, in 128 MB, it is healthy: {seconds:.1f} s with podman's own", ready, podman.logs(name))

    status = pathlib.Path(f"/proc/{podman.inspect(name, '.State.Pid')}/status").read_text()
    status = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    has_rights = any(int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"))
    checks.check("its process has no capabilities, and gets none", not has_rights and status["NoNewPrivs"] == "1", status)
    if os.getuid() == 0:
        # Where podman is a user's own, users have other numbers outside.
        checks.check("its process is 65532's", set(status["Uid"].split()) == {"65532"}, status["Uid"])

    ports = podman("port", name).split()
    checks.check("only the port for clients is published", len(ports) == 3 and ports[0] == "8080/tcp", ports)
    networks = podman.inspect(name, ".NetworkSettings")
    inside = networks["IPAddress"] or next(iter(networks["Networks"].values()))["IPAddress"]
    code, said = podman.once(image, command=["health", f"--operator-listen={inside}:9464"])
    checks.check("other containers reach the operator's port", (code, said) == (0, "the server is ready\n"), said)

    address = podman.address(name)
    code, said = run("scripts/smoke", address, fails=True)
    checks.check("the smoke test passes", code == 0, said)
    who = {"email": "ann@example.net", "password": "correct horse battery"}
    ask(address, "POST", "/api/v1/auth/register", who)
    token = ask(address, "POST", "/api/v1/auth/login", who)["access_token"]
    task = ask(address, "POST", "/api/v1/tasks", {"title": "Buy milk"}, token)["id"]
    seconds, code = podman.stop(name)
    is_soon = seconds < STOP_SECONDS_MAX
    checks.check(f"SIGTERM ends it with 0: {seconds:.1f} s", code == 0 and is_soon, f"{code}, {seconds} s\n{podman.logs(name)}")
    code, said = run("scripts/smoke", address, fails=True)
    checks.check("the smoke test fails where no server is", code == 1 and said.startswith("smoke: ") and said.count("\n") == 1, said)

    podman("start", name)
    is_there = has_milk(podman, name, task, token)
    checks.check("what was made is there after a stop and a start", is_there, podman.logs(name))
    podman("rm", "--force", "--time=30", name)
    name = podman.start(image, *HARDENED, volume, "--publish=127.0.0.1::8080")
    is_there = has_milk(podman, name, task, token)
    checks.check("and in another container on the same volume", is_there, podman.logs(name))


def check_health(checks, podman, image):
    code, said = podman.once(image, command=["health"])
    checks.check("the command health fails without a server", code == 1 and "no answer" in said, said)
    # Less than what the store keeps back.
    small = ["--tmpfs=/small:size=6m,mode=1777", "--env=TASKFLOW_DATA_DIR=/small"]
    name = podman.start(image, *HARDENED, *small)
    is_serving = within(READY_SECONDS_MAX, lambda: '"message":"serving"' in podman.logs(name))
    code, said = podman("exec", name, "/usr/local/bin/taskflow", "health", fails=True)
    checks.check(
        f"and fails, with the reason, where the disk is full: {said.strip()}",
        is_serving and code == 1 and "the server is not ready: " in said and not podman.is_healthy(name),
        podman.logs(name),
    )


def check_defaults(checks, podman, image):
    name = podman.start(image, "--publish=127.0.0.1::8080")
    is_healthy = within(READY_SECONDS_MAX, lambda: podman.is_healthy(name))
    code, said = run("scripts/smoke", podman.address(name), fails=True)
    checks.check("it works with nothing but a port published", is_healthy and code == 0, said + podman.logs(name))
    mounts = [mount["Destination"] for mount in podman.inspect(name, ".Mounts")]
    checks.check("and keeps its data in a volume", mounts == ["/data"], mounts)


def check_compose(checks, podman, image):
    """compose.yaml as it is, with this image under the name that it has there."""
    name = re.search(r"image: (\S+)", pathlib.Path("compose.yaml").read_text(encoding="utf-8"))[1]
    if podman("image", "exists", name, fails=True)[0] == 0:
        raise Failed(f"there is a {name} here, which this check would replace: podman rmi it first")
    podman("tag", image, name)
    podman.images.append(name)
    with socket.create_server(("127.0.0.1", 0)) as free:
        environment = podman.environment | {"TASKFLOW_PORT": str(free.getsockname()[1])}
    compose = ["podman-compose", "--project-name", podman.mark, "--file", "compose.yaml"]
    container = f"{podman.mark}_taskflow_1"
    try:
        run(*compose, "up", "--detach", "--no-build", env=environment)
        is_healthy = within(READY_SECONDS_MAX, lambda: podman.is_healthy(container))
        code, said = run("scripts/smoke", podman.address(container), fails=True)
        checks.check("compose.yaml starts it, and the smoke test passes", is_healthy and code == 0, said + podman.logs(container))
    finally:
        run(*compose, "down", "--volumes", fails=True, env=environment)
        # Debian's podman-compose leaves it.
        podman("network", "rm", f"{podman.mark}_default", fails=True)


def check_proxies(checks, folder):
    """The examples, read by those for whom they are."""
    code, said = run("haproxy", "-c", "-f", "deploy/haproxy.cfg", fails=True)
    checks.check("HAProxy takes its example", code == 0, said)
    code, said = run("caddy", "validate", "--config", "deploy/Caddyfile", "--adapter", "caddyfile", fails=True)
    checks.check("Caddy takes its example", code == 0, said)
    # nginx wants the names and certificates to be there.
    example = pathlib.Path("deploy/nginx.conf").read_text(encoding="utf-8")
    example = re.sub(r"\bnode-\d:", "127.0.0.1:", example).replace("/etc/nginx/tls/", f"{folder}/")
    path = pathlib.Path(folder, "nginx.conf")
    path.write_text(f"pid {folder}/nginx.pid;\n{example}")
    key, certificate = f"{folder}/tls.key", f"{folder}/tls.crt"
    run("openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=tasks.example", "-keyout", key, "-out", certificate)
    code, said = run("nginx", "-t", "-c", path, fails=True)
    checks.check("nginx takes its example", code == 0, said)


def check(checks, folder):
    podman = Podman(folder)
    try:
        check_proxies(checks, folder)
        image = build(podman)
        check_image(checks, podman, image)
        check_hardened(checks, podman, image)
        check_health(checks, podman, image)
        check_defaults(checks, podman, image)
        check_compose(checks, podman, image)
        cluster.check(checks, podman, image)
    except Failed as failed:
        sys.exit(f"image-check: {failed}")
    finally:
        podman.clean()
