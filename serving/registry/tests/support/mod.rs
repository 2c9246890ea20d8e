//! What the integration tests share: model bytes, a misbehaving origin, an order with little patience.
#![allow(dead_code)] // each test file uses its own part

pub mod origin;
pub mod sample;

use std::path::Path;
use std::time::Duration;

use windlass_api::fetch::ModelFacts;
use windlass_registry::client::install_cryptography;
use windlass_registry::connection::Token;
use windlass_registry::digest::Digest;
use windlass_registry::download::{Demand, Expected};
use windlass_registry::failure::FetchFailed;
use windlass_registry::fetch::{Order, fetch};
use windlass_registry::patience::Patience;
use windlass_registry::pattern::Patterns;
use windlass_registry::progress::Progress;
use windlass_registry::source::Source;

/// A well-formed model of about three mebibytes: several batches on their way to the disk.
pub fn model() -> Vec<u8> {
    sample::Sample {
        padding: 3 << 20,
        ..Default::default()
    }
    .bytes()
}

pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest::of(bytes, |_| {}).unwrap()
}

/// An order for `hf://org/repo/model.gguf` from a hub at this address.
pub fn order(hub: &str, folder: &Path) -> Order {
    install_cryptography();
    Order {
        source: Source::parse("hf://org/repo/model.gguf", "main", hub).unwrap(),
        commit: None,
        dest: folder.join("model.gguf"),
        token: None,
        bundle: None,
        demand: Demand {
            expected: None,
            listed: None,
            limit: None,
        },
        patterns: Patterns::default(),
        patience: Patience {
            stall: Duration::from_secs(20), // longer than a busy machine takes
            attempts: 3,
            first_wait: Duration::from_millis(1),
            longest_wait: Duration::from_millis(2),
        },
    }
}

pub fn asked(mut order: Order, digest: Digest) -> Order {
    order.demand.expected = Some(Expected::Asked(digest));
    order
}

pub fn with_token(mut order: Order, token: &str) -> Order {
    order.token = Token::parse(token).unwrap();
    order
}

pub async fn run(order: &Order) -> Result<ModelFacts, FetchFailed> {
    fetch(order, &Progress::default()).await
}

/// The names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
