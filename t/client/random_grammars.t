#!/usr/bin/env python3
"""random_grammars.t - 1,000 random JSON schemas and as many regular expressions through the server, judged by other programs.

The model is random too. Its texts would be long, so a bias makes it end strings, lists and objects more often; a text that the
limit cuts all the same is not judged, and must be rare. grammar.t tests the same generators without a server.
"""
import harness

harness.environment("venv")
import http.client  # noqa: E402
import json  # noqa: E402
import random  # noqa: E402
import threading  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402

import grammar_cases as cases  # noqa: E402
import tap  # noqa: E402

N = 20000 if harness.LONG else 1000
LIMIT = 1500         # tokens
BIAS = {'"': 4, "}": 8, "]": 8, '"}': 8, '"]': 8, "<|im_end|>": 8, "<|endoftext|>": 8}

CONF = """
    llm_model m { weights {root}/t/fixtures/gguf/smollm2-Q4_1.gguf; context 2048; kv_cache 64m; }
    server {
        listen 127.0.0.1:{port};
        location / { llm_pass m; }
    }
"""
local = threading.local()


def post(s, path, body):
    """On one connection a thread: what the server refuses must not end it."""
    if not hasattr(local, "connection"):
        local.connection = http.client.HTTPConnection("127.0.0.1", s.port, timeout=120)
    local.connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = local.connection.getresponse()
    return answer.status, json.loads(answer.read())


def bias(s):
    """The ids of the texts of BIAS that are one token, as logit_bias."""
    tokens = {text: post(s, "/tokenize", {"content": text, "add_special": False})[1]["tokens"] for text in BIAS}
    return {str(ids[0]): BIAS[text] for text, ids in tokens.items() if len(ids) == 1}


KINDS = {
    "schema": (cases.random_schema, cases.wrong_json, "json"),
    "regex": (cases.random_regex, cases.wrong_text, "regex"),
}


def ask(s, kind, case, i, favour):
    """("ended" or "cut", text) or ("refused", message)."""
    status, got = post(s, "/generate", {"inputs": "A", "parameters": {
        "do_sample": True, "seed": i, "max_new_tokens": LIMIT, "details": True, "logit_bias": favour,
        "grammar": {"type": KINDS[kind][2], "value": case}}})
    if status != 200:
        return "refused", f"{status} {got}"
    return "cut" if got["details"]["finish_reason"] == "length" else "ended", got["generated_text"]


def each(s, kind):
    make, wrong, _ = KINDS[kind]
    favour = bias(s)
    made = [make(random.Random(f"{kind} {i}")) for i in range(N)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: ask(s, kind, made[i], i, favour), range(N)))
    bad = []
    for i, (end, text) in enumerate(results):
        if end == "refused":
            why = None if kind == "schema" and cases.expected_refusal(text) else text
        else:
            why = wrong(made[i], [text]) if end == "ended" else None
        if why:
            bad.append(f"{kind} {i}: {json.dumps(made[i], ensure_ascii=False)}\n  {why}")
    ends = [end for end, _ in results]
    tap.ok(not bad, f"{kind}: {ends.count('ended')} of {N} texts, all as they must be")
    for why in bad[:5]:
        tap.diag(why)
    tap.ok(ends.count("cut") < N / 20, f"{kind}: {ends.count('cut')} cut by the limit")
    tap.ok(ends.count("refused") < N / 10, f"{kind}: {ends.count('refused')} refused because no text can match")


with harness.Server(CONF) as server:
    each(server, "schema")
    each(server, "regex")
tap.done_testing()
