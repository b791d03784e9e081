#!/usr/bin/env python3
"""Encodes the same texts with our tokenizer and with PyPI's `tokenizers`, in turn, on one thread, and prints MB/s and ratios.

    pip install tokenizers gguf
    make -C engine BUILD=$PWD/build lib
    python3 bench/tokenizer.py [--model FILE.gguf] [DIR ...]

DIR holds a tokenizer.json (default: three kinds of the fixtures, whose vocabularies are tiny). --model adds the byte-level
vocabulary of a GGUF file, which is what speed in practice depends on. Two loads: one long document, and the same text cut into
many short ones. The peer is measured both ways it can be called (encode_batch and encode_batch_fast, which leaves offsets out;
ours always makes them) and the better one counts. Ids are compared first: nothing is reported when they differ.
"""
import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
KINDS = ["llama3", "llama", "flan_nmt"]
SHORT = 300     # characters of a short text, about


def sample():
    """Prose, code and other scripts from the repository itself."""
    names = subprocess.run(["git", "-C", ROOT, "ls-files", "*.md", "*.c", "*.h", "*.py", "*.pl", "*.lua"],
                           capture_output=True, text=True, check=True).stdout.split()
    parts = []
    for name in names:
        with open(os.path.join(ROOT, name), encoding="utf-8", errors="replace") as f:
            parts.append(f.read())
    with open(os.path.join(ROOT, "t/fixtures/tokenizers/gpt2/expected_tokens.json"), encoding="utf-8") as f:
        parts += [item["text"] for item in json.load(f)["items"]] * 10
    return "\n".join(parts)


def cut(text):
    """Short texts that end at line ends."""
    out, buf, size = [], [], 0
    for line in text.splitlines(keepends=True):
        buf.append(line)
        size += len(line)
        if size >= SHORT:
            out.append("".join(buf))
            buf, size = [], 0
    return out + (["".join(buf)] if buf else [])


def from_gguf(path, out):
    """Writes the tokenizer.json that a byte-level GGUF vocabulary stands for."""
    from gguf import GGUFReader
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    fields = GGUFReader(path).fields

    def strings(key):
        return [bytes(fields[key].parts[i]).decode() for i in fields[key].data]

    pre = strings("tokenizer.ggml.pre")[0]
    if pre not in ("smollm", "starcoder", "gpt-2"):
        sys.exit(f"bench: pre-tokenizer {pre} is not known to this script")
    tokens = strings("tokenizer.ggml.tokens")
    types = [int(fields["tokenizer.ggml.token_type"].parts[i][0]) for i in fields["tokenizer.ggml.token_type"].data]
    merges = [tuple(m.split(" ")) for m in strings("tokenizer.ggml.merges")]
    tk = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(tokens)}, merges=merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tk.pre_tokenizer = byte_level if pre == "gpt-2" else pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level])
    tk.decoder = decoders.ByteLevel()
    tk.add_special_tokens([AddedToken(s, normalized=False) for s, kind in zip(tokens, types) if kind == 3])
    tk.save(os.path.join(out, "tokenizer.json"))


