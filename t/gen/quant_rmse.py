#!/usr/bin/env python3
"""Root mean square errors of the quantizers of PyPI's gguf, for t/engine/tensor_quantize.c.

    python3 t/gen/quant_rmse.py        (gguf 0.19.0, numpy)

The values come from a generator that the C test repeats bit by bit: sums of four uniform 16-bit
numbers of a linear congruential sequence, each exact in float32.
"""
import sys
from importlib.metadata import version

import gguf
import numpy as np

N = 256 * 256


def values():
    state, out = 12345, np.empty(N, np.float32)
    for i in range(N):
        total = 0
        for _ in range(4):
            state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
            total += state >> 16
        out[i] = (total - 131070) / 65536
    return out


x = values()
print(f"gguf {version('gguf')}, first values {x[0]:.9g} {x[1]:.9g}", file=sys.stderr)
for name in ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"):
    kind = getattr(gguf.GGMLQuantizationType, name)
    back = gguf.quants.dequantize(gguf.quants.quantize(x, kind), kind)
    print(f'    {{ LLM_T_{name}, {np.sqrt(np.mean((back.astype(float) - x) ** 2)):.9g} }},')
