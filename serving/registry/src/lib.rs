//! A model source becomes a verified local file.
//!
//! `fetch` downloads (resuming what an earlier run left), `verify` looks at a file that is already there, `serve`
//! offers files under the addresses of the Hugging Face hub. `verify-runtime` asks a model server next to it. A file is called verified when its size, its digest and
//! its GGUF header are what they must be; until then it never stands at its final name.
//! Nothing here knows about Kubernetes; what went wrong is reported in the types of `windlass_api::fetch`.

pub mod client;
pub mod commit;
pub mod connection;
pub mod digest;
pub mod download;
pub mod failure;
pub mod fetch;
pub mod gguf;
pub mod hub;
pub mod manifest;
pub mod part;
pub mod patience;
pub mod pattern;
pub mod progress;
pub mod report;
pub mod repository;
pub mod runtime;
pub mod serve;
pub mod source;
pub mod space;
pub mod split;
pub mod verify;
