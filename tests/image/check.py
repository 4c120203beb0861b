"""What scripts/image-check runs: the checks of files, and with `run` those of the running image."""

import sys
import tempfile

import files


class Checks:
    """Says what holds; what does not ends the run."""

    def __init__(self):
        self.passed = 0

    def check(self, sentence, holds, found=""):
        if not holds:
            sys.exit(f"image-check: not so: {sentence}\n{found}".rstrip())
        self.passed += 1
        print(f"  {sentence}", flush=True)

    def none(self, sentence, wrong):
        """Holds if nothing is wrong."""
        self.check(sentence, not wrong, "\n".join(map(str, wrong)))


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="taskflow-image.") as folder:
        files.check(checks, folder)
        if sys.argv[1:] == ["run"]:
            # Only here: it looks for podman.
            import container

            container.check(checks, folder)
    print(f"image-check: {checks.passed} checks passed")


main()
