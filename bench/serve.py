#!/usr/bin/env python3
"""Serves the same requests from our nginx and from another server, in turn, and prints both with the ratio of the medians.

The other server is llama.cpp's (llama_cpp.server of llama-cpp-python), started here, or any one with OpenAI's API
(--base-url).  All requests are streams of /v1/completions or /v1/chat/completions with greedy choice.

  load      N streams at once, each a prompt of its own: tokens a second of all, time to first token, between tokens
  shared    streams whose prompts begin with the same 1000 tokens, one after the other: time to first token
  chat      a conversation of six turns, each sent with all that was before: time to first token of the last turns
  schema    answers held to a JSON schema, one stream: seconds each (only if named; the other server must know OpenAI's
            json_schema, as a second nginx does)
  start     from the start of the server to its first token; resident memory after the work

Only the standard library is used; nothing is reported when a request of either side failed.
"""
import argparse
import asyncio
import datetime
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse

import chart

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WORDS = ("river stone window morning garden letter winter harbour music paper engine forest market candle bridge summer "
         "mountain teacher village silver button kitchen morning ocean picture station doctor butter ladder orange").split()


def fail(text):
    sys.exit(f"serve.py: {text}")


def prose(seed, n_words):
    """Words in an order that only the seed decides: prompts that share no beginning."""
    out, x = [], seed * 2654435761 + 12345
    for _ in range(n_words):
        x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
        out.append(WORDS[(x >> 33) % len(WORDS)])
    return " ".join(out)


# ---------------------------------------------------------------------------------------------------------- the servers

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def resident(pid):
    """Proportional set size of a process and its children, in bytes: shared pages count once."""
    total = 0
    pids = [pid]
    for p in pids:
        try:
            with open(f"/proc/{p}/smaps_rollup", encoding="ascii") as f:
                total += sum(int(line.split()[1]) * 1024 for line in f if line.startswith("Pss:"))
            with open(f"/proc/{p}/task/{p}/children", encoding="ascii") as f:
                pids += [int(c) for c in f.read().split()]
        except OSError:
            pass
    return total


class Server:
    """A process that serves `url`, or somebody else's server where there is no command."""

    def __init__(self, name, url, command=None, model="model"):
        self.name, self.url, self.model = name, urllib.parse.urlsplit(url), model
        self.command, self.process, self.dir = command, None, None
        self.log = tempfile.NamedTemporaryFile(prefix="llm-bench-", suffix=".log")

    def start(self):
        """Starts the process; returns seconds until it had written a token."""
        begin = time.monotonic()
        if self.command:
            self.process = subprocess.Popen(self.command, stdout=self.log, stderr=subprocess.STDOUT)
        while True:
            if self.process and self.process.poll() is not None:
                with open(self.log.name, errors="replace") as f:
                    fail(f"{self.name} did not start:\n{f.read()[-2000:]}")
            try:
                asyncio.run(stream(self, {"prompt": "a", "max_tokens": 1}))
                return time.monotonic() - begin
            except (OSError, EOFError):
                if time.monotonic() - begin > (300 if self.command else 5):
                    fail(f"{self.name} does not answer at {self.url.geturl()}")
                time.sleep(0.01)

    def stop(self):
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)
            self.process = None
        if self.dir:
            shutil.rmtree(self.dir)
            self.dir = None


def our_server(args):
    port = free_port()
    home = tempfile.mkdtemp(prefix="llm-bench-")
    os.chmod(home, 0o755)
    conf = os.path.join(home, "nginx.conf")
    options = "".join(f" {o};" for o in args.set or [])
    with open(conf, "w", encoding="utf-8") as f:
        f.write(f"""load_module {args.build}/ngx_http_llm_module.so;
daemon off; worker_processes {args.workers}; pid {home}/nginx.pid; error_log stderr error;
{'user root;' if os.getuid() == 0 else ''}
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    llm_model m {{ weights {args.model}; threads {args.threads}; context {args.context}; parallel 64;{options} }}
    server {{ listen 127.0.0.1:{port} backlog=511; location / {{ llm_pass m; llm_max_concurrent_requests 256; }} }}
}}
""")
    s = Server("nginx", f"http://127.0.0.1:{port}", [args.nginx, "-p", home, "-c", conf, "-e", "stderr"])
    s.dir = home
    return s


def peer_server(args):
    if args.base_url:
        return Server(urllib.parse.urlsplit(args.base_url).netloc, args.base_url, model=args.peer_model)
    port = free_port()
    return Server("llama.cpp", f"http://127.0.0.1:{port}", [
        sys.executable, "-m", "llama_cpp.server", "--model", args.model, "--port", str(port), "--n_threads",
        str(args.threads), "--n_threads_batch", str(args.threads), "--n_ctx", str(args.context), "--verbose", "False",
        "--interrupt_requests", "False"] + (args.peer_set or []))


