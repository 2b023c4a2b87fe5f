"""What only an interpreter that has imported nothing can tell."""

import subprocess
import sys


def run_fresh(code):
    """What `code` prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120).stdout


def modules_after(code):
    """The names of all modules that are loaded once `code` has run."""
    printed = run_fresh(f"{code}\nimport sys\nprint('loaded:', *sys.modules)")
    return set(printed.rpartition("loaded:")[2].split())
