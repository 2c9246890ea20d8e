//! The hub's API about a repository, as JSON: the description of a revision and the pages of its tree.
use std::path::Path;

use axum::http::header;
use axum::http::request::Parts;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::listing::{Entry, Listing};
use crate::digest::Digest;

/// Files on one page of a tree.
const PAGE: usize = 1000;

/// One page of a tree.
pub struct Page {
    /// The files.
    pub entries: Value,
    /// The address of the next page.
    pub next: Option<String>,
}

/// `{id, sha, siblings}`, from which downloaders learn the commit and the names of the files.
pub fn revision(repository: &Path, commit: &str, listing: &Listing) -> Value {
    let name = repository.to_string_lossy();
    let siblings: Vec<_> = listing.0.iter().map(|entry| json!({"rfilename": entry.path})).collect();
    json!({"id": name, "modelId": name, "sha": commit, "private": false, "gated": false, "tags": [], "siblings": siblings})
}

/// The files from `cursor` on, at most `limit`. A digest that no request has needed yet is left out, because it takes
/// as long as reading the file; `X-Linked-Etag` of the file itself has it.
pub fn tree(request: &Parts, listing: &Listing, known: impl Fn(&Entry) -> Option<Digest>) -> Page {
    let query = |name: &str| {
        let pairs = request.uri.query().unwrap_or_default().split('&');
        pairs
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    };
    let number = |name: &str| query(name).and_then(|value| value.parse::<usize>().ok());
    let limit = number("limit").unwrap_or(PAGE).clamp(1, PAGE);
    let start = number("cursor").unwrap_or(0).min(listing.0.len());
    let end = (start + limit).min(listing.0.len());
    let entries = listing.0[start..end]
        .iter()
        .map(|entry| described(entry, known(entry)))
        .collect();
    let next = (end < listing.0.len()).then(|| {
        let text = |name| request.headers.get(name).and_then(|value| value.to_str().ok());
        let origin = text(header::HOST).map(
            |host| match text(header::HeaderName::from_static("x-forwarded-proto")) {
                Some("https") => format!("https://{host}"),
                _ => format!("http://{host}"),
            },
        );
        let path = request.uri.path();
        format!(
            "{}{path}?recursive=true&limit={limit}&cursor={end}",
            origin.unwrap_or_default()
        )
    });
    Page { entries, next }
}

fn described(entry: &Entry, digest: Option<Digest>) -> Value {
    let oid = Digest::from(Sha256::new_with_prefix(format!("{}\0{}", entry.path, entry.size))).hex();
    let mut value = json!({"type": "file", "path": entry.path, "size": entry.size, "oid": oid[..40]});
    if let Some(digest) = digest {
        value["lfs"] = json!({"oid": digest.hex(), "size": entry.size, "pointerSize": 135});
    }
    value
}
