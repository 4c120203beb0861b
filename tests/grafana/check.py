"""What scripts/grafana-check runs: the checks of files, and with `live` those of a Prometheus that scrapes real servers."""

import sys


class Checks:
    """Says what holds; what does not ends the run."""

    def __init__(self):
        self.passed = 0

    def check(self, sentence, holds, found=""):
        if not holds:
            sys.exit(f"grafana-check: not so: {sentence}\n{found}".rstrip())
        self.passed += 1
        print(f"  {sentence}", flush=True)

    def none(self, sentence, wrong):
        """Holds if nothing is wrong."""
        self.check(sentence, not wrong, "\n".join(map(str, wrong)))


def main():
    checks = Checks()
    if sys.argv[1:2] == ["live"]:
        import live

        live.check(checks, sys.argv[2:])
    else:
        import files

        files.check(checks)
    print(f"grafana-check: {checks.passed} checks passed")


main()
