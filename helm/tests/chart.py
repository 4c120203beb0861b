"""Rendering the chart, and finding one's way in what comes out."""

import copy
import os
import subprocess
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm/taskflow"
VALUES = Path(__file__).resolve().parent / "values"
EXAMPLES = sorted(path.stem for path in VALUES.glob("*.yaml"))
HELM = os.environ.get("HELM", "helm")
RELEASE = "work"


def merged(base, over):
    """Values as Helm merges them: nothing over something takes it away."""
    base = copy.deepcopy(base)
    for key, value in over.items():
        if value is None and key in base:
            del base[key]
            continue
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        base[key] = merged(base[key], value) if both else value
    return base


def values(example, over=None):
    return merged(yaml.safe_load((VALUES / f"{example}.yaml").read_text()), over or {})


def helm_template(values, release=RELEASE, chart=CHART, flags=()):
    command = [HELM, "template", release, str(chart), "--namespace", "tasks", "--values", "-", *flags]
    return subprocess.run(command, input=yaml.safe_dump(values), capture_output=True, text=True)


def render(values, **more):
    done = helm_template(values, **more)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@cache
def _rendered(example):
    return render(values(example))


def rendered(example):
    return copy.deepcopy(_rendered(example))


def refusal(values):
    """What `helm template` says of values that it does not render, a line a fault."""
    done = helm_template(values)
    assert done.returncode != 0, "it was rendered"
    assert not done.stdout
    return done.stderr


def of_kind(documents, kind):
    return [document for document in documents if document["kind"] == kind]


def one(documents, kind, name):
    [found] = [document for document in of_kind(documents, kind) if document["metadata"]["name"] == name]
    return found


def workloads(documents):
    return [document for document in documents if document["kind"] in ("Deployment", "StatefulSet")]


def pods(documents):
    """The pods that a release has, by the name of what makes them, as (labels, spec)."""
    found = {}
    for document in documents:
        name = f"{document['kind']} {document['metadata']['name']}"
        if document["kind"] in ("Deployment", "StatefulSet", "Job"):
            template = document["spec"]["template"]
            found[name] = (template["metadata"]["labels"], template["spec"])
        elif document["kind"] == "Pod":
            found[name] = (document["metadata"]["labels"], document["spec"])
    return found


def selects(selector, labels):
    return bool(selector) and selector.items() <= labels.items()