class Ours:
    def __init__(self, binary, directory, texts, scratch):
        records = os.path.join(scratch, "records")
        with open(records, "wb") as f:
            for t in texts:
                raw = t.encode()
                f.write(struct.pack("<I", len(raw)) + raw)
        self.p = subprocess.Popen([binary, directory, records], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        first = self.p.stdout.readline().split()
        if not first:
            sys.exit("bench: our tokenizer did not start, nothing is reported")
        self.load_ms = int(first[1]) / 1e6

    def run(self):
        self.p.stdin.write("\n")
        self.p.stdin.flush()
        ns, n, total = map(int, self.p.stdout.readline().split())
        return ns / 1e9, n, total

    def close(self):
        self.p.stdin.close()
        self.p.wait()


class Peer:
    def __init__(self, directory, texts, fast):
        from tokenizers import Tokenizer
        start = time.perf_counter()
        tk = Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
        self.load_ms = (time.perf_counter() - start) * 1e3
        self.texts, self.call = texts, tk.encode_batch_fast if fast else tk.encode_batch

    def run(self):
        start = time.perf_counter()
        out = self.call(self.texts)
        took = time.perf_counter() - start
        n = total = 0
        for e in out:
            ids = e.ids
            n += len(ids)
            for i in ids:
                total = (total * 31 + i) & 0xffffffff
        return took, n, total


def compare(name, binary, directory, load, texts, reps, scratch):
    size = sum(len(t.encode()) for t in texts) / 1e6
    sides = {"ours": Ours(binary, directory, texts, scratch), "encode_batch": Peer(directory, texts, False),
             "encode_batch_fast": Peer(directory, texts, True)}
    first = {k: s.run()[1:] for k, s in sides.items()}      # also warms the caches of all
    if len(set(first.values())) != 1:
        sys.exit(f"bench: {name}, {load}: tokens and checksums differ, nothing is reported: {first}")
    times = {k: [] for k in sides}
    for _ in range(reps):
        for k, s in sides.items():
            times[k].append(s.run()[0])
    speed = {k: size / statistics.median(v) for k, v in times.items()}
    sides["ours"].close()
    best = max(("encode_batch", "encode_batch_fast"), key=speed.get)
    print(f"{name:22} {load:6} {size:7.2f} MB {first['ours'][0]:8} tokens {speed['ours']:8.1f} MB/s "
          f"{speed[best]:8.1f} MB/s {speed['ours'] / speed[best]:6.1f}x   load {sides['ours'].load_ms:7.1f} ms "
          f"{sides[best].load_ms:7.1f} ms", flush=True)
    return {"name": name, "load": load, "mb": size, "tokens": first["ours"][0], "ours": speed["ours"], "peer": speed[best],
            "peer_call": best, "ratio": speed["ours"] / speed[best]}


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    ap.add_argument("dirs", nargs="*", metavar="DIR")
    ap.add_argument("--model", help="a GGUF file with a byte-level tokenizer")
    ap.add_argument("--text", help="a file to encode instead of the repository's own texts")
    ap.add_argument("--build", default=os.path.join(ROOT, "build"), help="folder of libllm.a (build)")
    ap.add_argument("--reps", type=int, default=7)
    ap.add_argument("--json")
    args = ap.parse_args()
    if args.text:
        with open(args.text, encoding="utf-8", errors="replace") as f:
            text = f.read()
    else:
        text = sample()
    import tokenizers
    with tempfile.TemporaryDirectory() as scratch:
        binary = os.path.join(scratch, "bench_tokenizer")
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-I", os.path.join(ROOT, "engine"), "-o", binary,
                        os.path.join(ROOT, "bench", "tokenizer.c"), os.path.join(args.build, "libllm.a"),
                        "-ljansson", "-lutf8proc", "-lpcre2-8", "-lm", "-pthread"], check=True)
        dirs = [(os.path.basename(d.rstrip("/")), d) for d in args.dirs or
                [os.path.join(ROOT, "t", "fixtures", "tokenizers", k) for k in KINDS]]
        # settings beside tokenizer.json are transformers' business, not the peer's: give both the same single file
        todo = []
        for name, d in dirs:
            alone = os.path.join(scratch, name)
            os.mkdir(alone)
            with open(os.path.join(d, "tokenizer.json"), "rb") as src, open(os.path.join(alone, "tokenizer.json"), "wb") as dst:
                dst.write(src.read())
            todo.append((name, alone))
        if args.model:
            alone = os.path.join(scratch, "model")
            os.mkdir(alone)
            from_gguf(args.model, alone)
            todo.insert(0, (os.path.basename(args.model)[:22], alone))
        print(f"{'tokenizer':22} {'load':6} {'text':>10} {'':15} {'ours':>13} {'tokenizers':>13} {'ratio':>7}   "
              f"(tokenizers {tokenizers.__version__}, one thread, medians of {args.reps})")
        rows = [compare(name, binary, d, load, texts, args.reps, scratch) for name, d in todo
                for load, texts in (("long", [text]), ("short", cut(text)))]
    if args.json:
        with open(args.json, "w", encoding="ascii") as f:
            json.dump(rows, f, indent=1)


if __name__ == "__main__":
    main()
