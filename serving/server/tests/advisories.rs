//! Every parameter that is a number, with every number that has broken a server of somebody.
#[path = "../../engine/tests/support/mod.rs"]
mod support;
#[path = "targets/request.rs"]
mod target;

use target::outcomes;

const INTEGERS: [&str; 15] = [
    "best_of",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "min_tokens",
    "n",
    "priority",
    "prompt_logprobs",
    "seed",
    "top_k",
    "top_logprobs",
    "truncate_prompt_tokens",
    "n_discard",
    "n_predict",
    "thinking_budget",
];
const FLOATS: [&str; 8] = [
    "frequency_penalty",
    "length_penalty",
    "min_p",
    "presence_penalty",
    "repetition_penalty",
    "temperature",
    "top_p",
    "typical_p",
];
const NUMBERS: [&str; 16] = [
    "-1",
    "0",
    "-0.0",
    "1.5",
    "2147483647",
    "2147483648",
    "-2147483649",
    "9007199254740993",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e309",
    "-1e309",
    "NaN",
    "5e-324",
];

#[test]
fn every_number_of_every_parameter_is_in_its_range_or_refused_by_name() {
    let (mut accepted, mut refused) = (0, 0);
    for name in INTEGERS.iter().chain(&FLOATS) {
        for number in NUMBERS {
            let body = format!(r#"{{"prompt":"a","messages":[{{"role":"user","content":"a"}}],"{name}":{number}}}"#);
            // The target itself checks the ranges of what is accepted and the shape of what is refused.
            for outcome in outcomes(body.as_bytes()) {
                match outcome {
                    Ok(()) => accepted += 1,
                    Err(answer) => {
                        refused += 1;
                        assert_eq!(answer.error.param.as_deref(), Some(*name), "{body}");
                    }
                }
            }
        }
    }
    assert!(accepted > 50 && refused > 300, "{accepted} accepted, {refused} refused");
}
