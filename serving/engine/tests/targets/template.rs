//! A template of a stranger, and messages of another: whatever they are, rendering ends, with a bounded prompt or an
//! error. How long it may take and how much memory it may have is said by who calls this.
use std::path::Path;
use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};
use windlass_engine::chat::{ChatTemplate, MAX_PROMPT_BYTES, RenderOptions};
use windlass_engine::load::gguf::Gguf;
use windlass_engine::tokenizer::Tokenizer;

use crate::support::gguf::tiny_llama;

/// Between the template and its messages, which may be left out.
const SEPARATOR: &str = "\n====\n";

static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
    let bytes = tiny_llama().bytes();
    let gguf = Gguf::parse(&mut bytes.as_slice(), bytes.len() as u64, Path::new("fuzz.gguf")).expect("a good file");
    Arc::new(Tokenizer::from_gguf(&gguf).expect("a good tokenizer"))
});

/// Takes `bytes` as a template and, behind a separator, messages in JSON.
pub fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (template, messages) = text.split_once(SEPARATOR).unwrap_or((&text, ""));
    let Ok(template) = ChatTemplate::new(Some(template), Arc::clone(&TOKENIZER)) else {
        return;
    };
    let messages = serde_json::from_str(messages).unwrap_or_else(|_| conversation());
    let tools = json!([{ "type": "function", "function": { "name": "f", "parameters": {} } }]);
    for add_generation_prompt in [false, true] {
        let options = RenderOptions {
            add_generation_prompt,
            tools: add_generation_prompt.then_some(&tools),
            variables: None,
            now: 1_767_225_599,
        };
        if let Ok(prompt) = template.render(&messages, &options) {
            assert!(prompt.text().len() <= MAX_PROMPT_BYTES);
        }
    }
}

fn conversation() -> Value {
    json!([
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": "Hi <|im_end|>\n" },
        { "role": "assistant", "content": "", "tool_calls": [] },
    ])
}
