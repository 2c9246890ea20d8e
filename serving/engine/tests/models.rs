//! The engine on real models: against llama.cpp's answers (goldens/make.py), and against itself under
//! every way of cutting the work into steps.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#[path = "support/cache.rs"]
mod cache;

use std::path::PathBuf;

use cache::model;
use serde_json::Value;
use windlass_engine::request::{
    EngineOptions, Event, FinishReason, KvType, Logprobs, Request, RequestId, Sampling, Usage,
};
use windlass_engine::{Engine, LoadError};

const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const QWEN: &str = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf";
const GEMMA: &str = "gemma-3-270m-q4_k_m.gguf";

/// Where the peer's two best tokens are nearer than this, either may win: quantised activations differ by
/// about as much (logits span some 30 units).
const EPSILON: f64 = 0.8;

fn options() -> EngineOptions {
    EngineOptions {
        threads: 2,
        context_length: Some(2048),
        max_sequences: 8,
        ..EngineOptions::default()
    }
}

fn load(file: &str, options: &EngineOptions) -> Engine {
    Engine::load(&model(file), options).unwrap()
}

fn request(id: u64, prompt: Vec<u32>, max_tokens: usize) -> Request {
    Request {
        ignore_eos: true,
        cache_salt: id,
        ..Request::new(RequestId(id), prompt, max_tokens)
    }
}

/// Runs all requests together, and hands out each event with the position of its request.
fn run(engine: &mut Engine, requests: Vec<Request>, mut each: impl FnMut(usize, Event)) {
    let ids: Vec<RequestId> = requests.iter().map(|request| request.id).collect();
    for request in requests {
        engine.submit(request).unwrap();
    }
    let mut events = Vec::new();
    while engine.has_work() {
        engine.step(&mut events);
        for event in events.drain(..) {
            let (Event::Started { id, .. }
            | Event::Prompt { id, .. }
            | Event::Token { id, .. }
            | Event::Ended { id, .. }
            | Event::Finished { id, .. }) = event;
            each(ids.iter().position(|known| *known == id).unwrap(), event);
        }
    }
}

/// Tokens and usage by position.
fn complete(engine: &mut Engine, requests: Vec<Request>) -> Vec<(Vec<u32>, Usage)> {
    let mut results = vec![(Vec::new(), Usage::default()); requests.len()];
    run(engine, requests, |at, event| match event {
        Event::Started { .. } | Event::Prompt { .. } | Event::Ended { .. } => (),
        Event::Token { token, .. } => results[at].0.push(token),
        Event::Finished { reason, usage, .. } => {
            assert_eq!(reason, FinishReason::Length);
            results[at].1 = usage;
        }
    });
    results
}

fn prompts(engine: &Engine) -> Vec<Vec<u32>> {
    // For a model whose layers look back 512 tokens, more than that.
    let times = if engine.info().architecture == "gemma3" { 40 } else { 12 };
    let long = "A long report about the weather on the coast, written every morning at six. ".repeat(times);
    [
        "The capital of France is",
        "def add(a, b):",
        "Es war einmal",
        "1, 2, 3,",
        "Dear sir,",
        "once",
        "The sky is",
        &long,
    ]
    .iter()
    .map(|text| engine.tokenizer().encode_prompt(text))
    .collect()
}

fn goldens(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/goldens")
        .join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n.as_u64().unwrap() as u32)
        .collect()
}

/// Teacher-forced: each position's best token is what a request that ends there answers. Requests of one
/// case share their prefix through the cache.
fn agrees_with_the_peer(file: &str, golden: &str) {
    let mut engine = load(file, &options());
    let tokenizer = engine.tokenizer();
    let (mut checked, mut ties) = (0, 0);
    for case in goldens(golden)["cases"].as_array().unwrap() {
        let tokens = numbers(&case["tokens"]);
        let given = case["given"].as_u64().unwrap() as usize;
        if let Some(prompt) = case["prompt"].as_str() {
            assert_eq!(tokenizer.encode_prompt(prompt), tokens[..given], "tokens of {prompt:?}");
        }
        let positions = numbers(&case["positions"]);
        let requests = (0..).zip(&positions).map(|(id, &last)| Request {
            cache_salt: 0,
            ..request(id, tokens[..=last as usize].to_vec(), 1)
        });
        let answers = complete(&mut engine, requests.collect());
        let gaps = case["gap"].as_array().unwrap();
        for (((answer, _), expected), gap) in answers.iter().zip(numbers(&case["top"])).zip(gaps) {
            checked += 1;
            if answer[0] != expected {
                ties += 1;
                let gap = gap.as_f64().unwrap();
                assert!(
                    gap < EPSILON,
                    "{:?}: {} for {expected}, gap {gap}",
                    case["prompt"],
                    answer[0]
                );
            }
        }
    }
    assert!(checked > 600, "only {checked} positions");
    assert!(ties * 25 < checked, "{ties} of {checked} positions differ");
}

