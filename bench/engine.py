#!/usr/bin/env python3
"""Runs `llm bench` and llama.cpp in turn and prints a table of tokens a second with the ratio of the medians.

Each measurement is a process of its own, and the two engines alternate, so that a change of the machine's mood meets both.
llama.cpp is measured with its defaults and with the flags that a first round found best; ours has to beat the better one.
Nothing is reported when any run failed.
Before and after each of our runs the machine's read bandwidth is taken: decoding without context is compared with it, too.
"""
import argparse
import contextlib
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys

import gguf

import chart

PEER_FLAGS = {"default": [], "flash on": ["--flash", "on"], "flash off": ["--flash", "off"],
              "no repack": ["--no-repack"], "flash on, no repack": ["--flash", "on", "--no-repack"]}


MARGIN = 1.03   # a flag that gains less than the noise is not "better"


def measure(name, cmd):
    done = subprocess.run(cmd, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"bench: {name} failed with status {done.returncode}, nothing is reported:\n{done.stderr.strip()[-2000:]}")
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        sys.exit(f"bench: {name} printed no JSON, nothing is reported:\n{done.stdout[-2000:]}")


@contextlib.contextmanager
def busy_neighbour():
    """A process of another session that wants one core."""
    p = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
    try:
        yield
    finally:
        p.kill()
        p.wait()


def read_bandwidth(program, threads):
    """GB/s of a plain read loop; None on a CPU that it is not written for."""
    done = subprocess.run([program, "-r", "-t", str(threads)], capture_output=True, text=True)
    return float(done.stdout) if done.returncode == 0 else None


def bytes_of_a_token(model):
    """Bytes of the weights that a decode step reads: all but the embedding, unless that is the output matrix as well."""
    sizes = {str(t.name): int(t.n_bytes) for t in gguf.GGUFReader(model).tensors}
    return sum(sizes.values()) - (sizes["token_embd.weight"] if "output.weight" in sizes else 0)


