//! Tool calls as OpenAI writes them: the pieces that a stream sends, and the calls that they are together.
use crate::calls::CallFinder;
use windlass_api::openai::{FunctionCall, FunctionCallDelta, ToolCall, ToolCallDelta};

/// Finds the calls of an answer and names them.
#[derive(Debug)]
pub struct Calls {
    finder: CallFinder,
    /// Begins the names.
    id: u64,
}

impl Calls {
    /// `id` is a number that no other answer has.
    pub fn new(id: u64) -> Self {
        let finder = CallFinder::default();
        Self { finder, id }
    }

    /// Takes more text: the text outside of calls, and what is new of these.
    pub fn push(&mut self, text: &str) -> (String, Vec<ToolCallDelta>) {
        let found = self.finder.push(text);
        let deltas = found.calls.into_iter().map(|part| {
            let first = part.name.is_some();
            ToolCallDelta {
                index: part.index,
                id: first.then(|| format!("call_{:016x}{:02x}", self.id, part.index)),
                kind: first.then(|| "function".to_owned()),
                function: FunctionCallDelta {
                    name: part.name,
                    arguments: part.arguments,
                },
            }
        });
        (found.text, deltas.collect())
    }

    /// The end: the text that was held back, and whether there were calls, all of them complete.
    pub fn finish(self) -> (String, bool) {
        self.finder.finish()
    }
}

/// Puts calls together from what a stream sends of them.
pub fn add_calls(calls: &mut Vec<ToolCall>, deltas: Vec<ToolCallDelta>) {
    for delta in deltas {
        if let Some(name) = delta.function.name {
            calls.push(ToolCall {
                id: delta.id.unwrap_or_default(),
                kind: delta.kind.unwrap_or_default(),
                function: FunctionCall {
                    name,
                    arguments: String::new(),
                },
            });
        }
        if let Some(call) = calls.last_mut() {
            call.function.arguments += &delta.function.arguments;
        }
    }
}
