//! Logits as a request wants them: ends held back, biases and penalties, in vLLM's order, and last what its
//! grammar forbids. Works on a copy and from the sequence's tokens alone, so a sequence that is computed again
//! gets the same.
use crate::grammar::Allowed;
use crate::request::Sampling;
use windlass_kernels::argmax;

/// Working memory, kept between calls: nothing is allocated once it has seen a vocabulary.
#[derive(Debug, Default)]
pub struct Adjusted {
    logits: Vec<f32>,
    /// By token, all 0 between calls.
    counts: Vec<u32>,
}

impl Adjusted {
    /// The adjusted logits and their most likely token. `tokens` are prompt and answer, `ends` what the model ends
    /// its answers with; all of them, and those of `sampling`, index `logits`. `allowed` leaves out the rest.
    pub fn adjust(
        &mut self,
        logits: &[f32],
        sampling: &Sampling,
        tokens: &[u32],
        prompt_tokens: usize,
        ends: impl Iterator<Item = u32>,
        allowed: Option<&Allowed>,
    ) -> (&[f32], u32) {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        if tokens.len() - prompt_tokens < sampling.min_tokens {
            for token in ends.chain(sampling.stop_tokens.iter().copied()) {
                self.logits[token as usize] = f32::NEG_INFINITY;
            }
        }
        for &(token, bias) in &sampling.logit_bias {
            self.logits[token as usize] += bias;
        }
        if sampling.penalises() {
            self.penalise(sampling, tokens, prompt_tokens);
        }
        if let Some(allowed) = allowed {
            allowed.apply(&mut self.logits);
        }
        let best = argmax(&self.logits) as u32;
        (&self.logits, best)
    }

    fn penalise(&mut self, sampling: &Sampling, tokens: &[u32], prompt_tokens: usize) {
        self.counts.resize(self.logits.len(), 0);
        // 1 is "in the prompt", and each time in the answer adds 1: the prompt counts for repetition only.
        for &token in &tokens[..prompt_tokens] {
            self.counts[token as usize] = 1;
        }
        for &token in &tokens[prompt_tokens..] {
            let count = &mut self.counts[token as usize];
            *count = (*count).max(1) + 1;
        }
        for &token in tokens {
            let count = std::mem::take(&mut self.counts[token as usize]);
            if count == 0 {
                continue; // not its first place
            }
            let logit = &mut self.logits[token as usize];
            *logit *= if *logit > 0.0 {
                sampling.repetition_penalty.recip()
            } else {
                sampling.repetition_penalty
            };
            if count > 1 {
                *logit -= sampling.frequency_penalty * (count - 1) as f32 + sampling.presence_penalty;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 2.0, -1.0, 0.5, 3.0];

    fn adjust(sampling: Sampling, tokens: &[u32], prompt_tokens: usize) -> (Vec<f32>, u32) {
        let mut adjusted = Adjusted::default();
        let first = adjusted.adjust(&LOGITS, &sampling, tokens, prompt_tokens, [4].into_iter(), None);
        let first = (first.0.to_vec(), first.1);
        let again = adjusted.adjust(&LOGITS, &sampling, tokens, prompt_tokens, [4].into_iter(), None);
        assert_eq!((again.0.to_vec(), again.1), first, "a call left something behind");
        first
    }

    #[test]
    fn presence_and_frequency_count_the_answer_and_not_the_prompt() {
        let sampling = Sampling {
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            ..Sampling::default()
        };
        let (logits, best) = adjust(sampling, &[0, 4, 1, 1, 2], 2);
        assert_eq!(logits, [1.0, 1.0, -1.75, 0.5, 3.0]);
        assert_eq!(best, 4);
    }

    #[test]
    fn repetition_makes_tokens_of_prompt_and_answer_less_likely_once_each() {
        let sampling = Sampling {
            repetition_penalty: 2.0,
            ..Sampling::default()
        };
        let (logits, best) = adjust(sampling, &[0, 0, 2, 4, 4], 3);
        assert_eq!(logits, [0.5, 2.0, -2.0, 0.5, 1.5]);
        assert_eq!(best, 1);
    }

    #[test]
    fn a_bias_moves_its_token_alone() {
        let sampling = Sampling {
            logit_bias: vec![(3, 100.0), (4, -100.0)],
            ..Sampling::default()
        };
        let (logits, best) = adjust(sampling, &[0], 1);
        assert_eq!(logits, [1.0, 2.0, -1.0, 100.5, -97.0]);
        assert_eq!(best, 3);
    }

    #[test]
    fn ends_and_stop_tokens_are_impossible_until_there_are_enough_tokens() {
        let sampling = Sampling {
            min_tokens: 2,
            stop_tokens: vec![1],
            logit_bias: vec![(4, 100.0)],
            repetition_penalty: 0.5,
            ..Sampling::default()
        };
        let (logits, best) = adjust(sampling.clone(), &[4, 3], 1);
        assert_eq!((logits[4], logits[1], best), (f32::NEG_INFINITY, f32::NEG_INFINITY, 0));
        let (_, best) = adjust(sampling, &[4, 3, 3], 1);
        assert_eq!(best, 4);
    }
}
