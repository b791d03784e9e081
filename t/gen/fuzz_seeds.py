"""Writes t/fixtures/fuzz/directory: seeds for t/fuzz/directory.c.

Usage: python3 t/gen/fuzz_seeds.py      from the root of the repository

Each is config.json of a fixture, a NUL, and the header of its model.safetensors with its length.
"""
import struct
from pathlib import Path

MODELS = """llama llama_rope_yarn llama_gptq llama_nf4 mistral mixtral qwen2_sliding qwen3 smollm3 phi phi3_longrope gemma2 gpt2
gpt_bigcode gpt_neox codegen opt_350m_style bloom mpt falcon_40b_style falcon_rw_style starcoder2 t5 bart""".split()

out = Path("t/fixtures/fuzz/directory")
out.mkdir(parents=True, exist_ok=True)
for name in MODELS:
    model = Path("t/fixtures/models") / name
    raw = (model / "model.safetensors").read_bytes()
    n, = struct.unpack_from("<Q", raw)
    (out / name).write_bytes((model / "config.json").read_bytes() + b"\0" + raw[:8 + n])
