//! A whole repository becomes a folder: list, choose, fetch each file, compare, look at what it is, give it its name.
//!
//! All is gathered in `DEST.part`, where a later run goes on; DEST appears, or is replaced, when every file is verified.
pub mod choice;
pub mod folder;
pub mod safetensors;

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use reqwest::Client;
use windlass_api::fetch::{FetchPhase, ModelFacts};

use crate::connection::Connection;
use crate::digest::Digest;
use crate::download::{Demand, Expected, blocking};
use crate::failure::FetchFailed;
use crate::fetch::{Order, bring, key_of, open};
use crate::hub;
use crate::manifest::Manifest;
use crate::part::{beside, folder_of};
use crate::progress::Progress;
use crate::source::{Place, Source};
use crate::space;
use crate::verify;

use choice::Listed;

/// Fetches the repository at exactly this revision.
pub async fn fetch(
    order: &Order,
    client: &Client,
    source: &Source,
    place: &Place,
    progress: &Progress,
) -> Result<ModelFacts, FetchFailed> {
    let shown = order.source.shown().to_owned();
    let listed = {
        let connection = Connection::new(client, source, order.token.as_ref(), order.patience.stall);
        hub::list(&connection, place, &order.patience, progress).await?
    };
    let files = choice::choose(listed, &order.patterns, &shown)?;
    let total: u64 = files
        .iter()
        .fold(0, |sum, file| sum.saturating_add(file.size.unwrap_or_default()));
    if let Some(limit) = order.demand.limit.filter(|limit| total > *limit) {
        return Err(FetchFailed::OverLimit { size: total, limit });
    }
    let staging = Staging::open(&order.dest).await?;
    progress.expect(Some(total).filter(|_| files.iter().all(|file| file.size.is_some())));
    staging.admit(&files)?;
    let mut manifest = Manifest::default();
    for file in &files {
        let done = manifest.size();
        let limit = order.demand.limit.map(|limit| limit.saturating_sub(done));
        let (digest, size) = one(order, client, source, file, &staging, limit, &progress.after(done)).await?;
        manifest.add(&file.path, digest, size);
    }
    progress.enter(FetchPhase::Verifying);
    let (expected, patterns) = (order.demand.expected, order.patterns.clone());
    blocking(move || {
        if let Some(expected) = expected {
            expected.check(manifest.digest())?;
        }
        staging.clear_all_but(&manifest)?;
        let facts = folder::facts(&staging.folder, &manifest, &patterns, &shown)?;
        staging.finish()?;
        Ok(facts)
    })
    .await
}

/// An earlier run's folder, if its manifest is the wanted one.
pub async fn reuse(order: &Order, wanted: Digest, progress: &Progress) -> Result<Option<ModelFacts>, FetchFailed> {
    if !order.dest.is_dir() {
        return Ok(None);
    }
    let (dest, patterns, shown) = (
        order.dest.clone(),
        order.patterns.clone(),
        order.source.shown().to_owned(),
    );
    let counter = progress.clone();
    progress.enter(FetchPhase::Verifying);
    let found = blocking(move || {
        let root = dest
            .canonicalize()
            .map_err(|error| FetchFailed::io("opening", &dest, error))?;
        verify::folder(&root, &root, Some(Expected::Asked(wanted)), &patterns, &shown, &counter)
    })
    .await;
    progress.enter(FetchPhase::Resolving);
    progress.received(0);
    match found {
        Ok(facts) => Ok(Some(facts)),
        Err(failed) => {
            tracing::warn!(
                "{} is not the wanted folder ({failed}): it is fetched anew",
                order.dest.display()
            );
            Ok(None)
        }
    }
}

/// One file, verified, at its name in the staging folder.
async fn one(
    order: &Order,
    client: &Client,
    source: &Source,
    file: &Listed,
    staging: &Staging,
    limit: Option<u64>,
    progress: &Progress,
) -> Result<(Digest, u64), FetchFailed> {
    let source = source.file(&file.path);
    let connection = Connection::new(client, &source, order.token.as_ref(), order.patience.stall);
    let path = staging.folder.join(&file.path);
    if let Some(old) = staging.earlier(&file.path) {
        let wanted = match file.digest {
            None => connection.announced().await.digest,
            known => known,
        };
        if let Some(wanted) = wanted {
            progress.enter(FetchPhase::Verifying);
            let (counter, place) = (progress.clone(), path.clone());
            let kept = blocking(move || keep(&old, &place, wanted, &counter)).await?;
            if let Some(size) = kept {
                return Ok((wanted, size));
            }
        }
    }
    let demand = Demand {
        expected: None,
        listed: file.digest,
        limit,
    };
    let part = open(&path, &key_of(&order.source.file(&file.path))).await?;
    let part = match bring(&connection, &order.patience, &demand, part, progress).await? {
        Ok(part) => part,
        Err((part, wrong)) => return Err(blocking(move || part.discard().err().unwrap_or(wrong)).await),
    };
    let (digest, received) = (part.digest(), part.length());
    match file.size.filter(|size| *size != received) {
        Some(announced) => {
            blocking(move || part.discard()).await?;
            Err(FetchFailed::WrongSize { announced, received })
        }
        None => {
            blocking(move || part.finish()).await?;
            Ok((digest, received))
        }
    }
}

