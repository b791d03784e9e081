#!/usr/bin/env python3
"""Writes t/fixtures/embeddings.json: pooled hidden states of the checkpoints in t/fixtures/models.

    python3 t/gen/embeddings.py REFERENCE_DIR       # from the repository root

REFERENCE_DIR holds reference.py, the numpy model that reproduces every expected.json of the fixtures.
For each model: mean over all prompt tokens and last token of the hidden states behind the final norm
(an encoder's where there is one), for the first prompt of its expected.json.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, sys.argv[1])
import reference

out = {}
for path in sorted(Path("t/fixtures/models").iterdir()):
    if "quantization_config" in (path / "config.json").read_text():
        continue
    ids = json.loads((path / "expected.json").read_text())["cases"][0]["input_ids"]
    model = reference.Model(path)
    stack = model.enc or model.dec
    hidden = stack.run(stack.embed(np.array(ids))).astype(np.float64)
    out[path.name] = {k: [float(f"{x:.8g}") for x in v] for k, v in (("mean", hidden.mean(0)), ("last", hidden[-1]))}
with open("t/fixtures/embeddings.json", "w") as f:
    json.dump(out, f, separators=(",", ":"))
    f.write("\n")