# ----------------------------------------------------------------------------------------------------------- the client

async def stream(server, body):
    """Sends one request; returns (seconds to the first text, gaps between texts, text, texts)."""
    path = server.url.path.rstrip("/") + ("/v1/chat/completions" if "messages" in body else "/v1/completions")
    data = json.dumps({"model": server.model, "temperature": 0, "stream": True} | body).encode()
    begin = time.monotonic()
    reader, writer = await asyncio.open_connection(server.url.hostname, server.url.port or 80)
    try:
        writer.write(f"POST {path} HTTP/1.0\r\nHost: {server.url.netloc}\r\nContent-Type: application/json\r\n"
                     f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
        status = await reader.readline()
        if not status:
            raise EOFError
        if status.split()[1] != b"200":
            fail(f"{server.name} answered {status.decode().strip()}: {(await reader.read(2000)).decode(errors='replace')}")
        times, text = [], ""
        while line := await reader.readline():
            if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
                continue
            event = json.loads(line[5:])
            if "error" in event:
                fail(f"{server.name} sent an error: {event}")
            for choice in event["choices"]:
                piece = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
                if piece:
                    times.append(time.monotonic())
                    text += piece
        if not times:
            raise EOFError
        return times[0] - begin, [b - a for a, b in zip(times, times[1:])], text, len(times)
    finally:
        writer.close()


def quantile(values, q):
    return sorted(values)[min(len(values) - 1, int(len(values) * q))]


async def load(server, n, args, seed):
    """N streams at once; each ends after max_tokens, then all are done."""
    begin = time.monotonic()
    got = await asyncio.gather(*(
        stream(server, {"prompt": prose(seed * 1000 + i, args.prompt_words), "max_tokens": args.max_tokens})
        for i in range(n)))
    wall = time.monotonic() - begin
    first = [g[0] for g in got]
    gaps = [x for g in got for x in g[1]] or [0.0]
    return {"tokens/s": sum(g[3] for g in got) / wall, "first p50 ms": 1000 * quantile(first, 0.5),
            "first p99 ms": 1000 * quantile(first, 0.99), "gap p99 ms": 1000 * quantile(gaps, 0.99)}


async def shared(server, args, seed):
    """The first request of a new 1000-token beginning, and the median of eight more behind it."""
    head = "You are an assistant. " + prose(7_000_000 + seed, args.shared_words)
    first = [(await stream(server, {"prompt": f"{head}\nQuestion {i}: {prose(seed * 50 + i, 8)}", "max_tokens": 2}))[0]
             for i in range(9)]
    return {"first cold ms": 1000 * first[0], "first shared ms": 1000 * statistics.median(first[1:])}


async def chat(server, args, seed):
    messages, first = [{"role": "system", "content": prose(9_000_000 + seed, 300)}], []
    for turn in range(6):
        messages.append({"role": "user", "content": f"{turn}: {prose(seed * 10 + turn, 30)}"})
        got = await stream(server, {"messages": messages, "max_tokens": 48})
        messages.append({"role": "assistant", "content": got[2]})
        first.append(got[0])
    return {"first, turn 1 ms": 1000 * first[0], "first, turns 4-6 ms": 1000 * statistics.median(first[3:])}


SCHEMA = {"type": "object", "additionalProperties": False,
          "properties": {"first_name": {"type": "string", "maxLength": 20}, "last_name": {"type": "string", "maxLength": 20},
                         "age": {"type": "integer", "minimum": 0, "maximum": 120},
                         "city": {"type": "string", "maxLength": 20}, "employed": {"type": "boolean"}},
          "required": ["first_name", "last_name", "age", "city", "employed"]}


async def schema(server, seed):
    """The median of seven answers to prompts of their own; whole ones, or it is no measurement."""
    took = []
    for i in range(7):
        begin = time.monotonic()
        got = await stream(server, {"messages": [{"role": "user", "content": f"Describe person {seed * 7 + i} as JSON."}],
                                    "max_tokens": 120, "response_format": {
                                        "type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}})
        took.append(time.monotonic() - begin)
        if set(json.loads(got[2])) != set(SCHEMA["required"]):
            fail(f"{server.name} did not keep to the schema: {got[2]}")
    return {"answer ms": 1000 * statistics.median(took)}


# ------------------------------------------------------------------------------------------------------------ reporting

def report(args, servers, results):
    print(f"{os.path.basename(args.model)}, {args.threads} threads, {args.rounds} rounds of each in turn, "
          f"prompts of {args.prompt_words} words, {args.max_tokens} tokens each\n")
    head = f"{'min':>9} {'median':>9} {'max':>9}"
    print(f"{'':30} {servers[0].name:>29}   {servers[1].name:>29}\n{'':30} {head}   {head}   better by")
    rows = []
    for (work, what), sides in results.items():
        a, b = (sides[s.name] for s in servers)
        ratio = statistics.median(a) / statistics.median(b)
        if "tokens/s" not in what:
            ratio = 1 / ratio
        rows.append((f"{work}: {what}", ratio))
        cells = "   ".join(f"{min(v):9.1f} {statistics.median(v):9.1f} {max(v):9.1f}" for v in (a, b))
        print(f"{work + ': ' + what:30} {cells}   {ratio:9.2f}")
    if args.plot:
        chart.ratios(args.plot, f"{os.path.basename(args.model)}, {args.threads} threads",
                     f"{servers[0].name} beside {servers[1].name}: times better", rows)
    if args.json:
        with open(args.json, "w", encoding="ascii") as f:
            json.dump({"date": datetime.date.today().isoformat(), "model": os.path.basename(args.model),
                       "threads": args.threads, "servers": [s.name for s in servers],
                       "results": [{"work": w, "what": k, **v} for (w, k), v in results.items()]}, f, indent=1)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", required=True)
    ap.add_argument("--build", default=os.path.join(ROOT, "build"), help="folder of ngx_http_llm_module.so")
    ap.add_argument("--nginx", default="/usr/sbin/nginx")
    ap.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    ap.add_argument("--workers", type=int, default=2, help="worker processes of our nginx")
    ap.add_argument("--context", type=int, default=4096)
    ap.add_argument("--streams", default="1,4,16,64", help="for load; empty: leave it out")
    ap.add_argument("--work", default="load,shared,chat,start")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--prompt-words", type=int, default=60)
    ap.add_argument("--shared-words", type=int, default=800, help="about 1000 tokens")
    ap.add_argument("--max-tokens", type=int, default=64)
    ap.add_argument("--base-url", help="compare with this server instead of starting llama.cpp's")
    ap.add_argument("--peer-model", default="model", help="name of the model for --base-url")
    ap.add_argument("--set", action="append", metavar="DIRECTIVE", help="one more for our llm_model block")
    ap.add_argument("--peer-set", nargs="*", metavar="ARG", help="more arguments for llama_cpp.server")
    ap.add_argument("--json")
    ap.add_argument("--plot", metavar="FILE.svg")
    args = ap.parse_args()
    args.model, args.build = os.path.abspath(args.model), os.path.abspath(args.build)
    work = [w for w in args.work.split(",") if w]
    if unknown := set(work) - {"load", "shared", "chat", "schema", "start"}:
        fail(f"unknown work {', '.join(sorted(unknown))}")

    servers = [our_server(args), peer_server(args)]
    results = {}

    def take(name, work_name, numbers):
        for what, value in numbers.items():
            results.setdefault((work_name, what), {}).setdefault(name, []).append(value)

    begin_load = os.getloadavg()[0]
    try:
        for s in servers:
            if s.command and "start" in work:
                for _ in range(args.rounds):
                    take(s.name, "start", {"first token s": s.start()})
                    s.process.send_signal(signal.SIGTERM)
                    s.process.wait(30)
            s.start()
        for r in range(args.rounds):
            for s in servers if r % 2 == 0 else servers[::-1]:
                if "load" in work:
                    for n in [int(x) for x in args.streams.split(",") if x]:
                        take(s.name, f"load {n}", asyncio.run(load(s, n, args, r * 100 + n)))
                if "shared" in work:
                    take(s.name, "shared", asyncio.run(shared(s, args, r)))
                if "chat" in work:
                    take(s.name, "chat", asyncio.run(chat(s, args, r)))
                if "schema" in work:
                    take(s.name, "schema", asyncio.run(schema(s, r)))
                print(".", end="", file=sys.stderr, flush=True)
        if "start" in work and all(s.process for s in servers):
            for s in servers:
                take(s.name, "resident", {"MiB": resident(s.process.pid) / 2**20})
    finally:
        for s in servers:
            s.stop()
    print(file=sys.stderr)
    results = {k: v for k, v in results.items() if len(v) == 2}
    report(args, servers, results)
    print(f"\nload of the machine before the run: {begin_load:.2f}"
          + ("  (busy: do not trust these numbers)" if begin_load > 0.5 else ""))


if __name__ == "__main__":
    main()
