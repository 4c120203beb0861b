"""What is made from something else: the chart's table of values, the settings that its schema knows and the values that it asks
for, and its copies of dashboards and rules.

    generate.py          say which of them are not as they should be; exit 1 if any
    generate.py --write  make them so
"""

import json
import math
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm/taskflow"
PRICES = ROOT / "grafana/rules/prices.yml"
BEGIN, END = "<!-- values: begin. Generated from values.yaml: scripts/chart-check --write -->\n", "<!-- values: end -->"


def settings():
    """The keys in docs/operations.md."""
    page = (ROOT / "docs/operations.md").read_text()
    table = page.split("<!-- settings: begin", 1)[1].split("<!-- settings: end", 1)[0]
    return re.findall(r"^\| `(\w+)` \|", table, re.M)


TEXTS = {"type": "array", "items": {"type": "string", "minLength": 1}}
# What the types of settings are in values.
TYPES = {
    "bool": {"type": "boolean"},
    "SocketAddr": {"$ref": "#/definitions/address"},
    **dict.fromkeys(["Address", "Name", "PathBuf", "Secret"], {"type": "string"}),
    **dict.fromkeys(["Names", "Networks", "Origins", "Roles"], TEXTS),
    "IssuerList": {"type": "array", "items": {"type": "object"}},
    **dict.fromkeys(["u8", "u32", "u64", "usize"], {"type": "integer", "minimum": 0}),
    # `--set` makes a string of a number that is not whole.
    "f64": {"type": ["number", "string"], "pattern": r"^[0-9]+(\.[0-9]+)?(e-?[0-9]+)?$"},
}


def config():
    """The settings by their types in src/config.rs, and by the bounds that are numbers there."""
    code = (ROOT / "src/config.rs").read_text()
    words = {
        name: {"enum": re.findall(r'= "([^"]+)"', body)}
        for name, body in re.findall(r"^words! \{.*?^    (\w+) \{(.*?)^    \}", code, re.M | re.S)
    }
    table = code.split("\nsettings! {", 1)[1].split("\n}", 1)[0]
    found = {key: (TYPES | words)[kind].copy() for key, kind in re.findall(r"^    (\w+): (\w+) =", table, re.M)}
    count, ranges = re.search(r"let ranges: .*?; (\d+)\] = \[(.*?)\];", code, re.S).groups()
    bounds = re.findall(r'\(\s*"(\w+)",\s*[^,]+,\s*([^,]+),\s*([^,]+?),?\s*\),', ranges)
    assert len(bounds) == int(count), "the ranges in src/config.rs are not as they were"
    for key, *pair in bounds:
        for bound, text in zip(("minimum", "maximum"), pair):
            factors = text.replace("_", "").split(" * ")
            if all(factor.isdigit() for factor in factors):
                found[key][bound] = math.prod(map(int, factors))
    return found


def require(values, part, definitions):
    """Has the schema refuse that what templates need is taken away (null): sections, and single values that are not empty by
    themselves."""
    required = []
    for key, value in values.items():
        inner = part["properties"][key]
        is_section = bool(value) and "properties" in definitions.get(inner.get("$ref", "").rpartition("/")[2], inner)
        if is_section or not isinstance(value, dict | list) and value not in (None, ""):
            required.append(key)
        if is_section and "$ref" not in inner:
            require(value, inner, definitions)
    if required:
        part["required"] = required


def schema():
    """values.schema.json, with every setting under `config`, and with what may not be taken away."""
    document = json.loads((CHART / "values.schema.json").read_text())
    document["properties"]["config"]["properties"] = config()
    require(yaml.safe_load((CHART / "values.yaml").read_text()), document, document["definitions"])
    return json.dumps(document, indent=2) + "\n"


def rows(lines):
    """Of values.yaml: (path, comment, default) of each value that has a comment; the default of a section is `None`."""
    found, path, comment = [], [], []
    for line in lines:
        text = line.strip()
        if text.startswith("# "):
            comment.append(text[2:])
        elif match := re.match(r"^( *)([\w.-]+):", line):
            depth = len(match[1]) // 2
            path[depth:] = [match[2]]
            if comment:
                found.append((".".join(path), " ".join(comment)))
            comment = []
        else:
            comment = []
    values = yaml.safe_load("".join(lines))

    def default(path):
        value = values
        for key in path.split("."):
            value = value[key]
        return value

    sections = {path for path, _ in found if any(other.startswith(path + ".") for other, _ in found)}
    return [(path, text, None if path in sections else json.dumps(default(path))) for path, text in found]


def uncommented(lines):
    """Paths of values without a comment of their own, or of what they are part of."""
    commented = {path: default for path, _, default in rows(lines)}

    def walk(value, path):
        if path and path not in commented:
            return [path]
        if path and commented[path] is not None or not isinstance(value, dict):
            return []
        return [bad for key, inner in value.items() for bad in walk(inner, f"{path}.{key}" if path else key)]

    return walk(yaml.safe_load("".join(lines)), "")


def readme():
    lines = (CHART / "values.yaml").read_text().splitlines(keepends=True)
    # The comment at the top is about the file.
    table = "| value | default | |\n| --- | --- | --- |\n"
    for path, text, default in rows(lines[lines.index("\n") + 1 :]):
        shown = "" if default is None else f"`{default}`"
        table += f"| `{path}` | {shown} | {text} |\n".replace("|  |", "| |")
    page = (CHART / "README.md").read_text()
    before, rest = page.split(BEGIN, 1)
    return before + BEGIN + table + END + rest.split(END, 1)[1]


def copies():
    """Dashboards and rules: where each comes from, by where it goes. The prices are among the values."""
    wanted = {}
    for path in sorted((ROOT / "grafana/dashboards").glob("*.json")):
        wanted[CHART / "files/dashboards" / path.name] = path.read_text()
    for path in sorted(set((ROOT / "grafana/rules").glob("*.yml")) - {PRICES}):
        wanted[CHART / "files/rules" / path.name] = path.read_text()
    return wanted


def main(is_to_write):
    wanted = {CHART / "README.md": readme(), CHART / "values.schema.json": schema()} | copies()
    extra = {path for path in (CHART / "files").rglob("*") if path.is_file()} - set(wanted)
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    if is_to_write:
        for path in stale:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path])
        for path in extra:
            path.unlink()
        return []
    return [str(path.relative_to(ROOT)) for path in [*stale, *sorted(extra)]]


if __name__ == "__main__":
    if wrong := main("--write" in sys.argv):
        sys.exit(f"not as made from their sources: {', '.join(wrong)}; scripts/chart-check --write")
