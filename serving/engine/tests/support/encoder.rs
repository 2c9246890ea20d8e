//! The folder of a tiny encoder, right and wrong, and how a folder lies in one file of bytes.
#![allow(dead_code, reason = "each test file uses its part")]

/// The files of a folder, in the order in which their bytes lie in one file. Weights are first, so that a safetensors
/// file alone is such a file, too.
pub const FILES: [&str; 6] = [
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
];
/// Between them, and before the text to embed, which is last. What is empty or missing is that of the tiny encoder.
pub const SEPARATOR: &[u8] = b"\n====\n";

/// Reads no text but what its vocabulary of 11 tokens spells.
pub const CONFIG: &str = r#"{"architectures":["BertModel"],"hidden_size":4,"num_hidden_layers":1,
"num_attention_heads":2,"intermediate_size":8,"hidden_act":"gelu","max_position_embeddings":16,"type_vocab_size":2,
"vocab_size":11,"layer_norm_eps":1e-12}"#;
/// A word has 8 characters at most.
pub const TOKENIZER: &str = r###"{"added_tokens":[{"id":1,"content":"[CLS]"},{"id":2,"content":"[SEP]"}],
"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},
"pre_tokenizer":{"type":"BertPreTokenizer"},
"post_processor":{"type":"TemplateProcessing",
"single":[{"SpecialToken":{"id":"[CLS]"}},{"Sequence":{"id":"A"}},{"SpecialToken":{"id":"[SEP]"}}],
"special_tokens":{"[CLS]":{"ids":[1]},"[SEP]":{"ids":[2]}}},
"model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":8,
"vocab":{"[UNK]":0,"[CLS]":1,"[SEP]":2,"un":3,"##aff":4,"##able":5,"cafe":6,"!":7,"東":8,"a":9,"##a":10}}}"###;
/// All that there can be.
pub const MODULES: &str = r#"[{"path":"","type":"sentence_transformers.models.Transformer"},
{"path":"1_Pooling","type":"sentence_transformers.models.Pooling"},
{"path":"2_Normalize","type":"sentence_transformers.models.Normalize"}]"#;
/// The mean.
pub const POOLING: &str = r#"{"word_embedding_dimension":4,"pooling_mode_mean_tokens":true}"#;
/// As many tokens as there are positions.
pub const SENTENCE: &str = r#"{"max_seq_length":16}"#;

/// A tensor in the making.
#[derive(Debug, Clone)]
pub struct TensorBytes {
    /// Its name.
    pub name: String,
    /// As the format names it.
    pub dtype: &'static str,
    /// Outermost dimension first.
    pub shape: Vec<u64>,
    /// Its content.
    pub data: Vec<u8>,
}

/// A file with any head, right or wrong.
pub fn file_with_head(head: &[u8], data: &[u8]) -> Vec<u8> {
    [&(head.len() as u64).to_le_bytes(), head, data].concat()
}

/// A file of these tensors.
pub fn safetensors(tensors: &[TensorBytes]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for tensor in tensors {
        let start = data.len();
        data.extend(&tensor.data);
        entries.push(format!(
            r#""{}":{{"dtype":"{}","shape":{:?},"data_offsets":[{start},{}]}}"#,
            tensor.name,
            tensor.dtype,
            tensor.shape,
            data.len()
        ));
    }
    file_with_head(format!("{{{}}}", entries.join(",\n")).as_bytes(), &data)
}

/// The tensors of the tiny encoder, in f32.
pub fn tiny_tensors() -> Vec<TensorBytes> {
    let mut tensors = Vec::new();
    let mut add = |name: &str, shape: &[u64]| {
        let elements = shape.iter().product::<u64>();
        let first = tensors.len() as u64;
        let value = |index: u64| ((first * 5 + index * 7) % 13) as f32 / 16.0 - 0.375;
        tensors.push(TensorBytes {
            name: name.to_owned(),
            dtype: "F32",
            shape: shape.to_vec(),
            data: (0..elements).flat_map(|index| value(index).to_le_bytes()).collect(),
        });
    };
    add("embeddings.word_embeddings.weight", &[11, 4]);
    add("embeddings.position_embeddings.weight", &[16, 4]);
    add("embeddings.token_type_embeddings.weight", &[2, 4]);
    add("embeddings.LayerNorm.weight", &[4]);
    add("embeddings.LayerNorm.bias", &[4]);
    for (part, outputs, inputs) in [
        ("attention.self.query", 4, Some(4)),
        ("attention.self.key", 4, Some(4)),
        ("attention.self.value", 4, Some(4)),
        ("attention.output.dense", 4, Some(4)),
        ("attention.output.LayerNorm", 4, None),
        ("intermediate.dense", 8, Some(4)),
        ("output.dense", 4, Some(8)),
        ("output.LayerNorm", 4, None),
    ] {
        let shape: Vec<u64> = [Some(outputs), inputs].into_iter().flatten().collect();
        add(&format!("encoder.layer.0.{part}.weight"), &shape);
        add(&format!("encoder.layer.0.{part}.bias"), &[outputs]);
    }
    tensors
}
