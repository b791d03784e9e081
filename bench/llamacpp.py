#!/usr/bin/env python3
"""Prefill and decode speed of llama.cpp through the low-level API of llama-cpp-python; prints one JSON object.

What llama-bench calls pp N and tg N: a prompt of N tokens into an empty cache (logits of the last token only), and N
single-token steps that start with an empty cache or after a context. Token ids are a fixed arithmetic sequence: speed does not depend on them.
"""
import argparse
import ctypes
import json
import sys
import time

import llama_cpp as lc

WARM_UP = 32    # tokens
FLASH = {"auto": -1, "off": 0, "on": 1}


def fail(text):
    sys.exit(f"llamacpp.py: {text}")


def decode(ctx, tokens):
    batch = lc.llama_batch_get_one(tokens, len(tokens))
    code = lc.llama_decode(ctx, batch)
    if code != 0:
        fail(f"llama_decode of {len(tokens)} tokens returned {code}")


def best_id(ctx, n_vocab):
    """The arg-max of the last logits, in C: what a greedy sampler costs."""
    chain = lc.llama_sampler_init_greedy()
    token = lc.llama_sampler_sample(chain, ctx, -1)
    lc.llama_sampler_free(chain)
    if not 0 <= token < n_vocab:
        fail(f"sampled token {token} outside the vocabulary of {n_vocab}")
    return token


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--model", required=True)
    ap.add_argument("--threads", type=int, required=True)
    ap.add_argument("--prefill", default="128,512,2048")
    ap.add_argument("--decode", default="128")
    ap.add_argument("--context", default="0", help="contexts to decode after, in tokens")
    ap.add_argument("--reps", type=int, default=1)
    ap.add_argument("--flash", choices=FLASH, default="auto")
    ap.add_argument("--kv", choices=("f16", "q8_0"), default="f16")
    ap.add_argument("--no-repack", action="store_true")
    args = ap.parse_args()
    prefill = [int(x) for x in args.prefill.split(",") if x]
    steps = [int(x) for x in args.decode.split(",") if x]

    quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda level, text, data: None)
    lc.llama_log_set(quiet, None)
    lc.llama_backend_init()
    mp = lc.llama_model_default_params()
    mp.use_extra_bufts = not args.no_repack
    model = lc.llama_model_load_from_file(args.model.encode(), mp)
    if not model:
        fail(f"cannot load {args.model}")
    contexts = [int(x) for x in args.context.split(",") if x]
    longest = max(prefill + [WARM_UP]) + max(steps + [0]) + max(contexts + [0]) + 8
    cp = lc.llama_context_default_params()
    cp.n_ctx = longest
    cp.n_batch = longest
    cp.n_threads = cp.n_threads_batch = args.threads
    cp.flash_attn_type = FLASH[args.flash]
    cp.type_k = cp.type_v = {"f16": lc.GGML_TYPE_F16, "q8_0": lc.GGML_TYPE_Q8_0}[args.kv]
    cp.no_perf = True
    ctx = lc.llama_init_from_model(model, cp)
    if not ctx:
        fail("cannot make a context")
    memory = lc.llama_get_memory(ctx)
    n_vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(model))

    def ids(n):
        return (lc.llama_token * n)(*[(i * 7919 + 13) % n_vocab for i in range(n)])

    def run_prefill(n):
        lc.llama_memory_clear(memory, True)
        tokens = ids(n)
        start = time.perf_counter()
        decode(ctx, tokens)
        best_id(ctx, n_vocab)
        return n / (time.perf_counter() - start)

    def run_decode(n, context):
        lc.llama_memory_clear(memory, True)
        token = ids(1)
        if context > 0:
            decode(ctx, ids(context))
            token[0] = best_id(ctx, n_vocab)
        start = time.perf_counter()
        for _ in range(n):
            decode(ctx, token)
            token[0] = best_id(ctx, n_vocab)
        return n / (time.perf_counter() - start)

    run_prefill(min(prefill + [WARM_UP]))
    run_decode(4, 0)
    out = {"prefill": {}, "decode": {}, "version": lc.__version__,
           "system": lc.llama_print_system_info().decode().strip()}
    for n in prefill:
        out["prefill"][str(n)] = [run_prefill(n) for _ in range(args.reps)]
    for n in steps:
        for c in contexts:
            out["decode"][f"{n}@{c}" if c > 0 else str(n)] = [run_decode(n, c) for _ in range(args.reps)]
    print(json.dumps(out))


if __name__ == "__main__":
    main()
