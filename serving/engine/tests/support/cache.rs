//! Where things lie that are fetched once, and among them the models (`make models`).
#![allow(
    dead_code,
    clippy::disallowed_methods,
    reason = "each test file uses its part, and has to find the models"
)]
use std::path::PathBuf;

/// The folder.
pub fn cache() -> PathBuf {
    let given = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty());
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set"));
    let cache = given.map_or_else(|| home().join(".cache"), PathBuf::from);
    cache.join("windlass")
}

/// A model's file or folder.
pub fn model(name: &str) -> PathBuf {
    let folder = std::env::var_os("WINDLASS_MODELS").map_or_else(|| cache().join("models"), PathBuf::from);
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing: run `make models`", path.display());
    path
}