#[test]
fn smollm2_predicts_the_tokens_that_llama_cpp_predicts() {
    agrees_with_the_peer(SMOLLM2, "smollm2.json");
}

#[test]
fn qwen2_predicts_the_tokens_that_llama_cpp_predicts() {
    agrees_with_the_peer(QWEN, "qwen2.5-coder.json");
}

#[test]
fn gemma3_predicts_the_tokens_that_llama_cpp_predicts() {
    agrees_with_the_peer(GEMMA, "gemma3-270m.json");
}

#[test]
fn requests_together_get_the_tokens_that_they_get_alone() {
    together_is_as_alone(SMOLLM2, 24);
    together_is_as_alone(QWEN, 8);
    together_is_as_alone(GEMMA, 8);
}

fn together_is_as_alone(file: &str, max_tokens: usize) {
    let mut engine = load(file, &options());
    let prompts = prompts(&engine);
    let request = |id: usize| request(id as u64, prompts[id].clone(), max_tokens);
    let together = complete(&mut engine, (0..prompts.len()).map(request).collect());
    for (id, (tokens, _)) in together.iter().enumerate() {
        let alone = complete(
            &mut engine,
            vec![Request {
                cache_salt: 99,
                ..request(id)
            }],
        );
        assert_eq!(&alone[0].0, tokens, "{file}, prompt {id}");
    }
}

#[test]
fn threads_chunks_and_block_sizes_do_not_change_a_token() {
    use KvType::{F16, Q8};
    let smol = [(1, 512, 16), (2, 512, 32), (2, 16, 16), (1, 64, 8)];
    no_way_to_cut_the_work_changes_a_token(SMOLLM2, F16, &smol, 16);
    no_way_to_cut_the_work_changes_a_token(SMOLLM2, Q8, &[(1, 512, 16), (2, 24, 8)], 16);
    no_way_to_cut_the_work_changes_a_token(QWEN, F16, &[(1, 512, 16), (2, 24, 8)], 6);
    no_way_to_cut_the_work_changes_a_token(GEMMA, F16, &[(1, 512, 16), (2, 24, 8), (2, 300, 32)], 6);
}

/// `ways`: threads, tokens of a step, tokens of a block.
fn no_way_to_cut_the_work_changes_a_token(
    file: &str,
    kv_type: KvType,
    ways: &[(usize, usize, usize)],
    max_tokens: usize,
) {
    let mut expected = None;
    for &(threads, max_batch_tokens, block_tokens) in ways {
        let mut engine = load(
            file,
            &EngineOptions {
                threads,
                max_batch_tokens,
                block_tokens,
                kv_type,
                ..options()
            },
        );
        let prompts = prompts(&engine);
        let requests = (0..).zip(prompts).map(|(id, prompt)| request(id, prompt, max_tokens));
        let tokens: Vec<_> = complete(&mut engine, requests.collect())
            .into_iter()
            .map(|(tokens, _)| tokens)
            .collect();
        let expected = expected.get_or_insert_with(|| tokens.clone());
        assert_eq!(
            &tokens, expected,
            "{file}: {threads} threads, chunks of {max_batch_tokens}, blocks of {block_tokens}"
        );
    }
}

