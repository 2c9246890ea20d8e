//! Faults for a real operator process, made outside of it: a proxy between it and the API server.
mod plan;
mod proxy;
mod stream;

pub use plan::{EventFilter, Write, WriteFault, is_write};
pub use proxy::Proxy;
