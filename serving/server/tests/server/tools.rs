//! Tools, and calls of them.
use crate::client::{ask, post, stream};
use crate::process::Server;
use serde_json::{Value, json};

/// Its template knows tools.
const QWEN: &str = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf";
const CHAT: &str = "/v1/chat/completions";
/// `<tool_call>` in the model's vocabulary.
const OPEN: &str = "151657";

fn tools() -> Value {
    let weather = json!({
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 20},
            "unit": {"$ref": "#/$defs/unit"},
        },
        "required": ["city", "unit"],
        "additionalProperties": false,
        "$defs": {"unit": {"enum": ["celsius", "fahrenheit"]}},
    });
    json!([
        {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": weather}},
        {"type": "function", "function": {"name": "get_time", "description": "The time", "strict": true}},
    ])
}

fn question(fields: Value) -> Value {
    let mut request = json!({
        "messages": [{"role": "user", "content": "What is the weather in Paris, in celsius?"}],
        "tools": tools(), "temperature": 0, "max_tokens": 200,
    });
    for (name, value) in fields.as_object().expect("an object") {
        request[name] = value.clone();
    }
    request
}

/// The message and the reason of a whole answer, without the names of its calls, which are never the same.
fn whole(server: &Server, request: &Value) -> (Value, Value) {
    let mut answer = ask(server.address, CHAT, request);
    let choice = &mut answer["choices"][0];
    let calls = choice["message"].get_mut("tool_calls").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        assert!(call["id"].as_str().expect("an id").starts_with("call_"));
        call["id"] = Value::Null;
    }
    (choice["message"].take(), choice["finish_reason"].take())
}

/// The same, put together from a stream.
fn streamed(server: &Server, request: &Value) -> (Value, Value) {
    let mut request = request.clone();
    request["stream"] = true.into();
    let (mut text, mut calls, mut reason) = (String::new(), Vec::<Value>::new(), Value::Null);
    for event in stream(server.address, CHAT, &request) {
        let choice = &event["choices"][0];
        text += choice["delta"]["content"].as_str().unwrap_or_default();
        for part in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let index = part["index"].as_u64().expect("an index") as usize;
            if index == calls.len() {
                assert!(part["id"].as_str().expect("an id").starts_with("call_"));
                let name = &part["function"]["name"];
                calls.push(json!({"id": null, "type": part["type"], "function": {"name": name, "arguments": ""}}));
            }
            let arguments = &mut calls[index]["function"]["arguments"];
            *arguments = (arguments.as_str().expect("text").to_owned()
                + part["function"]["arguments"].as_str().expect("arguments"))
            .into();
        }
        reason = choice["finish_reason"].clone();
    }
    let mut message = json!({"role": "assistant", "content": text});
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
        if text.is_empty() {
            message["content"] = Value::Null;
        }
    }
    (message, reason)
}

/// Name and arguments of each call.
fn calls(message: &Value) -> Vec<(String, Value)> {
    let calls = message["tool_calls"].as_array().expect("calls").iter().map(|call| {
        assert_eq!(call["type"], "function");
        let arguments = call["function"]["arguments"].as_str().expect("a text");
        let name = call["function"]["name"].as_str().expect("a name").to_owned();
        (name, serde_json::from_str(arguments).expect(arguments))
    });
    calls.collect()
}

fn check(calls: &[(String, Value)]) {
    for (name, arguments) in calls {
        match name.as_str() {
            "get_weather" => {
                assert!(arguments["city"].is_string(), "{arguments}");
                assert!(["celsius", "fahrenheit"].contains(&arguments["unit"].as_str().expect("a unit")));
            }
            "get_time" => assert_eq!(*arguments, json!({})),
            _ => panic!("no such tool: {name}"),
        }
    }
}

