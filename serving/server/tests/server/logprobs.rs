//! How likely tokens were: the same whole and streamed, true to the text, and no change of it.
use crate::client::{ask, stream};
use crate::process::Server;
use serde_json::{Value, json};

fn with(request: &Value, fields: Value) -> Value {
    let mut request = request.clone();
    for (name, value) in fields.as_object().expect("an object") {
        request[name] = value.clone();
    }
    request
}

fn list<'a>(value: &'a Value, field: &str) -> &'a Vec<Value> {
    value[field].as_array().expect("an array")
}

#[test]
fn a_chats_tokens_are_its_text_and_the_best_are_those_that_greedy_takes() {
    let server = Server::start(&[]);
    let path = "/v1/chat/completions";
    let request = json!({"messages": [{"role": "user", "content": "Name three colours, with an emoji each."}],
                         "temperature": 0, "max_tokens": 24});
    let plain = ask(server.address, path, &request);
    let wanted = with(&request, json!({"logprobs": true, "top_logprobs": 20}));
    let whole = &ask(server.address, path, &wanted)["choices"][0];
    assert_eq!(whole["message"], plain["choices"][0]["message"]);
    let content = list(&whole["logprobs"], "content");
    let bytes: Vec<u8> = content
        .iter()
        .flat_map(|token| list(token, "bytes"))
        .map(|byte| byte.as_u64().unwrap() as u8)
        .collect();
    assert_eq!(
        String::from_utf8_lossy(&bytes),
        whole["message"]["content"].as_str().unwrap()
    );
    for token in content {
        let top = list(token, "top_logprobs");
        assert_eq!((top.len(), &top[0]["logprob"]), (20, &token["logprob"]), "{token}");
        let values: Vec<f64> = top.iter().map(|top| top["logprob"].as_f64().unwrap()).collect();
        assert!(values.is_sorted_by(|a, b| a >= b) && values[0] <= 0.0, "{values:?}");
        assert!(
            values.iter().map(|value| value.exp()).sum::<f64>() < 1.000_001,
            "{values:?}"
        );
    }
    let events = stream(server.address, path, &with(&wanted, json!({"stream": true})));
    let streamed: Vec<&Value> = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .collect();
    assert_eq!(streamed, content.iter().collect::<Vec<_>>());
}

#[test]
fn a_completions_lists_fit_each_other_and_the_text_also_where_a_stop_text_ends_it() {
    let server = Server::start(&[]);
    let path = "/v1/completions";
    let request = json!({"prompt": "One, two, three,", "max_tokens": 16, "logprobs": 2, "temperature": 0});
    for stop in [json!(null), json!("seven, ei"), json!(" eight")] {
        let request = with(&request, json!({ "stop": stop }));
        let whole = &ask(server.address, path, &request)["choices"][0];
        let text = whole["text"].as_str().unwrap();
        let lists = &whole["logprobs"];
        let tokens = list(lists, "tokens");
        let mut joined = String::new();
        for (place, token) in tokens.iter().enumerate() {
            let token = token.as_str().unwrap();
            assert_eq!(lists["text_offset"][place], joined.chars().count());
            assert_eq!(lists["top_logprobs"][place][token], lists["token_logprobs"][place]);
            assert_eq!(lists["top_logprobs"][place].as_object().unwrap().len(), 2);
            joined += token;
        }
        // The last token may go on inside the stop text, and no further token is there.
        assert!(joined.starts_with(text), "{joined:?} {text:?}");
        let last = tokens.last().unwrap().as_str().unwrap();
        assert!(joined.len() - last.len() < text.len(), "{joined:?} {text:?}");
        let events = stream(server.address, path, &with(&request, json!({"stream": true})));
        for field in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            let streamed: Vec<&Value> = events
                .iter()
                .filter_map(|event| event["choices"][0]["logprobs"][field].as_array())
                .flatten()
                .collect();
            assert_eq!(streamed, list(lists, field).iter().collect::<Vec<_>>(), "{field}");
        }
    }
}

#[test]
fn they_are_the_models_own_whatever_bends_the_choice() {
    let server = Server::start(&[]);
    let request = json!({"prompt": "One, two, three,", "max_tokens": 1, "logprobs": 3, "temperature": 0});
    let first = |fields: Value| {
        ask(server.address, "/v1/completions", &with(&request, fields))["choices"][0]["logprobs"].clone()
    };
    let plain = first(json!({}));
    let bent = first(json!({"logit_bias": {"40": 100}, "temperature": 2, "repetition_penalty": 2, "top_k": 3}));
    let chosen = bent["token_logprobs"][0].as_f64().unwrap();
    assert!(chosen < plain["token_logprobs"][0].as_f64().unwrap(), "{bent}");
    for (token, logprob) in plain["top_logprobs"][0].as_object().unwrap() {
        assert_eq!(&bent["top_logprobs"][0][token], logprob);
    }
}