def cpu_name():
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
        for line in f:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def row(values):
    return f"{min(values):9.1f} {statistics.median(values):9.1f} {max(values):9.1f}"


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--llm", required=True)
    ap.add_argument("--read", required=True, metavar="PROGRAM", help="bench/kern.c, compiled")
    ap.add_argument("--model", required=True)
    ap.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    ap.add_argument("--reps", type=int, default=5)
    ap.add_argument("--prefill", default="128,512,2048")
    ap.add_argument("--decode", default="128")
    ap.add_argument("--context", default="0", help="contexts to decode after, in tokens")
    ap.add_argument("--neighbour", action="store_true", help="each run also beside a process that keeps one core busy")
    ap.add_argument("--kv", choices=("f16", "q8_0"), default="f16", help="format of the KV cache of both")
    ap.add_argument("--kern", help="our set of kernels; the peer has to be built to match")
    ap.add_argument("--json")
    ap.add_argument("--plot", metavar="FILE.svg")
    args = ap.parse_args()
    work = ["--model", args.model, "--threads", str(args.threads), "--kv", args.kv]
    if args.kern:
        os.environ["LLM_KERN"] = args.kern
    sizes = ["--prefill", args.prefill, "--decode", args.decode, "--context", args.context]
    peer_cmd = [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "llamacpp.py")] + work
    ours_cmd = [args.llm, "bench"] + work + ["--json"]

    def shortest(text):
        return text.split(",")[0] if text else ""

    load = os.getloadavg()[0]
    # which flags of the peer are best here, for each kind of work
    trial = ["--prefill", shortest(args.prefill), "--decode", shortest(args.decode), "--reps", "2"]
    # llama.cpp keeps values in fewer bits only with flash attention
    peer_flags = {n: f for n, f in PEER_FLAGS.items() if args.kv == "f16" or "on" in f}
    first = next(iter(peer_flags))
    best = {"prefill": (first, 0.0), "decode": (first, 0.0)}
    for name, flags in peer_flags.items():
        result = measure(f"llama.cpp ({name})", peer_cmd + trial + flags)
        for kind in best:
            for values in result[kind].values():
                if max(values) > best[kind][1] * MARGIN:
                    best[kind] = (name, max(values))
        print(".", end="", flush=True, file=sys.stderr)
    peers = [first] + sorted({name for name, _ in best.values()} - {first})

    got = {}    # (kind, n) -> {"ours": [...], "default": [...], ...}
    system = version = ""
    bandwidth = []      # GB/s around each of our runs without company
    token_bytes = bytes_of_a_token(args.model)

    def take(result, who, company):
        for kind in ("prefill", "decode"):
            for n, values in result[kind].items():
                got.setdefault((kind + company, n), {}).setdefault(who, []).extend(values)

    def run(who, company):
        nonlocal system, version
        if who == "ours":
            before = None if company else read_bandwidth(args.read, args.threads)
            take(measure("llm bench", ours_cmd + sizes), who, company)
            if before is not None:
                bandwidth.append((before, read_bandwidth(args.read, args.threads)))
        else:
            result = measure(f"llama.cpp ({who})", peer_cmd + sizes + PEER_FLAGS[who])
            system, version = result["system"], result["version"]
            take(result, who, company)

    for rep in range(args.reps):
        turns = ["ours"] + peers
        for who in turns if rep % 2 == 0 else reversed(turns):
            run(who, "")
            if args.neighbour:
                with busy_neighbour():
                    run(who, " +1")
            print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)

    print(f"{os.path.basename(args.model)}, {args.threads} threads, {args.reps} runs of each in turn; tokens a second\n")
    print(f"{'':19} {'llm':>29} {'llama.cpp':>32} {'ratio of':>12}")
    head = f"{'min':>9} {'median':>9} {'max':>9}"
    print(f"{'':19} {head} {'':2} {head} {'medians':>12}   peer's flags")
    worst, rows = None, []
    for (kind, n), sides in got.items():
        ours = sides["ours"]
        for who in peers:
            theirs = sides[who]
            ratio = statistics.median(ours) / statistics.median(theirs)
            worst = ratio if worst is None else min(worst, ratio)
            rows.append((f"{kind} {n} ({who})", ratio))
            print(f"{kind:10}{n:>9} {row(ours)} {'':2} {row(theirs)} {ratio:12.2f}   {who}")
    for (kind, n), sides in got.items():
        if kind == "decode" and "@" not in n and bandwidth:
            used = [v * token_bytes * 1e-9 for v in sides["ours"]]
            share = [u / statistics.mean(b) for u, b in zip(used, bandwidth)]
            print(f"decode {n}: reads {row(used).strip()} GB/s of {row([x for b in bandwidth for x in b]).strip()} that a plain"
                  f" loop reads just before and after; of each run {100 * min(share):.0f} {100 * statistics.median(share):.0f}"
                  f" {100 * max(share):.0f} %")
    for (kind, n), sides in got.items():
        if kind.endswith(" +1"):
            kept = {w: statistics.median(v) / statistics.median(got[kind[:-3], n][w]) for w, v in sides.items()}
            print(f"{kind[:-3]} {n}: kept beside a busy neighbour (+1): "
                  + ", ".join(f"{'llm' if w == 'ours' else 'llama.cpp ' + w} {100 * k:.0f} %" for w, k in kept.items()))
    print(f"\nload of the machine before the run: {load:.2f}" + ("  (busy: do not trust these numbers)" if load > 0.5 else ""))
    print(f"machine: {cpu_name()}, {platform.system()} {platform.release()}\npeer: llama-cpp-python {version}, {system}")
    print(f"smallest ratio: {worst:.2f}")
    if args.plot:
        chart.ratios(args.plot, f"{os.path.basename(args.model)}, {args.threads} threads", "tokens a second beside llama.cpp",
                     rows)
    if args.json:
        with open(args.json, "w", encoding="ascii") as f:
            json.dump({"date": datetime.date.today().isoformat(), "model": os.path.basename(args.model),
                       "threads": args.threads, "cpu": cpu_name(), "peer": system,
                       "read_gb_per_s": bandwidth, "bytes_of_a_token": token_bytes,
                       "results": [{"kind": k, "n": n, "tokens_per_s": v} for (k, n), v in got.items()]}, f, indent=1)


if __name__ == "__main__":
    main()
