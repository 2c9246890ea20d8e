//! A request's body, through both endpoints, until its token ids are known: what the engine gets is in its ranges, and
//! what is refused is refused in OpenAI's shape.
use std::path::Path;
use std::sync::{Arc, LazyLock};

use windlass_api::openai::ErrorBody;
use windlass_engine::chat::ChatTemplate;
use windlass_engine::load::gguf::Gguf;
use windlass_engine::tokenizer::Tokenizer;
use windlass_server::{Endpoint, Settings, read};

use crate::support::gguf::tiny_llama;

/// Tokens of the context.
const CONTEXT: usize = 256;

static MODEL: LazyLock<(Arc<Tokenizer>, ChatTemplate)> = LazyLock::new(|| {
    let bytes = tiny_llama().bytes();
    let gguf = Gguf::parse(&mut bytes.as_slice(), bytes.len() as u64, Path::new("fuzz.gguf")).expect("a good file");
    let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).expect("a good tokenizer"));
    let template = ChatTemplate::new(None, Arc::clone(&tokenizer)).expect("the fallback");
    (tokenizer, template)
});

/// What becomes of a body at each endpoint, after all checks.
pub fn outcomes(bytes: &[u8]) -> [Result<(), ErrorBody>; 2] {
    let (tokenizer, template) = &*MODEL;
    [Endpoint::Chat, Endpoint::Completions].map(|endpoint| {
        let read = read(bytes, endpoint, tokenizer, template, CONTEXT);
        let (settings, sequences) = read.map_err(|(status, body)| {
            refused(status, &body);
            body
        })?;
        accepted(&settings, &sequences, tokenizer.vocab_size());
        Ok(())
    })
}

fn accepted(settings: &Settings, sequences: &[Vec<u32>], vocabulary: usize) {
    let sampling = &settings.sampling;
    assert!((0.0..=2.0).contains(&sampling.temperature), "{sampling:?}");
    assert!(sampling.top_p > 0.0 && sampling.top_p <= 1.0, "{sampling:?}");
    assert!(sampling.top_k <= i32::MAX as usize, "{sampling:?}");
    assert!((usize::from(!settings.echo)..=CONTEXT).contains(&settings.max_tokens));
    assert!((0.0..=1.0).contains(&sampling.min_p), "{sampling:?}");
    for penalty in [sampling.presence_penalty, sampling.frequency_penalty] {
        assert!((-2.0..=2.0).contains(&penalty), "{sampling:?}");
    }
    assert!(
        sampling.repetition_penalty > 0.0 && sampling.repetition_penalty <= 100.0,
        "{sampling:?}"
    );
    assert!(sampling.min_tokens <= settings.max_tokens, "{sampling:?}");
    assert!(sampling.logprobs.is_none_or(|count| count <= 20), "{sampling:?}");
    let (biased, stops) = (&sampling.logit_bias, &sampling.stop_tokens);
    assert!(
        biased
            .iter()
            .all(|&(token, bias)| (token as usize) < vocabulary && bias.abs() <= 100.0)
    );
    assert!(stops.iter().all(|&token| (token as usize) < vocabulary));
    assert!((1..=128).contains(&settings.choices));
    assert!((-100..=100).contains(&settings.priority));
    assert!(settings.stops.len() <= 4 && settings.stops.iter().all(|stop| (1..=1024).contains(&stop.len())));
    assert!(!settings.include_usage || settings.stream);
    assert!((1..=64).contains(&sequences.len()));
    for tokens in sequences {
        assert!((1..CONTEXT).contains(&tokens.len()));
        assert!(tokens.iter().all(|&token| (token as usize) < vocabulary));
    }
}

fn refused(status: u16, body: &ErrorBody) {
    let error = &body.error;
    assert_eq!(
        (status, error.kind.as_str()),
        (400, "invalid_request_error"),
        "{error:?}"
    );
    assert!(error.code.is_some() && !error.message.is_empty());
    assert!(error.message.len() < 600, "a refusal repeats what was sent: {error:?}");
    assert!(error.param.as_ref().is_none_or(|param| param.len() < 300), "{error:?}");
}
