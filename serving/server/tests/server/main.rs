//! The real binary with a real model (SmolLM2-135M-Instruct), over real sockets. Each test starts a
//! server of its own; nothing here knows the server's insides.
mod answers;
mod choices;
mod client;
mod disconnect;
mod drain;
mod logprobs;
mod process;
mod queue;
mod refusals;
mod sampling;
mod start;
mod tokenize;