/// Takes over a file of an earlier run if it is the wanted one, and returns its size.
fn keep(old: &Path, path: &Path, wanted: Digest, progress: &Progress) -> Result<Option<u64>, FetchFailed> {
    let failed = |action: &'static str| move |error: io::Error| FetchFailed::io(action, old, error);
    let file = File::open(old).map_err(failed("opening"))?;
    let size = file.metadata().map_err(failed("looking at"))?.len();
    let found = Digest::of(file, |bytes| progress.received(bytes)).map_err(failed("reading"))?;
    if found != wanted {
        progress.received(0);
        return Ok(None);
    }
    if old != path {
        let folder = folder_of(path);
        fs::create_dir_all(folder).map_err(|error| FetchFailed::io("creating", folder, error))?;
        // A second name for the same bytes: the old folder stays whole until the new one takes its place.
        fs::hard_link(old, path)
            .or_else(|_| fs::copy(old, path).map(|_| ()))
            .map_err(|error| FetchFailed::io("copying", path, error))?;
    }
    Ok(Some(size))
}

/// The folder in which a repository is gathered; it holds a lock.
struct Staging {
    dest: PathBuf,
    folder: PathBuf,
    _lock: File,
}

impl Staging {
    async fn open(dest: &Path) -> Result<Staging, FetchFailed> {
        let dest = dest.to_owned();
        blocking(move || {
            let folder = beside(&dest, ".part");
            fs::create_dir_all(&folder).map_err(|error| FetchFailed::io("creating", &folder, error))?;
            let lock = File::open(&folder).map_err(|error| FetchFailed::io("opening", &folder, error))?;
            lock.try_lock().map_err(|error| {
                let error = match error {
                    TryLockError::Error(error) => error,
                    TryLockError::WouldBlock => io::Error::other("another fetch is writing it"),
                };
                FetchFailed::io("locking", &folder, error)
            })?;
            Ok(Staging {
                dest,
                folder,
                _lock: lock,
            })
        })
        .await
    }

    /// The file that an earlier run left here, or at its final place.
    fn earlier(&self, path: &str) -> Option<PathBuf> {
        [self.folder.join(path), self.dest.join(path)]
            .into_iter()
            .find(|path| path.is_file())
    }

    /// Refuses a repository that does not fit; what an earlier run left here or at the final place needs no more room.
    fn admit(&self, files: &[Listed]) -> Result<(), FetchFailed> {
        let length = |path: PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
        let missing = files.iter().fold(0_u64, |sum, file| {
            let (size, here) = (file.size.unwrap_or_default(), self.folder.join(&file.path));
            let there = length(self.dest.join(&file.path));
            let there = if there == size { there } else { 0 };
            let found = length(beside(&here, ".part")).max(length(here)).max(there);
            sum.saturating_add(size.saturating_sub(found))
        });
        space::require(folder_of(&self.folder), missing)
    }

    /// Removes what other revisions or other patterns left.
    fn clear_all_but(&self, manifest: &Manifest) -> Result<(), FetchFailed> {
        let wanted: BTreeSet<PathBuf> = manifest.paths().map(|path| self.folder.join(path)).collect();
        for path in folder::paths(&self.folder)? {
            if !wanted.contains(&path) {
                fs::remove_file(&path).map_err(|error| FetchFailed::io("removing", &path, error))?;
            }
        }
        Ok(())
    }

    /// Gives the folder its final name.
    fn finish(self) -> Result<(), FetchFailed> {
        let old = beside(&self.dest, ".old");
        remove(&old)?;
        let naming = |error| FetchFailed::io("naming", &self.dest, error);
        if self.dest.exists() {
            fs::rename(&self.dest, &old).map_err(naming)?;
        }
        fs::rename(&self.folder, &self.dest).map_err(naming)?;
        remove(&old)?;
        let parent = folder_of(&self.dest);
        File::open(parent)
            .and_then(|file| file.sync_all())
            .map_err(|error| FetchFailed::io("flushing", parent, error))
    }
}

fn remove(folder: &Path) -> Result<(), FetchFailed> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FetchFailed::io("removing", folder, error)),
        _ => Ok(()),
    }
}
