#!/usr/bin/env python3
"""grammar.t - texts written under random grammars, judged by other programs.

Random JSON schemas: every text must be JSON that the jsonschema package accepts. Random regular expressions: every text must
match with Python's re. The texts are random allowed tokens, from the program of t/engine/run_grammar_random.c, so
they reach corners that a language model never visits. The generators are seeded: a failure is repeated by its number.
"""
import json
import os
import random
import re
import subprocess
import sys
import unicodedata

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


# ------------------------------------------------------------------- regular expressions

CHARS = list("abcxyz019 _-.é日") + ["\\.", "\\-", "\\n", "\\u00e9", "\\x41"]
CLASSES = ["[a-f]", "[^a-f]", "[0-9A-F]", "\\d", "\\w", "\\s", "\\D", "\\W", "\\S", ".", "[éàü日-本]", "[\\w.-]", "[^\\s,]",
           "[\\d_]", "[\\]\\[]"]


def random_regex(r, depth=0):
    kind = r.random()
    if depth > 3 or kind < 0.35:
        return "".join(r.choice(CHARS) for _ in range(r.randint(1, 4)))
    if kind < 0.6:
        return r.choice(CLASSES)
    if kind < 0.75:
        return "".join(random_regex(r, depth + 1) for _ in range(r.randint(2, 4)))
    if kind < 0.88:
        group = r.choice(["(", "(?:", "(?P<g%d>" % r.randrange(10**9)])
        return group + "|".join(random_regex(r, depth + 1) for _ in range(r.randint(1, 3))) + ")"
    inner = random_regex(r, depth + 1)
    lo = r.randint(0, 3)
    return "(?:" + inner + ")" + r.choice(["?", "*", "+", "{%d}" % lo, "{%d,}" % lo, "{%d,%d}" % (lo, lo + r.randint(0, 4)), "+?"])


# --------------------------------------------------------------------------- schemas

KEYS = ["id", "name", "a", "ab", "abc", "x-y", "é", "quote\"d", "back\\slash", "long_key_number_one", "long_key_number_two"]
FORMATS = ["date", "time", "date-time", "duration", "uuid", "ipv4", "ipv6", "email", "hostname", "uri"]
PATTERNS = ["^[a-z]+$", "^\\d{3}-\\d{4}$", "a+b?", "^(foo|bar)", "end$", "^[A-Z][a-z]{0,5}( [A-Z][a-z]*)?$", "\"", "\\\\", "^$",
            "^\\S+@\\S+$", "^[^,]{2,6}$", "é"]


def integer(r):
    s = {"type": "integer"}
    if r.random() < 0.6:
        lo = r.choice([0, 1, -5, -1000, 17, 10**9, -10**15])
        if r.random() < 0.8:
            s[r.choice(["minimum", "exclusiveMinimum"])] = lo
        if r.random() < 0.7:
            s[r.choice(["maximum", "exclusiveMaximum"])] = lo + r.choice([2, 3, 10, 99, 12345])
    return s


def number(r):
    s = {"type": "number"}
    if r.random() < 0.6:
        lo = r.choice([0, -1, 0.5, -2.25, 1e-3, 99.99, 123456789.125])
        if r.random() < 0.8:
            s[r.choice(["minimum", "exclusiveMinimum"])] = lo
        if r.random() < 0.7:
            s[r.choice(["maximum", "exclusiveMaximum"])] = lo + r.choice([0.001, 0.5, 1, 7.75, 1000])
    return s


def string(r):
    s = {"type": "string"}
    kind = r.random()
    if kind < 0.3:
        s["minLength"] = r.randint(0, 4)
        if r.random() < 0.8:
            s["maxLength"] = s["minLength"] + r.randint(0, 6)
    elif kind < 0.55:
        s["pattern"] = r.choice(PATTERNS)
        if r.random() < 0.3:
            s["maxLength"] = r.randint(8, 30)
    elif kind < 0.75:
        s["format"] = r.choice(FORMATS)
    return s


def enum(r):
    values = ["red", "green", 1, 2.5, None, True, "quote\"d", "é", [1, "x"], {"k": [None]}, "", -7]
    if r.random() < 0.3:
        return {"const": r.choice(values)}
    return {"enum": r.sample(values, r.randint(1, 5))}


def array(r, depth, refs):
    s = {"type": "array"}
    kind = r.random()
    if kind < 0.7:
        s["items"] = schema(r, depth + 1, refs)
    elif kind < 0.85:
        s["prefixItems"] = [schema(r, depth + 1, refs) for _ in range(r.randint(1, 3))]
        if r.random() < 0.6:
            s["items"] = r.choice([False, {"type": "boolean"}])
    if r.random() < 0.5:
        s["minItems"] = r.randint(0, 3)
    if r.random() < 0.5:
        s["maxItems"] = s.get("minItems", 0) + r.randint(0, 3)
    return s


