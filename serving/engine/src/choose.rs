//! The next token of one sequence: from the model's logits, through what its request asks for and what its
//! grammar allows, to a draw. Greedy answers whose best token is allowed copy nothing.
use crate::adjust::Adjusted;
use crate::grammar::{Allowed, Constraint};
use crate::logprobs::logprobs;
use crate::request::{FinishReason, Logprobs};
use crate::sample::{Candidates, pick};
use crate::sequence::Sequence;
use crate::tokenizer::Tokenizer;

/// Working memory, kept between calls.
#[derive(Debug, Default)]
pub struct Chooser {
    adjusted: Adjusted,
    candidates: Candidates,
}

impl Chooser {
    /// The token, with the probabilities that the model itself gave if they are asked for; or why the sequence ends without one. `own` are finite, `own_best` is the largest.
    pub fn choose(
        &mut self,
        own: &[f32],
        own_best: u32,
        sequence: &mut Sequence,
        tokenizer: &Tokenizer,
    ) -> Result<(u32, Option<Box<Logprobs>>), FinishReason> {
        let allowed = sequence
            .request
            .constraint
            .as_mut()
            .map(Constraint::allowed)
            .transpose();
        let allowed = allowed.map_err(|_| FinishReason::Constraint)?;
        let sampling = &sequence.request.sampling;
        let permits = |allowed: &Allowed| sampling.is_greedy() && allowed.contains(own_best);
        let (logits, best) = if sampling.adjusts(sequence.answered()) || !allowed.as_ref().is_none_or(permits) {
            let ends = tokenizer.end_tokens();
            let (tokens, prompt_tokens) = (&sequence.tokens, sequence.prompt_tokens);
            self.adjusted
                .adjust(own, sampling, tokens, prompt_tokens, ends, allowed.as_ref())
        } else {
            (own, own_best)
        };
        let token = if logits[best as usize] == f32::NEG_INFINITY {
            // The grammar allows nothing but the end, which is held back for `min_tokens`: the grammar wins.
            let end = |allowed: Allowed| tokenizer.end_tokens().find(|&end| allowed.contains(end));
            allowed.and_then(end).ok_or(FinishReason::Constraint)?
        } else {
            pick(logits, best, sampling, sequence.tokens.len(), &mut self.candidates)
        };
        let logprobs = |count| Box::new(logprobs(own, own_best, token, count));
        Ok((token, sampling.logprobs.map(logprobs)))
    }
}
