"""Writes lua/llm/unicode_data.lua from this Python's Unicode database.

Usage: python3 t/gen/unicode_case.py > lua/llm/unicode_data.lua
"""
import unicodedata


def code_points():
    return (c for c in range(128, 0x110000) if not 0xD800 <= c <= 0xDFFF)


def simple(fold, known=lambda s: s):
    """Runs (first, last, step, delta) of one-to-one mappings that differ from known."""
    delta = {}
    for c in code_points():
        mapped = fold(chr(c))
        if len(mapped) == 1 and mapped != known(chr(c)):
            delta[c] = ord(mapped) - c
    runs, cs, i = [], sorted(delta), 0
    while i < len(cs):
        best = (1, i)
        for step in (1, 2):
            j = i
            while j + 1 < len(cs) and cs[j + 1] - cs[j] == step and delta[cs[j + 1]] == delta[cs[i]]:
                j += 1
            if j > best[1]:
                best = (step, j)
        runs.append((cs[i], cs[best[1]], best[0], delta[cs[i]]))
        i = best[1] + 1
    return runs


def special(fold):
    return {chr(c): fold(chr(c)) for c in code_points() if len(fold(chr(c))) > 1}


def print_runs(name, runs):
    print(f"{name} = [[")
    words, line = [f"{a:x},{b:x},{s},{d}" for a, b, s, d in runs], ""
    for word in words:
        if len(line) + len(word) > 76:
            print(line.rstrip())
            line = ""
        line += word + " "
    print(line.rstrip() + "]],")


def print_special(name, pairs):
    print(f"{name} = {{")
    line = "   "
    for source, target in pairs.items():
        word = f' ["{source}"] = "{target}",'
        if len(line) + len(word) > 76:
            print(line)
            line = "   "
        line += word
    print(line)
    print("},")


print(f"""\
-- unicode_data.lua - case mappings of Unicode {unicodedata.unidata_version} above ASCII.
-- Written by t/gen/unicode_case.py; do not edit.
--
-- lower, upper, title (where it is not upper): runs "first,last,step,delta",
-- first and last in hex.
-- *_special: mappings to more than one character.
return {{""")
print_runs("lower", simple(str.lower))
print_runs("upper", simple(str.upper))
print_runs("title", simple(str.title, str.upper))
print_special("lower_special", special(str.lower))
print_special("upper_special", special(str.upper))
print_special("title_special", special(str.title))
print("}")