#[test]
fn a_required_call_names_a_tool_with_arguments_of_its_schema_streamed_or_whole() {
    let server = Server::start_with(QWEN, &["--context-length", "1024"]);
    let one = json!({"tool_choice": "required", "parallel_tool_calls": false});
    let drawn = json!({"tool_choice": "required", "parallel_tool_calls": false, "temperature": 1.5, "seed": 3});
    for request in [question(one), question(drawn)] {
        let (message, reason) = whole(&server, &request);
        assert_eq!(
            (&message["content"], &reason),
            (&Value::Null, &json!("tool_calls")),
            "{message}"
        );
        assert_eq!(calls(&message).len(), 1);
        check(&calls(&message));
        assert_eq!(streamed(&server, &request), (message, reason));
    }
    let named = question(json!({"tool_choice": {"type": "function", "function": {"name": "get_time"}}}));
    let (message, reason) = whole(&server, &named);
    assert_eq!(
        (calls(&message), reason),
        (vec![("get_time".into(), json!({}))], json!("tool_calls"))
    );
    let several = question(json!({"tool_choice": "required", "max_tokens": 20}));
    let (message, reason) = whole(&server, &several);
    assert_eq!(reason, "length", "{message}");
    assert_eq!(streamed(&server, &several), (message, reason));
}

#[test]
fn text_and_calls_are_told_apart_when_the_model_chooses() {
    let server = Server::start_with(QWEN, &["--context-length", "1024"]);
    let free = question(json!({"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 24}));
    assert_eq!(streamed(&server, &free), whole(&server, &free));
    let forced = question(json!({"logit_bias": {(OPEN): 100}, "parallel_tool_calls": false}));
    let (message, reason) = whole(&server, &forced);
    assert_eq!((calls(&message).len(), &reason), (1, &json!("tool_calls")), "{message}");
    check(&calls(&message));
    assert_eq!(streamed(&server, &forced), (message, reason));

    let none = question(json!({"tool_choice": "none", "logit_bias": {(OPEN): 100}, "max_tokens": 3}));
    let (message, reason) = whole(&server, &none);
    assert_eq!(message["content"], "<tool_call><tool_call><tool_call>", "{message}");
    assert_eq!((message.get("tool_calls"), reason), (None, json!("length")));
}

#[test]
fn an_answer_with_a_schema_beside_tools_is_a_call_or_fits_the_schema() {
    let server = Server::start_with(QWEN, &["--context-length", "1024"]);
    let schema = json!({"type": "object", "properties": {"greeting": {"type": "string", "maxLength": 20}},
                        "required": ["greeting"], "additionalProperties": false});
    let format = json!({"type": "json_schema", "json_schema": {"name": "g", "schema": schema}});
    let with = |mut fields: Value| {
        fields["response_format"] = format.clone();
        question(fields)
    };
    let kinds = |mut fields: Value, seeds: std::ops::Range<u64>| {
        let mut kinds = [0, 0];
        for seed in seeds {
            fields["seed"] = seed.into();
            let request = with(fields.clone());
            let (message, reason) = whole(&server, &request);
            assert_eq!(streamed(&server, &request), (message.clone(), reason.clone()));
            match message["content"].as_str() {
                None => {
                    assert_eq!(reason, "tool_calls", "{message}");
                    check(&calls(&message));
                    kinds[0] += 1;
                }
                Some(text) => {
                    assert_eq!(
                        (&message.get("tool_calls"), &reason),
                        (&None, &json!("stop")),
                        "{message}"
                    );
                    let answer: Value = serde_json::from_str(text).expect(text);
                    assert!(
                        answer["greeting"].is_string() && answer.as_object().unwrap().len() == 1,
                        "{answer}"
                    );
                    kinds[1] += 1;
                }
            }
        }
        kinds
    };
    let call = json!({"logit_bias": {(OPEN): 100}, "parallel_tool_calls": false, "temperature": 1});
    assert_eq!(kinds(call, 0..2), [2, 0]);
    let text = json!({"logit_bias": {(OPEN): -100}, "temperature": 1});
    assert_eq!(kinds(text, 0..2), [0, 2]);
    let required = json!({"tool_choice": "required", "parallel_tool_calls": false});
    assert_eq!(kinds(required, 0..1), [1, 0]);
    assert_eq!(kinds(json!({"tool_choice": "none"}), 0..1), [0, 1]);
    // What is wrong with the schema is not said of the tools.
    let broken = json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {"properties": 5}}}});
    let (head, answer) = post(server.address, CHAT, &question(broken));
    let param = answer["error"]["param"].as_str();
    assert_eq!(
        (head.status, param),
        (400, Some("response_format.json_schema.schema")),
        "{answer}"
    );
}

