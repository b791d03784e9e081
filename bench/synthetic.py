#!/usr/bin/env python3
"""Writes a GGUF file of a real model's shape with random weights: they cost what real ones do, and need no download.

    synthetic.py --shape llama-1b --type Q4_0 --vocab-from MODEL.gguf OUT.gguf

The tokenizer comes from another GGUF file. What such a model writes is noise. The same arguments give the same file.
Needs numpy and gguf.
"""
import argparse
import sys

import gguf
import numpy as np

# layers, width, feed-forward, heads, key-value heads, context, rope base
SHAPES = {
    "llama-1b": (16, 2048, 8192, 32, 8, 8192, 500000.0),
    "llama2-7b": (32, 4096, 11008, 32, 32, 4096, 10000.0),
    "mistral-7b": (32, 4096, 14336, 32, 8, 8192, 1000000.0),
}

# where a block holds half-precision scales: random bits there would be infinities
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2],
          "Q6_K": [208]}
ROWS_AT_ONCE = 4096     # memory while a matrix is made


def blocks(rng, kind, rows, cols):
    """A matrix of random blocks: uint8, a row of the file each."""
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    if cols % weights:
        sys.exit(f"synthetic.py: {kind.name} wants rows of a multiple of {weights} weights, not {cols}")
    out = np.empty((rows, cols // weights, size), np.uint8)
    for top in range(0, rows, ROWS_AT_ONCE):
        part = out[top:top + ROWS_AT_ONCE]
        part[:] = rng.integers(0, 256, part.shape, np.uint8)
        for at in SCALES[kind.name]:
            scale = rng.uniform(0.0005, 0.0045, part.shape[:2]).astype(np.float16)
            part[:, :, at:at + 2] = scale.view(np.uint8).reshape(*scale.shape, 2)
    return out.reshape(rows, -1)


def copy_tokenizer(reader, writer):
    """All tokenizer keys as they are; returns the size of the vocabulary."""
    for key, field in reader.fields.items():
        if key.startswith("tokenizer."):
            kind = field.types[0]
            sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), kind, sub)
    return len(reader.fields["tokenizer.ggml.tokens"].contents())


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--shape", choices=SHAPES, required=True)
    ap.add_argument("--type", choices=SCALES, default="Q4_0")
    ap.add_argument("--vocab-from", required=True, metavar="FILE")
    ap.add_argument("out")
    args = ap.parse_args()

    layers, width, ff, heads, kv_heads, context, base = SHAPES[args.shape]
    kv_width = width // heads * kv_heads
    kind = gguf.GGMLQuantizationType[args.type]
    rng = np.random.default_rng(1)
    w = gguf.GGUFWriter(args.out, "llama")
    w.add_name(f"synthetic {args.shape} {args.type}")
    w.add_context_length(context)
    w.add_embedding_length(width)
    w.add_block_count(layers)
    w.add_feed_forward_length(ff)
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_rope_dimension_count(width // heads)
    w.add_rope_freq_base(base)
    w.add_layer_norm_rms_eps(1e-5)
    n_vocab = copy_tokenizer(gguf.GGUFReader(args.vocab_from), w)

    matrices = {"token_embd": (n_vocab, width)}
    norms = ["output_norm"]
    for i in range(layers):
        norms += [f"blk.{i}.attn_norm", f"blk.{i}.ffn_norm"]
        matrices |= {f"blk.{i}.attn_q": (width, width), f"blk.{i}.attn_k": (kv_width, width),
                     f"blk.{i}.attn_v": (kv_width, width), f"blk.{i}.attn_output": (width, width),
                     f"blk.{i}.ffn_gate": (ff, width), f"blk.{i}.ffn_up": (ff, width), f"blk.{i}.ffn_down": (width, ff)}
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    for name in norms:
        w.add_tensor_info(f"{name}.weight", (width,), np.dtype(np.float32), width * 4)
    for name, (rows, cols) in matrices.items():
        row = cols // weights * size
        w.add_tensor_info(f"{name}.weight", (rows, row), np.dtype(np.uint8), rows * row, raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_ti_data_to_file()
    for _ in norms:
        w.write_tensor_data(np.ones(width, np.float32))
    for i, (rows, cols) in enumerate(matrices.values()):
        w.write_tensor_data(blocks(rng, kind, rows, cols))
        if sys.stderr.isatty():
            print(f"\r{args.out}: {100 * (i + 1) // len(matrices)} %", end="", file=sys.stderr, flush=True)
    w.close()
    print(f"{args.out}: {args.shape} {args.type}", file=sys.stderr)


if __name__ == "__main__":
    main()
