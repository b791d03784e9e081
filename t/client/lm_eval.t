#!/usr/bin/env python3
"""lm_eval.t - lm-eval's local-completions and local-chat-completions, against transformers for the same checkpoint.

The tasks of lm_eval/ run twice: over HTTP with our server, and with lm-eval's own model "hf". Log-likelihoods of each answer must be
equal within the tolerance, and so must whether it is greedy and the texts.
"""
import harness

harness.environment("venv-tgi")
import logging  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import warnings  # noqa: E402

import tap  # noqa: E402
from harness import ROOT, TOLERANCE, equal  # noqa: E402

CONF = """
    llm_model llama { weights {root}/t/fixtures/models/llama; kv_cache 16m f32; threads 1; }
    llm_model smollm2 { weights {root}/t/fixtures/models/smollm2; kv_cache 16m f32; threads 1; }
    llm_model qwen3 { weights {root}/t/fixtures/models/qwen3; kv_cache 16m f32; threads 1; }
    llm_model plain { weights {root}/t/fixtures/models/smollm2; kv_cache 16m f32; threads 1; template plain.jinja; }
    server {
        listen 127.0.0.1:{port};
        location /llama { llm_pass llama; }
        location /smollm2 { llm_pass smollm2; }
        location /qwen3 { llm_pass qwen3; }
        location /plain { llm_pass plain; }
    }
"""
MODELS = ["llama", "smollm2"]
MAX_LENGTH = 256

home = tempfile.TemporaryDirectory(prefix="llm-lm-eval-")
os.environ.update(HF_HOME=home.name, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OPENAI_API_KEY="")
os.chdir(ROOT)    # the data files of the tasks are relative to it
warnings.simplefilter("ignore")
import lm_eval  # noqa: E402
import lm_eval.tasks  # noqa: E402

logging.disable(logging.ERROR)
sys.stderr = open(os.devnull, "w", encoding="utf-8")    # progress bars; what fails is told on standard output


def checkpoint(model):
    return os.path.join(ROOT, "t/fixtures/models", model)


def evaluate(kind, args, *tasks, **more):
    """Samples by task: what was asked, and the answers (log-likelihood, greedy) or texts."""
    manager = lm_eval.tasks.TaskManager(include_path=os.path.join(ROOT, "t/client/lm_eval"), include_defaults=False)
    out = lm_eval.simple_evaluate(model=kind, model_args=args, tasks=list(tasks), task_manager=manager, batch_size=4,
                                  log_samples=True, bootstrap_iters=0, **more)
    return out["samples"], out["results"]


def over_http(s, model, **more):
    """The special tokens that the tokenizer adds by itself, as "hf" does without being asked."""
    return {"model": model, "base_url": f"{s.url}/{model}/v1/completions", "tokenizer": checkpoint(model),
            "tokenizer_backend": "huggingface", "add_bos_token": True, "max_length": MAX_LENGTH, "num_concurrent": 4,
            **more}


def by_transformers(model, *tasks):
    return evaluate("hf", {"pretrained": checkpoint(model), "dtype": "float32", "device": "cpu",
                           "max_length": MAX_LENGTH}, *tasks)


def answers(samples, task):
    """By document and answer, in a fixed order."""
    return [sample["filtered_resps"] for sample in sorted(samples[task], key=lambda x: x["doc_id"])]


def texts(samples):
    """Without an unfinished character at the end, which we do not send."""
    return [x[0].rstrip("\ufffd") for x in answers(samples, "llm_generate")]


def same_likelihoods(got, want):
    equal(len(got), len(want))
    compared = 0
    for doc, (g, w) in enumerate(zip(got, want)):
        equal(len(g), len(w))
        for i, (a, b) in enumerate(zip(g, w)):
            a, b = (x if isinstance(x, (list, tuple)) else (x, None) for x in (a, b))
            assert abs(a[0] - b[0]) <= TOLERANCE, f"document {doc}, answer {i}: {a[0]}, want {b[0]}"
            equal(a[1], b[1], f"document {doc}, answer {i}: greedy")
            compared += 1
    assert compared >= 5, compared


def test_choice(s):
    """local-completions: log-likelihoods of answers, and whether they are greedy"""
    for model in MODELS:
        want, want_results = by_transformers(model, "llm_choice")
        ways = [{}, {"num_concurrent": 1}]
        if model == "smollm2":    # the client never asks the remote tokenizer for special tokens; this one adds none
            ways.append({"tokenizer_backend": "auto", "tokenizer": None})
        for more in ways:
            got, results = evaluate("local-completions", over_http(s, model, **more), "llm_choice")
            same_likelihoods(answers(got, "llm_choice"), answers(want, "llm_choice"))
            equal(results["llm_choice"]["acc,none"], want_results["llm_choice"]["acc,none"], "accuracy")


def test_greedy(s):
    """local-completions: some answers are greedy: the reference's own continuations"""
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    for model in MODELS:
        lm = LocalCompletionsAPI(**over_http(s, model))
        case = harness.reference(model)[0]
        n = 6
        right = (("", ""), case["input_ids"], case["greedy"]["ids"][:n])
        wrong = (("", ""), case["input_ids"], case["greedy"]["ids"][:n - 1] + [case["greedy"]["ids"][n]])
        got = lm._loglikelihood_tokens([right, wrong])
        assert abs(got[0][0] - sum(case["greedy"]["logprobs"][:n])) <= TOLERANCE, got
        equal([g[1] for g in got], [True, False])


def test_rolling(s):
    """local-completions: log-likelihoods of whole texts"""
    for model in MODELS:
        want, _ = by_transformers(model, "llm_rolling")
        got, _ = evaluate("local-completions", over_http(s, model), "llm_rolling")
        same_likelihoods(answers(got, "llm_rolling"), answers(want, "llm_rolling"))


def test_generate(s):
    """local-completions: greedy texts up to one of five stop strings"""
    for model in "smollm2", "qwen3":
        want, _ = by_transformers(model, "llm_generate")
        got, _ = evaluate("local-completions", over_http(s, model), "llm_generate")
        equal(texts(got), texts(want))


def test_chat(s):
    """local-chat-completions: greedy texts, through a template that writes the message alone"""
    want, _ = by_transformers("smollm2", "llm_generate")
    args = {"model": "plain", "base_url": f"{s.url}/plain/v1/chat/completions", "num_concurrent": 4,
            "max_length": MAX_LENGTH}
    got, _ = evaluate("local-chat-completions", args, "llm_generate", apply_chat_template=True)
    equal(texts(got), texts(want))


with harness.Server(CONF, {"plain.jinja": "{{ messages[0].content }}"}) as server:
    harness.run(globals(), server)
home.cleanup()
tap.done_testing()
