//! What is not a good model file is refused with a message that names the place and the way out, before
//! memory is taken for it. No file panics.
mod support;

use std::io::{Read, Write};
use std::path::Path;

use support::gguf::{GgufBytes, TensorBytes, tiny_llama};
use windlass_engine::load::gguf::Gguf;
use windlass_engine::request::{EngineOptions, Event, FinishReason, KvType, Request, RequestId, Sampling};
use windlass_engine::{Engine, LoadError};

fn options() -> EngineOptions {
    EngineOptions {
        threads: 1,
        context_length: None,
        max_sequences: 2,
        max_batch_tokens: 16,
        memory_limit: None,
        block_tokens: 16,
        kv_type: KvType::F16,
        speculate: 0,
        pacing: None,
    }
}

fn load_with(bytes: &[u8], options: &EngineOptions) -> Result<Engine, LoadError> {
    let mut file = tempfile::Builder::new()
        .prefix("model")
        .suffix(".gguf")
        .tempfile()
        .expect("a file");
    file.write_all(bytes).expect("written");
    Engine::load(file.path(), options)
}

/// Why a file is refused; the message must hold all of `parts`.
#[track_caller]
fn refused(bytes: &[u8], parts: &[&str]) {
    let Err(error) = load_with(bytes, &options()) else {
        panic!("the file is accepted")
    };
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

/// As `refused`, for the tiny model after a change; the message must also name the file.
#[track_caller]
fn refused_after(change: impl Fn(&mut GgufBytes), parts: &[&str]) {
    let mut file = tiny_llama();
    change(&mut file);
    refused(&file.bytes(), parts);
    refused(&file.bytes(), &["model", ".gguf: "]);
}

fn tensor<'a>(file: &'a mut GgufBytes, name: &str) -> &'a mut TensorBytes {
    file.tensors
        .iter_mut()
        .find(|tensor| tensor.name == name)
        .expect("the tensor is there")
}

#[test]
fn the_file_that_the_others_are_made_from_loads() {
    let engine = load_with(&tiny_llama().bytes(), &options()).expect("a good file");
    let info = engine.info();
    assert_eq!(
        (
            info.name.as_str(),
            info.architecture.as_str(),
            info.quantization.as_str()
        ),
        ("tiny", "llama", "F32")
    );
    assert_eq!((info.context_length, info.vocab_size, info.threads), (64, 259, 1));
}

#[test]
fn a_file_that_is_not_there_or_no_file_is_named() {
    for path in ["/no/such/model.gguf", "/"] {
        let error = Engine::load(Path::new(path), &options())
            .expect_err("refused")
            .to_string();
        assert!(error.starts_with(&format!("{path}: cannot ")), "{error}");
    }
}

#[test]
fn something_else_than_a_gguf_file_is_refused_with_what_it_begins_with() {
    refused(
        b"Hello, I am a text file.\n",
        &["is not a GGUF file", "\"Hell\"", "--model"],
    );
    refused(b"", &["is not a GGUF file"]);
    refused(b"GG", &["is not a GGUF file"]);
}

#[test]
fn other_versions_and_byte_orders_are_refused_by_name() {
    refused_after(|file| file.version = 1, &["is GGUF version 1"]);
    refused_after(|file| file.version = 3u32.swap_bytes(), &["big-endian"]);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = tiny_llama().bytes();
    for length in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
        let Err(error) = load_with(&whole[..length], &options()) else {
            panic!("cut at {length}: accepted")
        };
        let message = error.to_string();
        let told = ["is cut short", "is not a GGUF file", "more than the"]
            .iter()
            .any(|part| message.contains(part));
        assert!(told, "cut at {length}: {message}");
    }
}

#[test]
fn counts_beyond_the_file_take_no_memory() {
    for huge in [u64::MAX, 1 << 40, 1 << 20] {
        refused_after(
            |file| file.entry_count = Some(huge),
            &[&huge.to_string(), "metadata entries"],
        );
        refused_after(|file| file.tensor_count = Some(huge), &[&huge.to_string(), "tensors"]);
        refused_after(
            |file| {
                file.array("x", 8, huge, vec![]);
            },
            &[&huge.to_string(), "`x`"],
        );
        refused_after(
            |file| {
                file.array("x", 0, huge, vec![]);
            },
            &[&huge.to_string(), "`x`"],
        );
        refused_after(
            |file| {
                file.entry("x", 8, huge.to_le_bytes().into());
            },
            &["x"],
        );
    }
}