#[test]
fn guessed_tokens_are_those_that_come_without_guesses_and_many_are_right() {
    let mut expected = None;
    for speculate in [0, 4] {
        let mut engine = load(SMOLLM2, &EngineOptions { speculate, ..options() });
        let list = "one, two, three, four, five, one, two, three, four, five, one, two,";
        let texts = [list, "The capital of France is"].map(|text| engine.tokenizer().encode_prompt(text));
        let mut tokens = Vec::new();
        for together in [&texts[..1], &texts[..]] {
            let requests = (0..).zip(together).map(|(id, text)| request(id, text.clone(), 40));
            tokens.extend(
                complete(&mut engine, requests.collect())
                    .into_iter()
                    .map(|(tokens, _)| tokens),
            );
        }
        assert_eq!(&tokens, expected.get_or_insert_with(|| tokens.clone()));
        let stats = engine.stats();
        assert_eq!(stats.blocks_used, 0);
        assert_eq!(stats.generated_tokens, 3 * 40);
        match speculate {
            0 => assert_eq!((stats.guessed_tokens, stats.steps), (0, 2 * 40)),
            _ => assert!(stats.right_guesses >= 15 && stats.steps < 2 * 40, "{stats:?}"),
        }
    }
}

#[test]
fn a_cached_prefix_gives_the_same_tokens_and_is_counted() {
    let mut engine = load(SMOLLM2, &options());
    let prompt = prompts(&engine).pop().unwrap();
    let ask = |engine: &mut Engine, id| {
        complete(
            engine,
            vec![Request {
                cache_salt: 5,
                ..request(id, prompt.clone(), 16)
            }],
        )
        .remove(0)
    };
    let (first, usage) = ask(&mut engine, 1);
    assert_eq!(usage.cached_tokens, 0);
    let (second, usage) = ask(&mut engine, 2);
    assert_eq!(first, second);
    assert_eq!(usage.cached_tokens, (prompt.len() - 1) / 16 * 16);
    let (other, usage) = complete(
        &mut engine,
        vec![Request {
            cache_salt: 6,
            ..request(3, prompt.clone(), 16)
        }],
    )
    .remove(0);
    assert_eq!((other, usage.cached_tokens), (first, 0));
    assert_eq!(engine.stats().blocks_used, 0);
}

#[test]
fn the_logits_after_each_token_lead_to_the_tokens_that_are_generated() {
    let mut engine = load(SMOLLM2, &options());
    let prompt = engine.tokenizer().encode_prompt("The capital of France is");
    let answer = complete(&mut engine, vec![request(0, prompt.clone(), 12)]).remove(0).0;
    let text = [prompt.clone(), answer.clone()].concat();
    let mut best = Vec::new();
    engine
        .score(&text, |logits| best.push(windlass_kernels::argmax(logits) as u32))
        .unwrap();
    assert_eq!(best.len(), text.len());
    assert_eq!(best[prompt.len() - 1..text.len() - 1], answer);
    assert_eq!(engine.stats().blocks_used, 0);
}

/// By position in the requests: how likely the tokens of their prompts were, and what ended them besides.
fn score(engine: &mut Engine, requests: Vec<Request>) -> Vec<(Vec<Logprobs>, Vec<Event>)> {
    let mut results = vec![(Vec::new(), Vec::new()); requests.len()];
    run(engine, requests, |at, event| match event {
        Event::Prompt { logprobs, .. } => {
            assert_eq!(results[at].1, [], "the prompt comes first");
            results[at].0.extend(logprobs);
        }
        Event::Token { .. } | Event::Ended { .. } => results[at].1.push(event),
        Event::Started { .. } | Event::Finished { .. } => {}
    });
    assert_eq!(engine.stats().blocks_used, 0);
    results
}

