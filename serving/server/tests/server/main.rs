//! The real binary with real models (SmolLM2-135M-Instruct, all-MiniLM-L6-v2), over real sockets. Each test starts a
//! server of its own; nothing here knows the server's insides.
mod answers;
mod client;
mod disconnect;
mod drain;
mod embeddings;
mod process;
mod queue;
mod refusals;
mod start;
