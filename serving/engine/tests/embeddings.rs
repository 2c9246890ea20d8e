//! The embedder on a real model: against sentence-transformers (goldens/make-embeddings.py), against itself in other
//! company, and against folders that are not what they should be.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#[path = "support/cache.rs"]
mod cache;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use windlass_engine::embed::{EmbedError, Embedder, EmbedderOptions, Precision};

fn model() -> PathBuf {
    cache::model("all-MiniLM-L6-v2")
}

fn options(precision: Precision, threads: usize) -> EmbedderOptions {
    EmbedderOptions {
        threads,
        precision,
        max_length: None,
        memory_limit: None,
    }
}

fn load(precision: Precision, threads: usize) -> Embedder {
    Embedder::load(&model(), &options(precision, threads)).unwrap()
}

struct Case {
    text: String,
    tokens: Vec<u32>,
    vector: Option<Vec<f64>>,
}

fn cases() -> Vec<Case> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/all-minilm-l6-v2.json");
    let goldens: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let case = |case: &Value| Case {
        text: case["text"].as_str().unwrap().to_owned(),
        tokens: serde_json::from_value(case["tokens"].clone()).unwrap(),
        vector: serde_json::from_value(case["vector"].clone()).unwrap(),
    };
    goldens["cases"].as_array().unwrap().iter().map(case).collect()
}

#[test]
fn tokens_are_those_of_the_tokenizers_library() {
    let tokenizer = load(Precision::F32, 1).tokenizer();
    for case in cases() {
        assert_eq!(tokenizer.encode(&case.text), case.tokens, "{:?}", case.text);
    }
}

#[test]
fn vectors_are_those_of_sentence_transformers() {
    for (precision, least) in [(Precision::F32, 0.999_999), (Precision::Int8, 0.995)] {
        let mut embedder = load(precision, 2);
        assert_eq!((embedder.info().dimensions, embedder.info().max_length), (384, 256));
        let cases: Vec<Case> = cases().into_iter().filter(|case| case.vector.is_some()).collect();
        assert!(cases.len() > 12);
        let inputs: Vec<&[u32]> = cases.iter().map(|case| case.tokens.as_slice()).collect();
        for (case, vector) in cases.iter().zip(embedder.embed(&inputs)) {
            let cosine: f64 = vector
                .unwrap()
                .iter()
                .zip(case.vector.as_ref().unwrap())
                .map(|(&x, y)| f64::from(x) * y)
                .sum();
            assert!(cosine >= least, "{precision:?}, {:?}: {cosine}", case.text);
            assert!(cosine <= 1.0 + 1e-5, "a vector has the length 1");
        }
    }
}

#[test]
fn vectors_do_not_depend_on_threads_or_company() {
    for precision in [Precision::F32, Precision::Int8] {
        let cases: Vec<Case> = cases().into_iter().filter(|case| case.tokens.len() <= 256).collect();
        let inputs: Vec<&[u32]> = cases.iter().map(|case| case.tokens.as_slice()).collect();
        let together = load(precision, 2).embed(&inputs);
        let mut alone = load(precision, 1);
        for (input, want) in inputs.iter().zip(together) {
            let got = alone.embed(&[input]).remove(0).unwrap();
            assert_eq!(got, want.unwrap(), "{precision:?}, {} tokens", input.len());
        }
    }
}

#[test]
fn inputs_that_cannot_be_computed_are_refused_alone() {
    let mut embedder = load(Precision::F32, 2);
    let long = vec![7; 257];
    let vectors = embedder.embed(&[&[], &long, &[101, 30_522], &[101, 7592, 102]]);
    let limit = EmbedError::TooLong {
        tokens: 257,
        limit: 256,
    };
    let errors: Vec<Option<EmbedError>> = vectors.into_iter().map(Result::err).collect();
    let want = [
        Some(EmbedError::Empty),
        Some(limit),
        Some(EmbedError::InvalidToken(30_522)),
        None,
    ];
    assert_eq!(errors, want);
}

/// A copy of the model's small files, with its weights linked.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
    for file in [
        "config.json",
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
        "tokenizer.json",
    ] {
        std::fs::copy(model().join(file), folder.path().join(file)).unwrap();
    }
    std::os::unix::fs::symlink(
        model().join("model.safetensors"),
        folder.path().join("model.safetensors"),
    )
    .unwrap();
    folder
}

fn change(folder: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = folder.join(file);
    let mut value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

fn refusal(folder: &Path) -> String {
    Embedder::load(folder, &options(Precision::Int8, 1))
        .unwrap_err()
        .to_string()
}

#[test]
fn a_folder_that_asks_for_what_we_do_not_do_is_refused_by_name() {
    for (key, value, words) in [
        ("architectures", json!(["XLMRobertaModel"]), "XLMRobertaModel"),
        ("hidden_act", json!("relu"), "relu"),
        ("position_embedding_type", json!("relative_key"), "relative_key"),
        ("num_attention_heads", json!(7), "7 heads"),
        ("hidden_size", json!(0), "hidden_size of 0"),
        ("intermediate_size", json!(1_u64 << 40), "intermediate_size of"),
        ("layer_norm_eps", json!(-1.0), "layer_norm_eps"),
        (
            "num_hidden_layers",
            json!(7),
            "has no tensor `encoder.layer.6.attention.self.query.weight`",
        ),
        (
            "intermediate_size",
            json!(1024),
            "has the shape [1536, 384], and [1024, 384] is needed",
        ),
        ("vocab_size", json!(30_000), "a token 30521"),
    ] {
        let folder = copy();
        change(folder.path(), "config.json", |config| config[key] = value);
        let refusal = refusal(folder.path());
        assert!(refusal.contains(words), "{key}: {refusal}");
    }
    let folder = copy();
    change(folder.path(), "1_Pooling/config.json", |pooling| {
        pooling["pooling_mode_max_tokens"] = json!(true)
    });
    assert!(refusal(folder.path()).contains("max_tokens"));
    change(folder.path(), "modules.json", |modules| {
        modules[2]["type"] = json!("sentence_transformers.models.Dense")
    });
    assert!(refusal(folder.path()).contains("Dense"));
    change(folder.path(), "modules.json", |modules| {
        modules.as_array_mut().unwrap().pop();
        modules[1]["path"] = json!("../1_Pooling");
    });
    assert!(refusal(folder.path()).contains("has the path ../1_Pooling"));
    change(folder.path(), "config.json", |config| {
        config["hidden_act"] = json!("é".repeat(100_000));
    });
    let long = refusal(folder.path());
    assert!(long.contains("éé…") && long.len() < 500, "{} bytes", long.len());
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    assert!(refusal(folder.path()).contains("config.json: cannot read it"));
}

#[test]
fn options_that_cannot_be_are_refused() {
    let load = |max_length, memory_limit| {
        let options = EmbedderOptions {
            max_length,
            memory_limit,
            ..options(Precision::F32, 1)
        };
        Embedder::load(&model(), &options)
            .map(|embedder| embedder.info().max_length)
            .map_err(|error| error.to_string())
    };
    assert_eq!(load(Some(512), None), Ok(512));
    assert!(load(Some(513), None).unwrap_err().contains("512 positions"));
    assert!(load(None, Some(64 << 20)).unwrap_err().contains("does not fit"));
}
