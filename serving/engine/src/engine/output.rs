//! What a step computed becomes events: tokens of answers, and how likely those of prompts were.
use super::Engine;
use crate::grammar::Broken;
use crate::logprobs::logprobs;
use crate::request::{Event, FinishReason};

impl Engine {
    /// How likely those of the prompt's tokens were that follow the `count` computed last, which `output` and those after
    /// it are of; and why the sequence ends, if it does.
    pub(super) fn take_prompt(
        &mut self,
        output: usize,
        count: usize,
        index: usize,
        events: &mut Vec<Event>,
    ) -> Option<(FinishReason, bool)> {
        let sequence = self.scheduler.running_mut(index);
        let top = sequence.request.prompt_logprobs?;
        let first = sequence.computed - count;
        // After a preemption some are computed again.
        let rows = first.max(sequence.scored)..sequence.computed.min(sequence.prompt_tokens - 1);
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            let output = output + row - first;
            let (Some(best), Some(logits)) = (self.workspace.best(output), self.workspace.logits(output)) else {
                return Some((FinishReason::NonFinite, false));
            };
            all.push(logprobs(logits, best, sequence.tokens[row + 1], top));
        }
        sequence.scored += all.len();
        if !all.is_empty() {
            let id = sequence.request.id;
            events.push(Event::Prompt { id, logprobs: all });
        }
        None
    }

    /// The token of an output, for the running sequence `index`; and why the sequence ends, if it does, and whether by
    /// a token that is not part of it.
    pub(super) fn take_output(
        &mut self,
        output: usize,
        index: usize,
        events: &mut Vec<Event>,
    ) -> Option<(FinishReason, bool)> {
        let sequence = self.scheduler.running_mut(index);
        if sequence.tokens.len() >= sequence.limit {
            return Some((FinishReason::Length, false));
        }
        let choice = match (self.workspace.best(output), self.workspace.logits(output)) {
            (Some(best), Some(logits)) => self.chooser.choose(logits, best, sequence, &self.tokenizer),
            (best, _) => best.map(|best| (best, None)).ok_or(FinishReason::NonFinite),
        };
        let (token, logprobs) = match choice {
            Ok(choice) => choice,
            Err(reason) => return Some((reason, false)),
        };
        self.stats.generated_tokens += 1;
        let request = &mut sequence.request;
        let id = request.id;
        let ignored = request.ignore_eos && request.constraint.is_none();
        if request.sampling.stop_tokens.contains(&token) || self.tokenizer.is_eog(token) && !ignored {
            if let (Some(_), Some(logprobs)) = (request.prompt_logprobs, logprobs) {
                events.push(Event::Ended { id, token, logprobs });
            }
            return Some((FinishReason::Stop, true));
        }
        let taken = request.constraint.as_mut().map(|constraint| constraint.take(token));
        sequence.push(token);
        events.push(Event::Token { id, token, logprobs });
        let full = sequence.tokens.len() >= sequence.limit;
        match taken {
            Some(Err(Broken)) => Some((FinishReason::Constraint, false)),
            Some(Ok(true)) => Some((FinishReason::Stop, false)),
            Some(Ok(false)) | None => full.then_some((FinishReason::Length, false)),
        }
    }
}
