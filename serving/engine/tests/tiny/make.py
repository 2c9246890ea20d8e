#!/usr/bin/env python3
"""make.py: tiny models with random weights, one for each architecture, and what `transformers` computes with them.

Needs PyPI `torch`, `transformers` and `gguf`. For each model NAME.gguf and NAME.json beside this script: a prompt, the
most likely next token at each of its positions, and all logits at some. Weights are halves, so the file holds
exactly what was computed with, in f32. The windows are far shorter than the prompt.
Run it again only when a model changes; the versions are recorded.
"""
import json, pathlib
import gguf, torch, transformers

WIDTH, VOCABULARY, PROMPT, WINDOW = 32, 96, 300, 20
CONTEXT = 512
# Around the ends of the first window, of the first 256 positions, of the prompt.
POSITIONS = [0, 1, 18, 19, 20, 21, 100, 254, 255, 256, 257, 299]
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
CHAT = ("{{ bos_token }}{% for message in messages %}<start_of_turn>"
        "{{ 'model' if message.role == 'assistant' else message.role }}\n{{ message.content | trim }}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}")

COMMON = dict(vocab_size=VOCABULARY, hidden_size=WIDTH, max_position_embeddings=CONTEXT, attn_implementation="eager",
              bos_token_id=2, eos_token_id=1, pad_token_id=0, torch_dtype=torch.float32)
MODELS = {
    # The period of six layers, and one more; linear scaling, which must reach the sixth layer alone.
    "gemma3": transformers.Gemma3TextConfig(
        **COMMON, num_hidden_layers=7, intermediate_size=32, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        query_pre_attn_scalar=16, sliding_window=WINDOW, rms_norm_eps=1e-6,
        layer_types=["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
        rope_parameters={"full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}),
    # Heads that are larger than the width by their number.
    "qwen3": transformers.Qwen3Config(
        **COMMON, num_hidden_layers=2, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=24,
        rms_norm_eps=1e-6, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    "mistral": transformers.MistralConfig(
        **COMMON, num_hidden_layers=2, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        rms_norm_eps=1e-5, sliding_window=WINDOW, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4}),
}
ARCHITECTURES = {"gemma3": gguf.MODEL_ARCH.GEMMA3, "qwen3": gguf.MODEL_ARCH.QWEN3, "mistral": gguf.MODEL_ARCH.LLAMA}


def random_model(config):
    """Weights large enough that every part moves the logits."""
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    random = torch.Generator().manual_seed(7)
    for name, weight in model.named_parameters():
        values = torch.randn(weight.shape, generator=random)
        if weight.ndim == 1:
            values = values * 0.3 + (0.0 if config.model_type == "gemma3_text" else 1.0)
        elif "embed_tokens" in name:
            values = values * 0.3
        else:
            values = values * 1.2 / weight.shape[1] ** 0.5
        weight.data = values.half().float()
    return model


def interleaved(weight, heads):
    """Rotated pairs side by side, as files of the Llama family have them."""
    rows, cols = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def write(path, name, config, model):
    arch = ARCHITECTURES[name]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_name(f"tiny {name}")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if name != "qwen3":
        writer.add_sliding_window(WINDOW)
    add_tokenizer(writer)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for key, weight in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if arch == gguf.MODEL_ARCH.LLAMA and key.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in key else config.num_key_value_heads
            weight = interleaved(weight, heads)
        if arch == gguf.MODEL_ARCH.GEMMA3 and weight.ndim == 1:
            weight = weight + 1
        tensor = names.get_name(key, try_suffixes=(".weight",))
        values = weight.numpy()
        writer.add_tensor(tensor, values if weight.ndim == 1 else values.astype("float16"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer):
    ordinary = ["\u2581"] + [chr(code) for code in range(ord("!"), ord("~") + 1)]
    texts = (SPECIAL + ordinary)[:VOCABULARY]
    kinds = [gguf.TokenType.NORMAL] * VOCABULARY
    kinds[:len(SPECIAL)] = [gguf.TokenType.CONTROL] * len(SPECIAL)
    kinds[3] = gguf.TokenType.UNKNOWN
    writer.add_tokenizer_model("llama")
    writer.add_token_list(texts)
    writer.add_token_scores([-float(index) for index in range(VOCABULARY)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT)


def main():
    folder = pathlib.Path(__file__).parent
    versions = f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"
    for name, config in MODELS.items():
        model = random_model(config)
        write(folder / f"{name}.gguf", name, config, model)
        tokens = [2] + torch.randint(0, VOCABULARY, (PROMPT - 1,), generator=torch.Generator().manual_seed(8)).tolist()
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0]
        golden = {
            "peer": versions,
            "tokens": tokens,
            "top": logits.argmax(-1).tolist(),
            "logits": {str(at): [round(x, 4) for x in logits[at].tolist()] for at in POSITIONS},
        }
        with open(folder / f"{name}.json", "w") as file:
            json.dump(golden, file, separators=(",", ":"))
            file.write("\n")
        print(name, f"logits {logits.std():.2f} around their mean,", len(set(golden["top"])), "different best tokens")


main()
