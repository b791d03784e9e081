#!/usr/bin/env python3
"""Writes t/fixtures/kv_q8_0.json: log-probabilities with keys and values rounded to q8_0.

    python3 t/gen/kv_q8_0.py REFERENCE_DIR       # from the repository root

REFERENCE_DIR holds reference.py, the numpy model that reproduces every expected.json of the fixtures. For each case of a model: every
token of the prompt and of the greedy output but the first. Says on stderr how far the rounding alone moves them.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, sys.argv[1])
import reference

MODELS = """bloom falcon_11b_style gemma2 gpt_bigcode gpt_neox llama llama3 llama_head_dim mpt opt phi phi3 qwen2_sliding qwen3
    smollm2 smollm3""".split()


def q8_0(x):
    """32 values share a scale: the smallest f16 not below 1/127 of the largest; each is rounded to the nearest, ties to even."""
    out = np.zeros_like(x)
    for d in range(0, x.shape[-1], 32):
        b = x[..., d:d + 32].astype(np.float64)
        most = np.abs(b).max(-1, keepdims=True)
        scale = (most / 127).astype(np.float16)
        low = scale.astype(np.float64) * 127 < most
        scale = np.where(low, np.nextafter(scale, np.float16(np.inf)), scale).astype(np.float64)
        np.copyto(out[..., d:d + 32], np.rint(b / np.where(scale > 0, scale, 1)) * scale, casting="same_kind")
    return out


exact = reference.Stack.attend


def logprobs(model, ids, attend):
    reference.Stack.attend = attend
    rows = model.rows(ids[:1], ids[1:]).astype(np.float64)
    most = rows.max(-1)
    return rows[np.arange(len(rows)), ids[1:]] - most - np.log(np.exp(rows - most[:, None]).sum(-1))


with open("t/fixtures/kv_q8_0.json", "w") as f:
    for i, name in enumerate(MODELS):
        path = Path("t/fixtures/models") / name
        model, moved = reference.Model(path), 0.0
        f.write("{\n" if i == 0 else ",\n")
        f.write(json.dumps(name) + ": [")
        for j, case in enumerate(json.loads((path / "expected.json").read_text())["cases"]):
            ids = case["input_ids"] + case["greedy"]["ids"]
            got = logprobs(model, ids, lambda s, q, k, v, bias, mask: exact(s, q, q8_0(k), q8_0(v), bias, mask))
            moved = max(moved, np.abs(got - logprobs(model, ids, exact)).max())
            f.write(("" if j == 0 else ",\n") + json.dumps([round(float(x), 5) for x in got], separators=(",", ":")))
        f.write("]")
        print(f"{name:20} {moved:.3f}", file=sys.stderr)
    f.write("\n}\n")
