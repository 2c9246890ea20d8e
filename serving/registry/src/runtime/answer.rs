//! Judges the body of an answer against the shape of its task, and makes the excerpt that people see.
use serde_json::Value;

use super::request::Task;

/// Bytes of an excerpt.
pub const EXCERPT: usize = 200;

/// `None` if the body has the task's shape; else what it lacks, to follow "without".
pub fn lacks(task: Task, body: &[u8]) -> Option<&'static str> {
    let Ok(answer) = serde_json::from_slice::<Value>(body) else {
        return Some("JSON");
    };
    let right = match task {
        Task::Completion => answer["choices"][0]["text"].is_string(),
        Task::Chat => answer["choices"][0]["message"].is_object(),
        Task::Embed => vector(&answer["data"][0]["embedding"]),
        Task::Rerank => ranking(&answer),
    };
    (!right).then_some(match task {
        Task::Completion => "a choice with text",
        Task::Chat => "a choice with a message",
        Task::Embed => "a vector of finite numbers",
        Task::Rerank => "a list of results with scores",
    })
}

/// JSON knows no NaN and no infinity; a runtime that computes one writes `null` or a word.
fn vector(value: &Value) -> bool {
    value
        .as_array()
        .is_some_and(|numbers| !numbers.is_empty() && numbers.iter().all(Value::is_number))
}

/// `{"results": [{"relevance_score": …}]}` as Cohere, Jina and vLLM answer, or the bare list with `score` of TEI.
fn ranking(answer: &Value) -> bool {
    let list = answer["results"].as_array().or_else(|| answer.as_array());
    let scored = |result: &Value| result["relevance_score"].is_number() || result["score"].is_number();
    list.is_some_and(|results| !results.is_empty() && results.iter().all(scored))
}

/// The first bytes of a body as one line of text, with the key replaced wherever the runtime repeats it.
pub fn excerpt(body: &[u8], key: Option<&str>) -> String {
    let text = String::from_utf8_lossy(body);
    // Before it is cut: half of a key is a secret too.
    let text = match key {
        Some(key) => text.replace(key, "[key]"),
        None => text.into_owned(),
    };
    let mut line = String::new();
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if line.len() + c.len_utf8() > EXCERPT {
            break;
        }
        line.push(c);
    }
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_of_known_runtimes_have_the_shape_of_their_task() {
        for (task, body) in [
            (Task::Completion, r#"{"choices":[{"text":""}]}"#),
            (
                Task::Chat,
                r#"{"choices":[{"message":{"role":"assistant","content":null}}]}"#,
            ),
            (Task::Embed, r#"{"data":[{"embedding":[0.5,-1e-3,2]}]}"#),
            (Task::Rerank, r#"{"results":[{"index":0,"relevance_score":0.9}]}"#),
            (Task::Rerank, r#"[{"index":0,"score":0.9}]"#),
        ] {
            assert_eq!(lacks(task, body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn other_answers_are_refused_with_what_they_lack() {
        for (task, body, lack) in [
            (Task::Completion, "ok", "JSON"),
            (Task::Completion, "{}", "a choice with text"),
            (Task::Completion, r#"{"choices":[]}"#, "a choice with text"),
            (
                Task::Completion,
                r#"{"choices":[{"message":{}}]}"#,
                "a choice with text",
            ),
            (Task::Chat, r#"{"choices":[{"text":""}]}"#, "a choice with a message"),
            (
                Task::Embed,
                r#"{"data":[{"embedding":[]}]}"#,
                "a vector of finite numbers",
            ),
            (
                Task::Embed,
                r#"{"data":[{"embedding":[1,null]}]}"#,
                "a vector of finite numbers",
            ),
            (Task::Embed, r#"{"data":[{"embedding":[NaN]}]}"#, "JSON"),
            (Task::Embed, r#"{"data":[{"embedding":[1e999]}]}"#, "JSON"),
            (Task::Rerank, r#"{"results":[]}"#, "a list of results with scores"),
            (
                Task::Rerank,
                r#"{"results":[{"index":0}]}"#,
                "a list of results with scores",
            ),
        ] {
            assert_eq!(lacks(task, body.as_bytes()), Some(lack), "{body}");
        }
    }

    #[test]
    fn an_excerpt_is_one_line_of_at_most_200_bytes_without_the_key() {
        assert_eq!(excerpt(b"a\r\n\tb\x1b[31m\n", None), "a   b [31m");
        let long = excerpt("é".repeat(500).as_bytes(), None);
        assert_eq!(long.len(), EXCERPT);
        assert!(excerpt(&[0xff; 300], None).len() <= EXCERPT);
        let echoed = format!("{}secret-key", "x".repeat(EXCERPT - 6));
        assert!(!excerpt(echoed.as_bytes(), Some("secret-key")).contains("secret"));
    }
}