#[test]
fn calls_and_their_results_are_part_of_the_conversation() {
    let server = Server::start_with(QWEN, &["--context-length", "1024"]);
    let call = json!({"id": "call_1", "type": "function",
        "function": {"name": "get_weather", "arguments": "{\"city\": \"Paris\", \"unit\": \"celsius\"}"}});
    let user = json!({"role": "user", "content": "What is the weather in Paris, in celsius?"});
    let conversation = json!([
        user,
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Sunny, 31 degrees"},
    ]);
    let tokens = |messages: &Value, tools: Value| {
        let request = json!({"messages": messages, "tools": tools, "temperature": 0, "max_tokens": 40});
        let answer = ask(server.address, CHAT, &request);
        (answer["usage"]["prompt_tokens"].as_u64().expect("a count"), answer)
    };
    let (bare, _) = tokens(&json!([user]), json!([]));
    let (with_tools, _) = tokens(&json!([user]), tools());
    let (all, answer) = tokens(&conversation, tools());
    assert!(
        bare + 100 < with_tools && with_tools + 30 < all,
        "{bare}, {with_tools}, {all}"
    );
    let message = &answer["choices"][0]["message"];
    assert!(
        message["content"].is_string() || message["tool_calls"].is_array(),
        "{answer}"
    );

    for (message, param) in [
        (
            json!({"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{"}}]}),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            json!({"role": "assistant", "tool_calls": [{}]}),
            "messages[0].tool_calls[0]",
        ),
    ] {
        let (head, answer) = post(server.address, CHAT, &json!({ "messages": [message] }));
        assert_eq!(
            (head.status, answer["error"]["param"].as_str()),
            (400, Some(param)),
            "{answer}"
        );
    }
    for (fields, param) in [
        (
            json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": 5}}}]}),
            "tools",
        ),
        (json!({"guided_regex": "a"}), "guided_regex"),
        (json!({"tool_choice": "always"}), "tool_choice"),
    ] {
        let (head, answer) = post(server.address, CHAT, &question(fields));
        assert_eq!(
            (head.status, answer["error"]["param"].as_str()),
            (400, Some(param)),
            "{answer}"
        );
    }
}

