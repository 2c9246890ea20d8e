#!/usr/bin/env python3
"""make.py MODEL.gguf OUT.json: what llama.cpp says about twenty prompts, for the engine's tests.

Needs PyPI `llama-cpp-python`. For each prompt: its token ids, and, teacher-forced over prompt and a greedy
continuation, the most likely next token at each position with the distance of its logit to the second's.
Run it again only when the prompts change; the peer's version and the model's digest are recorded.
"""
import hashlib, json, sys
import llama_cpp
import numpy as np

CONTINUE = 24
LONG = "The harbour master wrote down every ship: its name, its cargo, the hour of its arrival. " * 40
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "fn main() {\n    let numbers = vec![1, 2, 3];\n    for n in &numbers {\n",
    "Water boils at 100 degrees Celsius, which is 212 degrees",
    "1, 1, 2, 3, 5, 8, 13, 21,",
    "Die Hauptstadt von Deutschland ist",
    "La capitale de l'Italie est Rome, et celle de l'Espagne est",
    "El perro corre por el parque y",
    "東京は日本の首都です。大阪は",
    "Привет! Как дела? Сегодня хорошая",
    "emoji: 😀 🎉 👩‍💻 and then",
    "   leading spaces,\t\ttabs\n\n\nand newlines   \n  ",
    "{\"name\": \"windlass\", \"version\": \"0.1.0\", \"tags\": [\"k8s\", ",
    "SELECT name, COUNT(*) FROM orders WHERE created_at > '2024-01-01' GROUP BY",
    "It's they're we'll I'd you've DON'T can't",
    "x = 3.14159 * 2.71828 + 1e-9 / 0x1F",
    "<|im_start|>user\nWhat is the largest planet?<|im_end|>\n<|im_start|>assistant\n",
    LONG,
    LONG + "On the last day of the year the master closed the book and",
]


def main():
    path, out = sys.argv[1:]
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    model = llama_cpp.Llama(path, n_ctx=2048, n_batch=512, n_threads=2, logits_all=True, verbose=False)
    cases = []
    for prompt in PROMPTS:
        # The models that want a BOS get one.
        ids = model.tokenize(prompt.encode(), add_bos=True, special=True)
        given = len(ids)
        model.reset()
        model.eval(ids)
        for _ in range(CONTINUE):
            token = int(np.argmax(model.scores[model.n_tokens - 1]))
            ids.append(token)
            model.eval([token])
        # Long prompts: every position of the continuation, and every seventh before it.
        kept = [i for i in range(len(ids)) if i >= given - 1 or given < 100 or i % 7 == 0]
        top = [np.partition(model.scores[i], -2)[-2:] for i in kept]
        cases.append({
            "prompt": prompt if len(prompt) < 400 else None,
            "tokens": ids,
            "given": given,
            "positions": kept,
            "top": [int(np.argmax(model.scores[i])) for i in kept],
            "gap": [round(float(best - second), 3) for second, best in top],
        })
    with open(out, "w") as file:
        json.dump({"model_sha256": digest.hexdigest(), "peer": f"llama-cpp-python {llama_cpp.__version__}", "cases": cases}, file, separators=(",", ":"))


main()
