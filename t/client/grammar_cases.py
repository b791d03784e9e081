"""grammar_cases.py - random JSON schemas and regular expressions, and how other programs judge texts.

The generators take a random.Random, so that a case is repeated by its number. wrong_json() asks the jsonschema package,
wrong_text() Python's re.
"""
import json
import re
import signal
import unicodedata

import jsonschema

MATCH_SECONDS = 3

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
    """Random schemas may contradict themselves, recurse without end or, rarely, combine what is refused by its name."""
    return any(x in message for x in ("no text can match it", "recursion without content", "leads to itself",
                                      "may both match", "beside keywords for these is not supported"))


def wrong_json(schema, texts):
    """What is wrong with the first text that is no JSON which the schema allows, or None."""
    checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    for text in texts:
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


def too_long(*_):
    raise TimeoutError


def wrong_text(pattern, texts):
    """
    What is wrong with the first text that does not match as a whole, or None. Of the main thread only: some patterns cost Python's
    re exponential time, and what it has not decided after some seconds is not judged.
    """
    compiled = re.compile(pattern)
    signal.signal(signal.SIGALRM, too_long)
    for text in texts:
        signal.alarm(MATCH_SECONDS)
        try:
            matches = compiled.fullmatch(text)
        except TimeoutError:
            continue
        finally:
            signal.alarm(0)
        # a character that this Python's Unicode does not know yet is no letter to it
        if matches is None and not any(unicodedata.category(c) == "Cn" for c in text):
            return f"{text!r} does not match"
    return None
