#!/usr/bin/env python3
"""make-embeddings.py FOLDER OUT.json: what sentence-transformers says about some texts, for the engine's tests.

Needs PyPI `sentence-transformers` (with PyTorch) and `tokenizers`. For each text: its tokens, without truncation, and,
where these fit into the model's limit, its vector in f32. Run it again only when the texts change.
"""
import json, sys
import sentence_transformers, tokenizers, torch

LONG = "The harbour master wrote down every ship: its name, its cargo, the hour of its arrival. "
TEXTS = [
    "Hello",
    "The capital of France is Paris.",
    "A man is eating a piece of bread.",
    "Kubernetes operators reconcile the desired and the observed state until both agree.",
    "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n",
    "Caf\u00e9 na\u00efve fa\u00e7ade \u00c5ngstr\u00f6m \u0130stanbul STRASSE \u00df \u1e9e",
    "\u6771\u4eac\u306f\u65e5\u672c\u306e\u9996\u90fd\u3067\u3059\u3002 \ud55c\uad6d\uc5b4 \u4e2d\u6587",
    "\u041f\u0440\u0438\u0432\u0435\u0442! \u041a\u0430\u043a \u0434\u0435\u043b\u0430? \u0395\u03bb\u03bb\u03ac\u03b4\u03b1 \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "emoji: \U0001f600 \U0001f389 \U0001f469\u200d\U0001f4bb and \U0001fae8 then",
    "  leading,\t\ttabs\r\n\nand\u00a0odd\u2003spaces\u200b\ufeff and\u00adhyphens \u2028 end  ",
    "It's they're we'll I'd \u201cquoted\u201d \u2014 don\u2019t (x+y)^2 = $5.00 \u20ac7 ~`|<>@#%&*_",
    "[CLS] and [SEP] are [MASK] tokens, [cls] is not; [SEP][SEP]",
    "x\u0000y\u0007z \ufffd \ue000 \u0378 \U000e0001 w\u0301\u0323 \u1e69",
    "pneumonoultramicroscopicsilicovolcanoconiosis " + "a" * 100 + " " + "b" * 101,
    "",
    " ",
    "7",
    LONG * 6,
    LONG * 12,
    LONG * 40,
]


def main():
    folder, out = sys.argv[1:]
    model = sentence_transformers.SentenceTransformer(folder, device="cpu")
    tokenizer = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    cases = []
    for text in TEXTS:
        tokens = tokenizer.encode(text).ids
        vector = None
        if len(tokens) <= model.max_seq_length:
            vector = [round(x, 7) for x in model.encode(text).tolist()]
        cases.append({"text": text, "tokens": tokens, "vector": vector})
    peer = f"sentence-transformers {sentence_transformers.__version__}, tokenizers {tokenizers.__version__}, PyTorch {torch.__version__}"
    with open(out, "w") as file:
        json.dump({"peer": peer, "cases": cases}, file, separators=(",", ":"))
        file.write("\n")


main()
