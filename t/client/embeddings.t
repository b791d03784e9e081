#!/usr/bin/env python3
"""embeddings.t - POST /v1/embeddings of several families against the hidden states that transformers computes."""
import harness

harness.environment("venv-tgi")
import os  # noqa: E402

import requests  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

import tap  # noqa: E402
from harness import near  # noqa: E402

MODELS = ["llama", "smollm2", "qwen3", "gemma2", "gpt2", "gpt_neox", "phi", "mistral"]
TOLERANCE = 2e-3    # of vectors of length 1
CONF = "".join(f"    llm_model {m} {{ weights {{root}}/t/fixtures/models/{m}; kv_cache 16m f32; threads 1; }}\n" for m in MODELS) + """
    server {
        listen 127.0.0.1:{port};
""" + "".join(f"        location /{m}/mean {{ llm_pass {m}; }}\n"
              f"        location /{m}/last {{ llm_pass {m}; llm_embedding_pooling last; }}\n" for m in MODELS) + "    }\n"


def hidden(path, ids):
    """Hidden states of a prompt after the final norm, in float32."""
    model = transformers.AutoModel.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return [model(torch.tensor([x])).last_hidden_state[0] for x in ids]


def embeddings(s, model, pooling, ids):
    r = requests.post(f"{s.url}/{model}/{pooling}/v1/embeddings", json={"input": ids}, timeout=60)
    assert r.status_code == 200, r.text
    return [d["embedding"] for d in r.json()["data"]]


def compare(s, model):
    ids = [case["input_ids"] for case in harness.reference(model)]
    states = hidden(os.path.join(harness.ROOT, "t/fixtures/models", model), ids)
    for pooling, pool in ("mean", lambda h: h.mean(0)), ("last", lambda h: h[-1]):
        for got, h in zip(embeddings(s, model, pooling, ids), states):
            near(got, torch.nn.functional.normalize(pool(h), dim=0).tolist(), f"{model} {pooling}", TOLERANCE)


with harness.Server(CONF) as server:
    harness.run({f"test_{m}": harness.case(f"{m}: means and last states", compare, m) for m in MODELS}, server)
tap.done_testing()