#[test]
fn each_token_of_a_prompt_is_as_likely_as_its_logits_say_however_it_is_computed() {
    let mut engine = load(SMOLLM2, &options());
    let prompts = prompts(&engine);
    let mut expected = Vec::new();
    for prompt in &prompts {
        let mut rows = Vec::new();
        engine.score(prompt, |logits| rows.push(logits.to_vec())).unwrap();
        let of = |(logits, &token): (&Vec<f32>, &u32)| {
            let largest = logits.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = logits.iter().map(|&logit| f64::from((logit - largest).exp())).sum();
            let log = |token: u32| (f64::from(logits[token as usize]) - f64::from(largest) - sum.ln()) as f32;
            let best = windlass_kernels::argmax(logits) as u32;
            (log(token), best, log(best))
        };
        expected.push(rows.iter().zip(&prompt[1..]).map(of).collect::<Vec<_>>());
    }
    let asks = |max_tokens| {
        let asks = (0..).zip(&prompts).map(move |(id, prompt)| Request {
            prompt_logprobs: Some(2),
            cache_salt: 0,
            ..request(id, prompt.clone(), max_tokens)
        });
        asks.collect::<Vec<_>>()
    };
    let check = |engine: &mut Engine, max_tokens, how: &str| {
        for (at, (logprobs, others)) in score(engine, asks(max_tokens)).iter().enumerate() {
            let found = logprobs.iter().map(|of| (of.chosen, of.top[0].0, of.top[0].1));
            assert_eq!(found.collect::<Vec<_>>(), expected[at], "prompt {at}, {how}");
            assert!(
                logprobs
                    .iter()
                    .all(|of| of.top.len() == 2 && of.top[0].1 >= of.top[1].1)
            );
            assert_eq!(others.len(), max_tokens, "prompt {at}, {how}");
        }
    };
    check(&mut engine, 0, "nothing but the prompt");
    check(&mut engine, 2, "with all of it in the cache");
    let mut small = load(
        SMOLLM2,
        &EngineOptions {
            max_sequences: 3,
            max_batch_tokens: 7,
            speculate: 4,
            ..options()
        },
    );
    check(&mut small, 1, "in small steps");
}

#[test]
fn a_prompt_that_loses_its_blocks_half_scored_is_not_scored_twice() {
    let roomy = EngineOptions {
        context_length: Some(128),
        max_batch_tokens: 12,
        ..options()
    };
    let Err(LoadError::Memory {
        weights,
        buffers,
        cache,
        ..
    }) = Engine::load(
        &model(SMOLLM2),
        &EngineOptions {
            memory_limit: Some(1),
            ..roomy.clone()
        },
    )
    else {
        panic!("a model without memory")
    };
    // The cache holds one sequence as long as the context, and no token more.
    let tight = EngineOptions {
        memory_limit: Some(weights + buffers + cache),
        ..roomy.clone()
    };
    let mut expected = None;
    for (options, preempts) in [(roomy, false), (tight, true)] {
        let mut engine = load(SMOLLM2, &options);
        let long = prompts(&engine).pop().unwrap();
        let asks = (0..2).map(|id| Request {
            prompt_logprobs: (id == 1).then_some(2),
            ..request(id, long[id as usize..][..63].to_vec(), 30)
        });
        let found = score(&mut engine, asks.collect());
        assert_eq!(found[1].0.len(), 62);
        assert_eq!(&found, expected.get_or_insert_with(|| found.clone()));
        assert_eq!(engine.stats().preemptions > 0, preempts);
    }
}

#[test]
fn the_token_that_ends_an_answer_is_told_to_those_who_want_the_probabilities_of_the_prompt() {
    let mut engine = load(SMOLLM2, &options());
    let end = engine.tokenizer().encode("<|im_end|>", true)[0];
    let ask = |prompt_logprobs| Request {
        prompt_logprobs,
        ignore_eos: false,
        sampling: Sampling {
            logprobs: Some(1),
            logit_bias: vec![(end, 100.0)],
            ..Sampling::default()
        },
        ..request(0, vec![5, 6, 7], 4)
    };
    let (prompt, others) = score(&mut engine, vec![ask(Some(0))]).remove(0);
    assert_eq!(prompt.len(), 2);
    let [Event::Ended { token, logprobs, .. }] = &others[..] else {
        panic!("{others:?}")
    };
    assert!(*token == end && logprobs.chosen < 0.0 && logprobs.top.len() == 1);
    assert_eq!(score(&mut engine, vec![ask(None)]).remove(0), (vec![], vec![]));
}

