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

/// The lists of a whole answer came in the events of a streamed one.
fn assert_streamed(lists: &Value, events: &[Value]) {
    for field in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        let streamed: Vec<&Value> = events
            .iter()
            .filter_map(|event| event["choices"][0]["logprobs"][field].as_array())
            .flatten()
            .collect();
        assert_eq!(streamed, list(lists, field).iter().collect::<Vec<_>>(), "{field}");
    }
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
        assert_streamed(lists, &events);
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

#[test]
fn an_echo_says_of_each_token_of_the_prompt_what_an_answer_in_its_place_says() {
    let server = Server::start(&[]);
    let path = "/v1/completions";
    let prompt = "Größe 😀: one, two,\n three, four";
    let tokens = ask(server.address, "/tokenize", &json!({ "prompt": prompt }));
    let tokens = list(&tokens, "tokens");
    let request = json!({"prompt": prompt, "max_tokens": 2, "logprobs": 4, "temperature": 0, "echo": true});
    let whole = ask(server.address, path, &request);
    let lists = &whole["choices"][0]["logprobs"];
    let text = whole["choices"][0]["text"].as_str().unwrap();
    for field in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(list(lists, field).len(), tokens.len() + 2, "{field}");
    }
    assert!(lists["token_logprobs"][0].is_null() && lists["top_logprobs"][0].is_null());
    for at in 1..tokens.len() + 2 {
        // The last two are of the answer, which is as it is without an echo.
        let before = &tokens[..at.min(tokens.len())];
        let alone = json!({"prompt": before, "max_tokens": 2, "logprobs": 4, "temperature": 0, "ignore_eos": true});
        let alone = ask(server.address, path, &alone);
        let alone = &alone["choices"][0]["logprobs"]["top_logprobs"][at - before.len()];
        let mut top = lists["top_logprobs"][at].clone();
        let own = lists["tokens"][at].as_str().unwrap();
        assert_eq!(top[own], lists["token_logprobs"][at]);
        if alone.get(own).is_none() {
            top.as_object_mut().unwrap().remove(own);
        }
        assert_eq!(&top, alone, "place {at}");
    }
    // Each token stands where its text begins; those inside a character, after those that are complete.
    let characters: Vec<char> = text.chars().collect();
    for (place, token) in list(lists, "tokens").iter().enumerate() {
        let (token, offset) = (token.as_str().unwrap(), lists["text_offset"][place].as_u64().unwrap());
        let rest: String = characters[offset as usize..].iter().collect();
        assert!(
            rest.starts_with(token) || token.starts_with("bytes:"),
            "{token:?} at {offset}"
        );
    }
    let by_tokens = with(&request, json!({ "prompt": tokens }));
    assert_eq!(&ask(server.address, path, &by_tokens)["choices"][0]["logprobs"], lists);
    let events = stream(server.address, path, &with(&request, json!({"stream": true})));
    assert_eq!(events[0]["choices"][0]["text"], prompt);
    assert_streamed(lists, &events);
}

#[test]
fn a_prompt_can_be_scored_without_an_answer_and_whatever_the_cache_holds() {
    let server = Server::start(&[]);
    let words = "The quick brown fox jumps over the lazy dog. ".repeat(30);
    let request = json!({"prompt": [words, "Once"], "max_tokens": 0, "logprobs": 1, "echo": true});
    let first = ask(server.address, "/v1/completions", &request);
    let second = ask(server.address, "/v1/completions", &request);
    assert_eq!(first["choices"], second["choices"]);
    for answer in [&first, &second] {
        let usage = &answer["usage"];
        assert_eq!(usage["completion_tokens"], 0);
        assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 0);
        let (long, short) = (&answer["choices"][0], &answer["choices"][1]);
        assert_eq!((&long["text"], &short["text"]), (&json!(words), &json!("Once")));
        assert_eq!(
            (&long["finish_reason"], &short["finish_reason"]),
            (&json!("length"), &json!("length"))
        );
        let count = list(&long["logprobs"], "token_logprobs").len() + list(&short["logprobs"], "tokens").len();
        assert_eq!(usage["prompt_tokens"], count);
        // What comes again is likelier than the first time.
        let logprobs: Vec<f64> = list(&long["logprobs"], "token_logprobs")[1..]
            .iter()
            .map(|logprob| logprob.as_f64().unwrap())
            .collect();
        let (begin, end) = logprobs.split_at(count / 2);
        assert!(begin.iter().sum::<f64>() < end.iter().sum(), "{logprobs:?}");
    }
    // And who comes after does profit from what was computed.
    let plain = json!({"prompt": words, "max_tokens": 1});
    let usage = &ask(server.address, "/v1/completions", &plain)["usage"];
    assert!(
        usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() > 0,
        "{usage}"
    );
}

#[test]
fn a_token_that_ends_the_answer_is_in_the_lists_of_an_echo() {
    let server = Server::start(&[]);
    // Token 2 of this model is `<|im_end|>`. Readers like lm-evaluation-harness take the last token for the answer's.
    let request = json!({"prompt": "One, two,", "max_tokens": 1, "logprobs": 1, "echo": true, "temperature": 0});
    let going = ask(server.address, "/v1/completions", &request);
    let ended = ask(
        server.address,
        "/v1/completions",
        &with(&request, json!({"logit_bias": {"2": 100}})),
    );
    let lists = |answer: &Value| answer["choices"][0]["logprobs"].clone();
    let (going, lists) = (lists(&going), lists(&ended));
    assert_eq!(ended["choices"][0]["text"], "One, two,");
    assert_eq!(ended["choices"][0]["finish_reason"], "stop");
    let count = list(&going, "tokens").len();
    assert_eq!(
        (list(&lists, "tokens").len(), &lists["tokens"][count - 1]),
        (count, &json!("<|im_end|>"))
    );
    assert_eq!(lists["text_offset"][count - 1], 9);
    assert_eq!(
        list(&lists, "token_logprobs")[..count - 1],
        list(&going, "token_logprobs")[..count - 1]
    );
}

#[test]
fn a_token_that_the_tokenizer_puts_before_a_prompt_takes_no_place_in_its_text() {
    let server = Server::start_with("gemma-3-270m-q4_k_m.gguf", &["--context-length", "256"]);
    let request = json!({"prompt": "One, two", "max_tokens": 0, "logprobs": 0, "echo": true});
    let lists = &ask(server.address, "/v1/completions", &request)["choices"][0]["logprobs"];
    assert_eq!(lists["tokens"], json!(["<bos>", "One", ",", " two"]));
    assert_eq!(lists["text_offset"], json!([0, 0, 3, 4]));
    assert!(
        lists["token_logprobs"][0].is_null() && lists["token_logprobs"][1].is_f64(),
        "{lists}"
    );
}
