//! Parameters that OpenAI or other engines know and that we do not support yet. A request that
//! needs one is refused by name: an answer that ignores a wish is a wrong answer. A default value
//! is harmless and passes; parameters that nobody knows are ignored, as OpenAI does.
use crate::error::ApiError;
use serde_json::{Map, Value};

/// Whether a value asks for nothing. `null` always does.
type Harmless = fn(&Value) -> bool;

const PARAMETERS: &[(&str, Harmless)] = &[
    ("add_generation_prompt", yes),
    ("allowed_token_ids", never),
    ("audio", never),
    ("bad_words", empty),
    ("chat_template", never),
    ("chat_template_kwargs", never),
    ("continue_final_message", no),
    ("documents", empty),
    ("grammar_lazy", no),
    ("grammar_triggers", empty),
    ("guided_decoding_backend", never),
    ("length_penalty", one),
    ("modalities", only_text),
    ("prediction", never),
    ("prompt_embeds", never),
    ("prompt_logprobs", never),
    ("reasoning_effort", never),
    ("store", no),
    ("thinking", never),
    ("truncate_prompt_tokens", never),
    ("typical_p", one),
    ("use_beam_search", no),
    ("verbosity", never),
    ("web_search_options", never),
];

/// Refuses the first parameter in `other` that asks for something we cannot do.
pub fn refuse_unsupported(other: &Map<String, Value>) -> Result<(), ApiError> {
    for (name, harmless) in PARAMETERS {
        let Some(value) = other.get(*name) else { continue };
        if value.is_null() || harmless(value) {
            continue;
        }
        let reason = if name.starts_with("chat_template") {
            ": chat templates come from the model alone"
        } else {
            ""
        };
        return Err(ApiError::Unsupported {
            param: (*name).to_owned(),
            reason,
        });
    }
    Ok(())
}

fn never(_: &Value) -> bool {
    false
}

fn one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

fn no(value: &Value) -> bool {
    value == false
}

fn yes(value: &Value) -> bool {
    value == true
}

fn empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn only_text(value: &Value) -> bool {
    value
        .as_array()
        .is_some_and(|kinds| kinds.iter().all(|kind| kind == "text"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(other: Value) -> Result<(), String> {
        let Value::Object(other) = other else {
            unreachable!("tests pass objects")
        };
        refuse_unsupported(&other).map_err(|error| error.body().error.param.unwrap_or_default())
    }

    #[test]
    fn defaults_and_unknown_names_pass() {
        let defaults = json!({
            "length_penalty": 1.0, "documents": [], "modalities": ["text"],
            "chat_template": null, "user": "u", "metadata": {"a": "b"}, "no_such_thing": 5,
        });
        assert_eq!(check(defaults), Ok(()));
    }

    #[test]
    fn a_wish_that_we_cannot_fulfil_is_refused_by_name() {
        let wishes = [
            json!({"documents": [{"text": "a"}]}),
            json!({"grammar_lazy": true}),
            json!({"typical_p": 0.5}),
            json!({"chat_template": "{{ 1 }}"}),
            json!({"chat_template_kwargs": {}}),
        ];
        for wish in wishes {
            let name = wish.as_object().unwrap().keys().next().unwrap().clone();
            assert_eq!(check(wish), Err(name));
        }
    }

    #[test]
    fn every_name_is_listed_once_and_in_order() {
        assert!(PARAMETERS.is_sorted_by(|a, b| a.0 < b.0));
    }
}