#[test]
fn a_head_that_is_really_there_but_too_large_takes_no_more_memory_than_any_head_may() {
    const TEXT: u64 = 1 << 24;
    let mut file = GgufBytes::new();
    file.entry_count = Some(1 << 10);
    let head = file.bytes()[..24].to_vec();
    let mut stream: Box<dyn Read> = Box::new(std::io::Cursor::new(head));
    for index in 0..64 {
        let mut entry = GgufBytes::new();
        entry.entry(&format!("key-{index}"), 8, TEXT.to_le_bytes().into());
        let entry = std::io::Cursor::new(entry.bytes()[24..24 + 8 + format!("key-{index}").len() + 12].to_vec());
        stream = Box::new(stream.chain(entry).chain(std::io::repeat(b'a').take(TEXT)));
    }
    let error = Gguf::parse(&mut stream, 1 << 40, Path::new("large.gguf")).expect_err("refused");
    assert!(error.to_string().contains("bytes before its tensors"), "{error}");
}

#[test]
fn combinations_of_extreme_sampling_settings_answer() {
    let mut engine = load_with(&tiny_llama().bytes(), &options()).expect("a good file");
    let mut id = 0;
    for temperature in [0.0, f32::from_bits(1), f32::MIN_POSITIVE, 1.0, 2.0] {
        for top_p in [f32::MIN_POSITIVE, 0.5, 1.0] {
            for top_k in [0, 1, usize::MAX] {
                for seed in [0, u64::MAX] {
                    id += 1;
                    let sampling = Sampling {
                        temperature,
                        top_p,
                        top_k,
                        seed,
                        ..Sampling::default()
                    };
                    let request = Request {
                        id: RequestId(id),
                        prompt: vec![1, 2, 3],
                        max_tokens: usize::MAX,
                        sampling,
                        ignore_eos: true,
                        cache_salt: 0,
                        priority: 0,
                        constraint: None,
                        prompt_logprobs: None,
                    };
                    engine.submit(request.clone()).expect("it fits");
                    let mut events = Vec::new();
                    while engine.has_work() {
                        engine.step(&mut events);
                    }
                    let tokens = events
                        .iter()
                        .filter(|event| matches!(event, Event::Token { .. }))
                        .count();
                    assert_eq!(tokens, 64 - 3, "{request:?}");
                }
            }
        }
    }
}

