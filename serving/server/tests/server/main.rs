//! The real binary with real models (SmolLM2-135M-Instruct if not said otherwise), over real sockets. Each test starts a
//! server of its own; nothing here knows the server's insides.
mod answers;
#[path = "../../../engine/tests/support/cache.rs"]
mod cache;
mod choices;
mod client;
mod disconnect;
mod drain;
mod embeddings;
mod hole;
mod hostile;
mod logprobs;
mod openai;
mod process;
mod queue;
mod refusals;
mod sampling;
mod start;
mod structured;
mod tokenize;
mod tools;