def obj(r, depth, refs):
    keys = r.sample(KEYS, r.randint(0, 6))
    s = {"type": "object"}
    if keys:
        s["properties"] = {k: schema(r, depth + 1, refs) for k in keys}
        s["required"] = [k for k in keys if r.random() < 0.5]
    kind = r.random()
    if kind < 0.2:
        s["additionalProperties"] = False
    elif kind < 0.4:
        s["additionalProperties"] = r.choice([True, schema(r, depth + 1, refs)])
        if not keys and r.random() < 0.5:
            s["minProperties"] = 1
            s["maxProperties"] = r.randint(1, 4)
    if kind > 0.8:
        s["patternProperties"] = {r.choice(["^p_", "[0-9]$", "^[a-z]{2}$"]): schema(r, depth + 1, refs)}
    if kind < 0.4 and not keys and r.random() < 0.3:
        s["propertyNames"] = r.choice([{"pattern": "^[a-z]+$"}, {"enum": ["u", "v", "w"]}, {"maxLength": 3}])
    return s


def choice(r, depth, refs):
    kind = r.random()
    if kind < 0.5:
        return {"anyOf": [schema(r, depth + 1, refs) for _ in range(r.randint(2, 4))]}
    if kind < 0.7:
        return {"oneOf": r.sample([string(r), integer(r), obj(r, depth + 1, refs), array(r, depth + 1, refs), {"type": "null"}],
                                  r.randint(2, 4))}
    if kind < 0.85:
        tags = ["cat", "dog", "fish"]
        return {"oneOf": [{"type": "object", "properties": {"kind": {"const": t}, "v": schema(r, depth + 1, refs)},
                           "required": ["kind"]} for t in tags]}
    keys = r.sample(KEYS, 4)
    return {"allOf": [{"type": "object", "properties": {k: schema(r, depth + 1, refs) for k in part}, "required": part[:1]}
                      for part in (keys[:2], keys[2:])]}


def schema(r, depth=0, refs=()):
    kind = r.random()
    if refs and depth > 0 and kind < 0.12:
        return {"$ref": "#/$defs/" + r.choice(refs)}
    if depth >= 3 or kind < 0.45:
        return r.choice([integer, number, string, string, enum, lambda _: {"type": "boolean"}, lambda _: {"type": "null"},
                         lambda _: {"type": ["string", "null"]}, lambda _: {}, lambda _: True])(r)
    if kind < 0.6:
        return array(r, depth, refs)
    if kind < 0.85:
        return obj(r, depth, refs)
    return choice(r, depth, refs)


def random_schema(r):
    refs = r.sample(["node", "leaf", "pair"], r.randint(0, 3))
    s = schema(r, 0, refs)
    while not isinstance(s, dict):
        s = schema(r, 0, refs)
    if refs:
        s = dict(s)
        s["$defs"] = {k: schema(r, 1, refs) for k in refs}
    return s


# ------------------------------------------------------------------------------ judging

def expected_refusal(message):
    """Random schemas may contradict themselves or recurse without end; nothing else may be refused."""
    return any(x in message for x in ("no text can match it", "recursion without content", "leads to itself",
                                      "may both match"))


def judge_schema(s, answer):
    if "broken" in answer:
        return answer["broken"]
    if "error" in answer:
        return None if expected_refusal(answer["error"]) else answer["error"]
    checker = jsonschema.Draft202012Validator(s, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    for text in answer["texts"]:
        try:
            value = json.loads(text)
        except ValueError as e:
            return f"{text!r} is not JSON: {e}"
        try:
            errors = list(checker.iter_errors(value))
        except RecursionError:
            return "the schema refers to itself without end"
        if errors:
            return f"{text!r}: {errors[0].message} at {list(errors[0].absolute_path)}"
    return None


def judge_regex(pattern, answer):
    if "broken" in answer:
        return answer["broken"]
    if "error" in answer:
        return answer["error"]
    compiled = re.compile(pattern)
    for text in answer["texts"]:
        # a character that this Python's Unicode does not know yet is no letter to it
        if compiled.fullmatch(text) is None and not any(unicodedata.category(c) == "Cn" for c in text):
            return f"{text!r} does not match"
    return None


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
run("schemas", N_SCHEMAS, random_schema, "schema", judge_schema)
run("regexes", N_REGEXES, random_regex, "regex", judge_regex)
tap.done_testing()
