"""harness.py - what the tests with Python and JavaScript clients share: environments, a running nginx, cases, references.

    harness.environment("venv")              # first of all: runs the test again with the Python of .cache/venv
    with harness.Server(HTTP_CONF) as s:     # the inside of http {}; {port}, {dir} and {root} are filled in
        harness.run(globals(), s)            # each function test_*(s) is one TAP line, named by its docstring
    tap.done_testing()

A server is ended by its pid; that it ended by itself and that its error log is clean are TAP lines too. LLM_TEST_SAN=1
takes the sanitizer build, as in LLM::Nginx. LLM_TEST_KEEP=1 keeps its folder.
"""
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "t"))
import tap  # noqa: E402

CACHE = os.environ.get("LLM_CACHE") or os.path.join(ROOT, ".cache")
NGINX = os.environ.get("LLM_TEST_NGINX") or "/usr/sbin/nginx"
SAN = bool(os.environ.get("LLM_TEST_SAN"))
LONG = bool(os.environ.get("LLM_TEST_LONG"))
TOLERANCE = 2e-3    # of log-probabilities: float16 or float32 weights in float32 arithmetic, added up in another order
START_WAIT, STOP_WAIT = 60, 30    # seconds

BAD = re.compile(r"\[(?:alert|crit|emerg)\]|ERROR: \w+Sanitizer|: runtime error: |exited on signal|core dumped")


def environment(name):
    """Goes on in the Python environment CACHE/name, or skips the test where ./test has not made it."""
    prefix = os.path.join(CACHE, name)
    python = os.path.join(prefix, "bin", "python3")
    if not os.path.exists(python):
        tap.skip_all(f"{prefix} is missing: ./test makes it")
    if os.path.realpath(sys.prefix) != os.path.realpath(prefix):
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        os.execv(python, [python, *sys.argv])
    for quiet in "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS", "DO_NOT_TRACK":
        os.environ[quiet] = "1"
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        os.environ.pop(proxy, None)


def free_port():
    """A port that no other test uses, with the UDP socket that holds it (the rule of LLM::Nginx)."""
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind(("127.0.0.1", port))
            with socket.socket() as tcp:
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tcp.bind(("127.0.0.1", port))
            return port, udp
        except OSError:
            udp.close()