#[test]
fn functions_are_called_as_tools_are_in_their_own_shape() {
    let server = Server::start_with(QWEN, &["--context-length", "1024"]);
    let functions: Vec<Value> = tools()
        .as_array()
        .expect("tools")
        .iter()
        .map(|tool| tool["function"].clone())
        .collect();
    let older = |fields: Value| {
        let mut request = question(fields);
        request.as_object_mut().expect("an object").remove("tools");
        request["functions"] = functions.clone().into();
        request
    };
    let newer = question(json!({"tool_choice": "required", "parallel_tool_calls": false, "temperature": 0}));
    let forced = older(json!({"logit_bias": {(OPEN): 100}}));
    let named = older(json!({"function_call": {"name": "get_weather"}}));
    let newer = calls(&whole(&server, &newer).0).remove(0);
    for request in [&forced, &named] {
        let (message, reason) = whole(&server, request);
        assert_eq!(
            (&message["content"], &message.get("tool_calls")),
            (&Value::Null, &None),
            "{message}"
        );
        assert_eq!(reason, "function_call");
        let call = &message["function_call"];
        let arguments = call["arguments"].as_str().expect("a text");
        let arguments: Value = serde_json::from_str(arguments).expect(arguments);
        assert_eq!(
            (call["name"].as_str().expect("a name"), &arguments),
            (newer.0.as_str(), &newer.1)
        );

        let mut request = request.clone();
        request["stream"] = true.into();
        let (mut names, mut text, mut reasons) = (Vec::new(), String::new(), Vec::new());
        for event in stream(server.address, CHAT, &request) {
            let choice = &event["choices"][0];
            assert_eq!(choice["delta"].get("tool_calls"), None, "{event}");
            names.extend(choice["delta"]["function_call"]["name"].as_str().map(str::to_owned));
            text += choice["delta"]["function_call"]["arguments"]
                .as_str()
                .unwrap_or_default();
            reasons.extend(choice["finish_reason"].as_str().map(str::to_owned));
        }
        assert_eq!(
            (names, reasons),
            (vec![newer.0.clone()], vec!["function_call".to_owned()])
        );
        assert_eq!(text, call["arguments"].as_str().expect("a text"));
    }
    let none = older(json!({"function_call": "none", "max_tokens": 4}));
    assert!(whole(&server, &none).0["content"].is_string());

    // A conversation in the older form is the same prompt as in the newer one.
    let count = |messages: Value| {
        let request = json!({"messages": messages, "tools": tools(), "max_tokens": 1});
        ask(server.address, CHAT, &request)["usage"]["prompt_tokens"].clone()
    };
    let function = json!({"name": "get_weather", "arguments": "{\"city\": \"Paris\", \"unit\": \"celsius\"}"});
    let user = json!({"role": "user", "content": "What is the weather in Paris?"});
    let in_older = count(json!([user,
        {"role": "assistant", "content": null, "function_call": function},
        {"role": "function", "name": "get_weather", "content": "Sunny"}]));
    let in_newer = count(json!([user,
        {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "1", "content": "Sunny"}]));
    assert_eq!(in_older, in_newer);

    for (fields, param) in [
        (
            json!({"functions": [{"name": "f", "parameters": {"properties": 5}}]}),
            "functions",
        ),
        (json!({"tools": tools()}), "functions"),
        (json!({"function_call": "required"}), "function_call"),
        (json!({"functions": 5}), "functions"),
    ] {
        let mut request = older(json!({}));
        for (name, value) in fields.as_object().expect("an object") {
            request[name] = value.clone();
        }
        let (head, answer) = post(server.address, CHAT, &request);
        assert_eq!(
            (head.status, answer["error"]["param"].as_str()),
            (400, Some(param)),
            "{answer}"
        );
    }
    let (head, answer) = post(
        server.address,
        "/v1/completions",
        &json!({"prompt": "a", "functions": functions}),
    );
    assert_eq!(
        (head.status, &answer["error"]["param"]),
        (400, &json!("functions")),
        "{answer}"
    );
}

#[test]
fn a_model_whose_template_knows_no_tools_refuses_them() {
    let server = Server::start(&[]);
    let (head, answer) = post(server.address, CHAT, &question(json!({})));
    assert_eq!(
        (head.status, &answer["error"]["param"]),
        (400, &json!("tools")),
        "{answer}"
    );
    assert!(
        answer["error"]["message"]
            .as_str()
            .expect("a message")
            .contains("template")
    );
    let answer = ask(
        server.address,
        CHAT,
        &question(json!({"tool_choice": "none", "max_tokens": 1})),
    );
    assert_eq!(answer["choices"][0]["message"].get("tool_calls"), None);
    let (head, answer) = post(
        server.address,
        "/v1/completions",
        &json!({"prompt": "a", "tools": tools()}),
    );
    assert_eq!(
        (head.status, &answer["error"]["param"]),
        (400, &json!("tools")),
        "{answer}"
    );
}
