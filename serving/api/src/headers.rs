//! Header names of our own.

/// On every answer: the id under which the log knows the request. Made by the server; a value that
/// a client sends is ignored, so that nobody can choose what is written into logs or traces.
pub const REQUEST_ID: &str = "x-request-id";
