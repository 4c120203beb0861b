"""Podman, and what its commands say."""

import json
import os
import pathlib
import secrets
import subprocess
import time

# The server takes milliseconds; the rest is the machine's, which may be busy with other tests.
READY_SECONDS_MAX = 15
# What is left of the 40 s that the compose files give goes to the machine, too.
STOP_SECONDS_MAX = 15

# Where podman's defaults ask for what a machine without systemd, or a container, has not.
PLAIN = """
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=16384:16384"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""

class Failed(Exception):
    """A command that had to succeed did not."""


def run(*command, fails=False, **more):
    """What a command says; it has to succeed, unless it may fail: then its exit code comes first."""
    command = [str(part) for part in command]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **more)
    if fails:
        return done.returncode, done.stdout
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)} failed:\n{done.stdout}")
    return done.stdout


class Podman:
    """What is made here is named so that it can be found again, and goes away at the end."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.mark = f"taskflow-check-{secrets.token_hex(4)}"
        self.containers = 0
        self.images = []
        self.environment = dict(os.environ)
        if os.getuid() == 0 and not pathlib.Path("/run/systemd/system").exists():
            path = self.folder / "containers.conf"
            path.write_text(PLAIN)
            self.environment["CONTAINERS_CONF"] = str(path)

    def __call__(self, *command, **more):
        return run("podman", *command, env=self.environment, **more)

    def start(self, image, *options, command=()):
        """A container in the background."""
        self.containers += 1
        name = f"{self.mark}-{self.containers}"
        self("run", "--detach", f"--name={name}", *options, image, *command)
        return name

    def once(self, image, *options, command=()):
        """Exit code and words of a container that ends."""
        return self("run", "--rm", "--no-healthcheck", *options, image, *command, fails=True)

    def is_healthy(self, name):
        return self("healthcheck", "run", name, fails=True)[0] == 0

    def inspect(self, name, what):
        return json.loads(self("inspect", "--format", "{{json %s}}" % what, name))

    def address(self, name):
        """Where its port for clients is published."""
        return "http://" + self("port", name, "8080").split()[-1]

    def logs(self, name):
        return self("logs", name, fails=True)[1]

    def stop(self, name):
        """Seconds that it took, and its exit code."""
        begun = time.monotonic()
        self("stop", "--time=30", name)
        return time.monotonic() - begun, self.inspect(name, ".State.ExitCode")

    def clean(self):
        for number in range(1, self.containers + 1):
            self("rm", "--force", "--volumes", "--time=0", f"{self.mark}-{number}", fails=True)
        self("volume", "rm", "--force", self.mark, fails=True)
        for image in self.images:
            self("rmi", "--force", image, fails=True)


def within(seconds, holds):
    """How long it took until it held; None if it did not."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        if holds():
            return time.monotonic() - begun
        time.sleep(0.05)
    return None