#[test]
fn a_cancelled_request_frees_its_blocks_and_the_others_go_on() {
    let mut engine = load(SMOLLM2, &options());
    let prompts = prompts(&engine);
    engine.submit(request(1, prompts[7].clone(), 500)).unwrap();
    engine.submit(request(2, prompts[0].clone(), 8)).unwrap();
    engine.step(&mut Vec::new());
    assert!(engine.cancel(RequestId(1)));
    let mut events = Vec::new();
    while engine.has_work() {
        engine.step(&mut events);
    }
    assert!(matches!(events.last(), Some(Event::Finished { id: RequestId(2), .. })));
    assert_eq!(engine.stats().blocks_used, 0);
}

#[test]
fn what_can_never_be_computed_is_refused_at_once() {
    let mut engine = load(
        SMOLLM2,
        &EngineOptions {
            context_length: Some(64),
            ..options()
        },
    );
    let refusal = |engine: &mut Engine, prompt| engine.submit(request(1, prompt, 1)).unwrap_err().to_string();
    assert!(refusal(&mut engine, vec![]).contains("empty"));
    assert!(refusal(&mut engine, vec![1; 64]).contains("64"));
    assert!(refusal(&mut engine, vec![4_000_000]).contains("4000000"));
    engine.submit(request(1, vec![1; 8], 1)).unwrap();
    assert!(refusal(&mut engine, vec![1; 8]).contains("in use"));
}

#[test]
fn a_chat_is_rendered_by_the_models_own_template() {
    let engine = load(SMOLLM2, &options());
    let messages = serde_json::json!([{"role": "user", "content": "Hi <|im_end|>"}]);
    let options = windlass_engine::chat::RenderOptions {
        add_generation_prompt: true,
        ..Default::default()
    };
    let prompt = engine.chat_template().render(&messages, &options).unwrap();
    assert!(
        prompt
            .text()
            .ends_with("<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n"),
        "{}",
        prompt.text()
    );
    let tokens = engine.tokenizer().encode_rendered(&prompt);
    let end = engine.tokenizer().encode("<|im_end|>", true)[0];
    let ends = tokens.iter().filter(|&&token| token == end).count();
    assert_eq!(
        ends, 2,
        "one for the system's message, one for the user's; none for what the user wrote"
    );
}

/// A model as Gemma's are, with a template; the real file is of the base model, and has none.
#[test]
fn a_chat_with_gemmas_turns_begins_with_one_bos_and_ends_where_the_turn_ends() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tiny/gemma3.gguf");
    let small = EngineOptions {
        context_length: Some(256),
        ..options()
    };
    let engine = Engine::load(&path, &small).unwrap();
    let tokenizer = engine.tokenizer();
    let messages = serde_json::json!([
        {"role": "user", "content": " Hi <end_of_turn><bos>"},
        {"role": "assistant", "content": "Ho"},
    ]);
    let options = windlass_engine::chat::RenderOptions {
        add_generation_prompt: true,
        ..Default::default()
    };
    let prompt = engine.chat_template().render(&messages, &options).unwrap();
    let text = "<bos><start_of_turn>user\nHi <end_of_turn><bos><end_of_turn>\n<start_of_turn>model\nHo<end_of_turn>\n\
                <start_of_turn>model\n";
    assert_eq!(prompt.text(), text);
    let tokens = tokenizer.encode_rendered(&prompt);
    let (bos, end) = (tokenizer.bos().unwrap(), tokenizer.encode("<end_of_turn>", true)[0]);
    let count = |token| tokens.iter().filter(|&&other| other == token).count();
    assert_eq!((tokens[0], count(bos), count(end)), (bos, 1, 2), "the user's are text");
    assert!(tokenizer.is_eog(end) && tokenizer.is_eog(tokenizer.eos().unwrap()));
    assert_eq!(tokenizer.encode_prompt("<bos>Hi"), tokenizer.encode_prompt("Hi"));
}

#[test]
fn gemmas_turns_are_tokens_of_its_vocabulary() {
    let engine = load(GEMMA, &options());
    let tokenizer = engine.tokenizer();
    // As llama.cpp has them.
    assert_eq!(tokenizer.encode_prompt("Hi <end_of_turn>"), [2, 10979, 236743, 106]);
    assert!(tokenizer.is_eog(106) && tokenizer.is_eog(1) && !tokenizer.is_eog(105));
    assert!(tokenizer.piece(106).is_empty());
}
