"""As much of PromQL as the checks need: which metrics and labels an expression names, and how to ask for its parts."""

import re
from dataclasses import dataclass, field

WORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "group_left", "group_right", "inf", "nan"}
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)?\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
CLAUSE = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
RANGE = re.compile(r"\[[^\]]*\]")
NAME = re.compile(r"(?<![\w:.$])([a-zA-Z_:][\w:]*)\s*(\(?)")


@dataclass
class Named:
    """What an expression names."""

    # (metric, its matchers): each matcher (label, operator, value).
    selectors: list = field(default_factory=list)
    # Labels in `by`, `on` and the like.
    labels: set = field(default_factory=set)
    # Labels that are left after the outermost `by`; `None` if there is none.
    kept: set | None = None

    @property
    def metrics(self):
        return {metric for metric, _ in self.selectors}


def named(expression):
    found = Named()

    def selector(match):
        found.selectors.append((match[1], MATCHER.findall(match[2])))
        return " "

    def clause(match):
        labels = {label.strip() for label in match[2].split(",") if label.strip()}
        found.labels |= labels
        if match[1] == "by" and found.kept is None:
            found.kept = labels
        return " "

    # Selectors first: a value may have brackets in it, and Grafana's variables.
    rest = SELECTOR.sub(selector, expression)
    rest = CLAUSE.sub(clause, RANGE.sub(" ", rest))
    for name, bracket in NAME.findall(rest):
        if not bracket and name.lower() not in WORDS:
            found.selectors.append((name, []))
    if found.kept is None and re.match(r"\s*(sum|min|max|avg|count)\b", expression):
        found.kept = set()
    return found


def as_answers(expression):
    """An alert with its conditions as figures, so that it answers while all is well: comparisons give 0 or 1, and what must not be
    there must be. What is still empty names something that does not exist, or joins what has nothing in common."""
    outside = re.split(r'(\{[^}]*\}|"[^"]*")', expression)
    for index in range(0, len(outside), 2):
        text = re.sub(r"(==|!=|>=|<=|>|<)(?!\s*bool)", r"\1 bool", outside[index])
        outside[index] = re.sub(r"\bunless\b", "and", text)
    return "".join(outside)
