//! How likely a token was by the model's own logits, before temperature, penalties and biases.
use crate::request::Logprobs;

/// Of `token`, which indexes `logits`, and of the `count` most likely tokens. `best` is the most likely one; the logits
/// are finite.
pub fn logprobs(logits: &[f32], best: u32, token: u32, count: usize) -> Logprobs {
    let largest = logits[best as usize];
    let sum: f64 = logits.iter().map(|&logit| f64::from((logit - largest).exp())).sum();
    // In f64, so that a token that takes nearly all has no positive logarithm from rounding.
    let of = |logit: f32| (f64::from(logit) - f64::from(largest) - sum.ln()) as f32;
    let mut top: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    for (token, &logit) in (0..).zip(logits) {
        if top.len() == count && top.last().is_none_or(|&(_, worst)| logit <= worst) {
            continue;
        }
        let place = top.partition_point(|&(_, better)| better >= logit);
        top.insert(place, (token, logit));
        top.truncate(count);
    }
    top.iter_mut().for_each(|(_, logit)| *logit = of(*logit));
    Logprobs {
        chosen: of(logits[token as usize]),
        top,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_and_come_best_first_and_of_equal_ones_the_first() {
        let logits = [0.5, 3.0, -2.0, 3.0, 1.0];
        let all = logprobs(&logits, 1, 4, 5);
        assert_eq!(
            all.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(),
            [1, 3, 4, 0, 2]
        );
        let sum: f32 = all.top.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        assert_eq!(all.chosen, all.top[2].1);
        for count in 0..5 {
            let some = logprobs(&logits, 1, 4, count);
            assert_eq!((some.chosen, some.top.as_slice()), (all.chosen, &all.top[..count]));
        }
    }

    #[test]
    fn a_token_that_takes_all_has_probability_one() {
        let sure = logprobs(&[-500.0, 900.0], 1, 1, 20);
        assert_eq!((sure.chosen, sure.top), (0.0, vec![(1, 0.0), (0, -1400.0)]));
    }
}
