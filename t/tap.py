"""tap.py - TAP for Python tests: ok(), is_(), diag(), skip_all(), done_testing()."""
import os
import sys

_n = 0
_bad = 0


def ok(passed, name):
    global _n, _bad
    _n += 1
    _bad += not passed
    print(f"{'' if passed else 'not '}ok {_n} - {name}", flush=True)
    return bool(passed)


def is_(got, want, name):
    if not ok(got == want, name):
        diag(f"  got  {got!r}\n  want {want!r}")


def diag(text):
    for line in str(text).splitlines():
        print(line if line.startswith("#") else "# " + line, file=sys.stderr, flush=True)


def skip_all(why):
    """Ends the test; where everything must run (LLM_TEST_STRICT) that is a failure."""
    if os.environ.get("LLM_TEST_STRICT"):
        print(f"Bail out!  {why}", flush=True)
        sys.exit(1)
    print(f"1..0 # SKIP {why}", flush=True)
    sys.exit(0)


def done_testing():
    print(f"1..{_n}", flush=True)
    sys.exit(_bad != 0)
