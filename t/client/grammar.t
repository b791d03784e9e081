#!/usr/bin/env python3
"""grammar.t - texts written under random grammars, judged by other programs.

Random JSON schemas: every text must be JSON that the jsonschema package accepts. Random regular expressions: every text must
match with Python's re. The texts are random allowed tokens, from the program of t/engine/run_grammar_random.c, so
they reach corners that a language model never visits.
"""
import json
import os
import random
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "t"))
import tap  # noqa: E402

LONG = bool(os.environ.get("LLM_TEST_LONG"))
N_SCHEMAS = 1000 if LONG else 300
N_REGEXES = 1000 if LONG else 200
TOKENIZERS = ["smollm2", "llama", "qwen2"]
MAX_COMPILE_MS = 50

try:
    import jsonschema

    import grammar_cases as cases
except ImportError:
    tap.skip_all("the Python package jsonschema is not installed")


def program():
    build = os.environ.get("LLM_BUILD") or os.path.join(ROOT, "build-san" if os.environ.get("LLM_TEST_SAN") else "build")
    path = os.path.join(build, "t", "engine_run_grammar_random.t")
    if not os.path.exists(path):
        tap.skip_all(path + " is not built")
    return path


class Writer:
    def __init__(self, tokenizer):
        self.p = subprocess.Popen([program(), "--serve", os.path.join(ROOT, "t/fixtures/tokenizers", tokenizer)],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)

    def ask(self, kind, text, seed, n=3, limit=60):
        req = {"kind": kind, "text": text, "seed": seed, "n": n, "limit": limit}
        self.p.stdin.write(json.dumps(req).encode() + b"\n")
        self.p.stdin.flush()
        line = self.p.stdout.readline()
        if not line:
            raise EOFError(f"the writer died with status {self.p.wait()}")
        return json.loads(line)

    def close(self):
        self.p.stdin.close()
        return self.p.wait()


def judge_schema(s, answer):
    if "broken" in answer:
        return answer["broken"]
    if "error" in answer:
        return None if cases.expected_refusal(answer["error"]) else answer["error"]
    return cases.wrong_json(s, answer["texts"])


def judge_regex(pattern, answer):
    return answer.get("broken") or answer.get("error") or cases.wrong_text(pattern, answer["texts"])


def run(name, n, make, kind, judge):
    writers = [Writer(t) for t in TOKENIZERS]
    refused, slow = 0, []
    for first in range(0, n, 50):
        bad = []
        for i in range(first, min(first + 50, n)):
            case = make(random.Random(f"{kind} {i}"))
            answer = writers[i % len(writers)].ask(kind, case if kind == "regex" else json.dumps(case, ensure_ascii=False), i)
            why = judge(case, answer)
            refused += "error" in answer
            if answer.get("ms", 0) > MAX_COMPILE_MS:
                slow.append((round(answer["ms"]), i))
            if why is not None:
                bad.append(f"{kind} {i}: {json.dumps(case, ensure_ascii=False)}\n#   {why}")
        tap.ok(not bad, f"{name} {first} to {min(first + 50, n) - 1}")
        for b in bad[:5]:
            tap.diag(b)
    tap.ok(all(w.close() == 0 for w in writers), f"{name}: the writers end well")
    tap.ok(refused < n / 5, f"{name}: {refused} of {n} refused")
    if slow:
        tap.diag(f"{name}: {len(slow)} took longer than {MAX_COMPILE_MS} ms to compile, the longest {max(slow)}")


def check_fixture():
    """The hand-written schemas: does the other implementation agree about their texts?"""
    with open(os.path.join(ROOT, "t/fixtures/grammar/schemas.json"), encoding="utf-8") as f:
        cases = json.load(f)["schemas"]
    bad = []
    for c in cases:
        checker = jsonschema.Draft202012Validator(c["schema"],
                                                  format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)

        def valid(text):
            try:
                return checker.is_valid(json.loads(text, parse_constant=lambda x: 1 // 0))
            except (ValueError, ZeroDivisionError):
                return False
        bad += [f"{c['name']}: {t!r} is not valid" for t in c["valid"] + c.get("narrow", []) if not valid(t)]
        bad += [f"{c['name']}: {t!r} is valid" for t in c["invalid"] if valid(t)]
    tap.ok(not bad, f"{len(cases)} hand-written schemas")
    for b in bad:
        tap.diag(b)


check_fixture()
run("schemas", N_SCHEMAS, cases.random_schema, "schema", judge_schema)
run("regexes", N_REGEXES, cases.random_regex, "regex", judge_regex)
tap.done_testing()