#[test]
fn entries_that_break_the_format_are_named() {
    refused_after(
        |file| {
            file.u32("llama.block_count", 1);
        },
        &["`llama.block_count` is there twice"],
    );
    refused_after(
        |file| {
            file.array("x", 9, 1, vec![0; 12]);
        },
        &["`x`", "array of arrays"],
    );
    refused_after(
        |file| {
            file.array("x", 77, 1, vec![0; 12]);
        },
        &["`x`", "unknown type 77"],
    );
    refused_after(
        |file| {
            file.entry("x", 13, vec![0; 8]);
        },
        &["`x`", "unknown type 13"],
    );
    refused_after(
        |file| {
            file.entry("x", 7, vec![2]);
        },
        &["`x`", "neither 0 nor 1"],
    );
    refused_after(
        |file| {
            file.entry("x", 8, [&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat());
        },
        &["x", "UTF-8"],
    );
    for alignment in [0, 33, u32::MAX] {
        refused_after(
            |file| {
                file.u32("general.alignment", alignment);
            },
            &["`general.alignment`", "power of two"],
        );
    }
}

#[test]
fn tensors_that_break_the_format_are_named() {
    const NAME: &str = "blk.0.attn_q.weight";
    let change = |change: fn(&mut TensorBytes), parts: &[&str]| {
        let parts = [&["`blk.0.attn_q.weight`"], parts].concat();
        refused_after(|file| change(tensor(file, NAME)), &parts);
    };
    change(|tensor| tensor.dims = vec![], &["0 dimensions"]);
    change(|tensor| tensor.dims = vec![2; 5], &["5 dimensions"]);
    change(|tensor| tensor.dims = vec![16, 0], &["empty shape"]);
    change(
        |tensor| tensor.dims = vec![1 << 40, 1 << 40],
        &["more than a file can hold"],
    );
    change(|tensor| tensor.dims = vec![16, 1 << 40], &["is cut short"]);
    change(|tensor| tensor.kind = 4, &["type number 4"]);
    change(|tensor| tensor.kind = 999, &["type number 999"]);
    change(|tensor| tensor.kind = 8, &["rows of 16 values", "Q8_0", "32"]);
    change(|tensor| tensor.offset = Some(1), &["alignment"]);
    change(|tensor| tensor.offset = Some(1 << 40), &["is cut short"]);
    change(|tensor| tensor.offset = Some(u64::MAX - 31), &["is cut short"]);
    refused_after(
        |file| {
            let copy = tensor(file, NAME).clone();
            file.tensors.push(copy);
        },
        &["`blk.0.attn_q.weight` is there twice"],
    );
}

#[test]
fn tensors_that_do_not_make_the_model_are_named() {
    for name in [
        "token_embd.weight",
        "output_norm.weight",
        "blk.0.attn_k.weight",
        "blk.0.ffn_down.weight",
    ] {
        refused_after(
            |file| file.tensors.retain(|tensor| tensor.name != name),
            &[&format!("no tensor `{name}`")],
        );
    }
    refused_after(
        |file| tensor(file, "blk.0.ffn_up.weight").dims = vec![24, 16],
        &["`blk.0.ffn_up.weight`", "[24, 16]", "[16, 24]"],
    );
    refused_after(
        |file| tensor(file, "blk.0.attn_norm.weight").kind = 26,
        &["`blk.0.attn_norm.weight`", "type I32"],
    );
}

#[test]
fn numbers_that_make_no_model_are_named() {
    let number = |key: &str, value: u32, part: &str| {
        let key = format!("llama.{key}");
        refused_after(
            |file| {
                file.replace(|file| {
                    file.u32(&key, value);
                });
            },
            &[&format!("`{key}`"), part],
        );
    };
    number("attention.head_count", 0, "is 0");
    number("attention.head_count", 3, "does not divide");
    number("attention.head_count_kv", 0, "is 0");
    number("attention.head_count_kv", 3, "does not divide");
    number("attention.value_length", 12, "multiple of 8");
    number("attention.value_length", 16, "equal the key length");
    number("block_count", 0, "is 0");
    number("block_count", u32::MAX, "1 to");
    number("embedding_length", 0, "is 0");
    number("context_length", 0, "is 0");
    number("rope.dimension_count", 7, "even");
    number("rope.dimension_count", 10, "not above");
    number("expert_count", 8, "mixtures of experts");
    for wrong in [-1.0, f32::NAN, f32::INFINITY] {
        for key in ["attention.layer_norm_rms_epsilon", "rope.freq_base"] {
            let part = if key == "rope.freq_base" {
                "frequency base"
            } else {
                "not a positive number"
            };
            let key = format!("llama.{key}");
            refused_after(
                |file| {
                    file.replace(|file| {
                        file.f32(&key, wrong);
                    });
                },
                &[part],
            );
        }
        refused_after(
            |file| {
                file.text("llama.rope.scaling.type", "linear");
                file.f32("llama.rope.scaling.factor", wrong);
            },
            &["`llama.rope.scaling.factor`"],
        );
    }
    refused_after(
        |file| {
            file.text("llama.rope.scaling.type", "yarn");
        },
        &["`llama.rope.scaling.type`", "`yarn`"],
    );
}

#[test]
fn metadata_of_the_wrong_type_or_missing_is_named() {
    refused_after(
        |file| {
            file.replace(|file| {
                file.text("llama.block_count", "one");
            });
        },
        &["`llama.block_count`", "is a text"],
    );
    refused_after(
        |file| file.entries.retain(|(key, ..)| key != "general.architecture"),
        &["`general.architecture`"],
    );
    refused_after(
        |file| file.entries.retain(|(key, ..)| key != "tokenizer.ggml.tokens"),
        &["`tokenizer.ggml.tokens`"],
    );
    refused_after(
        |file| {
            file.replace(|file| {
                file.text("general.architecture", "mamba");
            });
        },
        &["`mamba`", "llama, qwen2"],
    );
}

#[test]
fn tokenizers_that_cannot_be_are_named() {
    let replaced = |change: fn(&mut GgufBytes), parts: &[&str]| {
        refused_after(
            |file| {
                file.replace(change);
            },
            parts,
        );
    };
    replaced(
        |file| {
            file.text("tokenizer.ggml.model", "wordpiece");
        },
        &["`wordpiece`"],
    );
    replaced(
        |file| {
            file.text("tokenizer.ggml.pre", "chameleon");
        },
        &["`chameleon`", "smollm"],
    );
    replaced(
        |file| {
            file.i32s("tokenizer.ggml.token_type", &[1, 1]);
        },
        &["2 entries for 259 tokens"],
    );
    replaced(
        |file| {
            file.i32s("tokenizer.ggml.token_type", &[9; 259]);
        },
        &["`tokenizer.ggml.token_type`"],
    );
    replaced(
        |file| {
            file.u32("tokenizer.ggml.eos_token_id", 259);
        },
        &["is 259", "259 tokens"],
    );
    replaced(
        |file| {
            file.texts("tokenizer.ggml.merges", &["a b"]);
        },
        &["entry 0", "`ab`"],
    );
    replaced(
        |file| {
            file.texts("tokenizer.ggml.merges", &["ab"]);
        },
        &["is not two texts"],
    );
    replaced(
        |file| {
            file.text("tokenizer.chat_template", "{% if %}");
        },
        &["chat template", "not valid Jinja"],
    );
    replaced(
        |file| {
            file.text("tokenizer.chat_template", &"x".repeat(1 << 21));
        },
        &["chat template", "2097152 bytes"],
    );
}

#[test]
fn a_vocabulary_of_another_size_than_the_embedding_is_refused() {
    refused_after(
        |file| {
            let tensor = tensor(file, "token_embd.weight");
            tensor.dims[1] -= 1;
        },
        &["`token_embd.weight`", "[16, 258]", "[16, 259]"],
    );
}

#[test]
fn weights_that_are_not_finite_end_the_request_and_nothing_else() {
    let mut file = tiny_llama();
    // Token 7 alone is broken.
    tensor(&mut file, "token_embd.weight").data[7 * 16 * 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    file.tensor("output.weight", &[16, 259], &[0.5; 16 * 259]);
    let mut engine = load_with(&file.bytes(), &options()).expect("the file is well-formed");
    let sampling = Sampling::default();
    for (id, token) in [(1, 7), (2, 8)] {
        let prompt = vec![token; 3];
        let sampling = sampling.clone();
        let request = Request {
            id: RequestId(id),
            prompt,
            max_tokens: 2,
            sampling,
            ignore_eos: true,
            cache_salt: 0,
            priority: 0,
            constraint: None,
            prompt_logprobs: None,
        };
        engine.submit(request).expect("fits");
    }
    let mut events = Vec::new();
    while engine.has_work() {
        engine.step(&mut events);
    }
    let reason = |wanted: u64| {
        events.iter().find_map(|event| match event {
            Event::Finished { id, reason, .. } if id.0 == wanted => Some(*reason),
            _ => None,
        })
    };
    assert_eq!(
        (reason(1), reason(2)),
        (Some(FinishReason::NonFinite), Some(FinishReason::Length))
    );
}

proptest::proptest! {
    #[test]
    fn no_damage_to_a_file_makes_the_engine_panic(
        places in proptest::collection::vec((0usize..20_000, proptest::prelude::any::<u8>()), 1..8),
    ) {
        let mut bytes = tiny_llama().bytes();
        // Most of the head, and the place where the tensors begin.
        let head = bytes.len().min(20_000);
        for (place, byte) in places {
            bytes[place % head] = byte;
        }
        // Either outcome is right: the damage may lie in a weight or a name.
        if let Ok(mut engine) = load_with(&bytes, &options()) {
            let sampling = Sampling::default();
            let request = Request { id: RequestId(1), prompt: vec![1, 2], max_tokens: 1, sampling, ignore_eos: true, cache_salt: 0, priority: 0, constraint: None, prompt_logprobs: None };
            // The damage may have made the context too short even for this.
            if engine.submit(request).is_ok() {
                engine.step(&mut Vec::new());
            }
        }
    }
}