class Server:
    """nginx with our module, for the time of a with statement."""

    def __init__(self, http, files=None):
        self.build = os.path.join(ROOT, "build-san" if SAN else "build")
        module = os.path.join(self.build, "ngx_http_llm_module.so")
        if not os.path.exists(module) or not os.path.exists(NGINX):
            tap.skip_all(f"{module} or {NGINX} is missing")
        self.dir = tempfile.mkdtemp(prefix="llm-client-")
        self.port, self.lock = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        os.mkdir(os.path.join(self.dir, "temp"))
        for name, text in (files or {}).items():
            self.write(name, text)
        for key, value in ("{port}", str(self.port)), ("{dir}", self.dir), ("{root}", ROOT):
            http = http.replace(key, value)
        temp = "".join(f"{kind}_temp_path {self.dir}/temp/{kind}; " for kind in
                       ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        self.write("nginx.conf", f"""{'user root;' if os.geteuid() == 0 else ''}
daemon off;
pid {self.dir}/nginx.pid;
error_log {self.dir}/error.log info;
load_module {module};
events {{ worker_connections 1024; }}
http {{
    access_log off;
    {temp}
    {http}
}}
""")

    def write(self, name, text):
        with open(os.path.join(self.dir, name), "w", encoding="utf-8") as f:
            f.write(text)

    def read(self, name):
        try:
            with open(os.path.join(self.dir, name), encoding="utf-8", errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def __enter__(self):
        env = dict(os.environ)
        if SAN:
            env["LD_PRELOAD"] = subprocess.check_output(["gcc", "-print-file-name=libasan.so"], text=True).strip()
            env["ASAN_OPTIONS"] = "detect_odr_violation=0:halt_on_error=1:exitcode=99:detect_leaks=0"
        with open(os.path.join(self.dir, "stderr.log"), "wb") as err:
            self.process = subprocess.Popen(
                [NGINX, "-p", self.dir, "-c", f"{self.dir}/nginx.conf", "-e", f"{self.dir}/error.log"],
                stdin=subprocess.DEVNULL, stdout=err, stderr=err, env=env)
        end = time.monotonic() + START_WAIT
        while True:
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError("nginx did not start:\n" + self.read("stderr.log") + self.read("error.log"))
            time.sleep(0.03)

    def kill(self):
        """Ends the master and what is left of its workers."""
        workers = []
        if self.process.poll() is None:
            with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as f:
                workers = [int(pid) for pid in f.read().split()]
            self.process.kill()
            self.process.wait()
        for pid in workers:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def __exit__(self, kind, value, trace):
        self.process.send_signal(signal.SIGQUIT)
        try:
            status = self.process.wait(STOP_WAIT)
        except subprocess.TimeoutExpired:
            status = "none in time"
            self.kill()
        self.lock.close()
        bad = [line for line in (self.read("stderr.log") + self.read("error.log")).splitlines() if BAD.search(line)]
        tap.is_(status, 0, "nginx ended by itself")
        tap.is_(bad, [], "error log is clean")
        if os.environ.get("LLM_TEST_KEEP"):
            tap.diag("kept: " + self.dir)
        else:
            shutil.rmtree(self.dir)

    def node(self, script, *args):
        """Runs a script of t/client with our packages; its lines "ok - name" and "not ok - name" become TAP lines."""
        modules = os.path.join(CACHE, "node", "node_modules")
        if not os.path.isdir(modules) or not shutil.which("node"):
            tap.skip_all(f"node or {modules} is missing: ./test makes it")
        p = subprocess.Popen(["node", os.path.join(ROOT, "t", "client", script), self.url, *args], text=True, cwd=ROOT,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                             env={**os.environ, "NODE_PATH": modules})
        cases = 0
        for line in p.stdout:
            found = re.match(r"(not )?ok - (.*)", line)
            cases += bool(found)
            tap.ok(not found[1], found[2]) if found else tap.diag(line.rstrip())
        tap.ok(p.wait() == 0 and cases > 0, f"{script} ran {cases} cases to its end")


def run(module, *args):
    """Calls all functions test_* of a module (its globals()) in their order; an exception is a failure."""
    for name, test in list(module.items()):
        if not name.startswith("test_"):
            continue
        try:
            test(*args)
            tap.ok(True, test.__doc__)
        except Exception:    # whatever a client raises
            tap.ok(False, test.__doc__)
            tap.diag(traceback.format_exc()[-4000:])


def case(name, test, *args):
    """A test for run() from a table: the function with further arguments, and a name."""
    def one(s):
        test(s, *args)
    one.__doc__ = name
    return one


def raises(kind, call):
    """The exception of this kind that the call raises."""
    try:
        got = call()
    except kind as e:
        return e
    raise AssertionError(f"no {kind.__name__}, but {got!r}")


def equal(got, want, what=""):
    assert got == want, f"{what}\n  got  {got!r}\n  want {want!r}"


def near(got, want, what="", tolerance=TOLERANCE):
    """Two lists of numbers; None only equals None."""
    got, want = list(got), list(want)
    equal(len(got), len(want), f"{what}: length")
    for i, (g, w) in enumerate(zip(got, want)):
        if g is None or w is None:
            assert g is w, f"{what}[{i}]: got {g}, want {w}"
        else:
            assert abs(g - w) <= tolerance, f"{what}[{i}]: got {g}, want {w}"


def reference(model):
    """Cases of a checkpoint of t/fixtures/models: prompt, input_ids, prompt_logprobs, greedy (SOURCE.md)."""
    with open(os.path.join(ROOT, "t/fixtures/models", model, "expected.json"), encoding="utf-8") as f:
        return json.load(f)["cases"]
