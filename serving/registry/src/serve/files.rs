//! The folder behind the hub: finds a file inside it, knows its digest, streams its bytes.
//!
//! A digest is computed once for each (path, size, time of change); requests for other files do not wait for it.
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use axum::body::Bytes;
use futures::Stream;
use futures::stream;
use tokio::sync::{OnceCell, OwnedSemaphorePermit};

use super::listing::{Entry, Listing};
use crate::digest::Digest;
use crate::download::blocking;

/// Bytes read at once for one download.
const CHUNK: u64 = 256 << 10;
/// Entries of the digest cache; a hub of models has some dozens of files.
const MOST_DIGESTS: usize = 4096;

type Identity = (PathBuf, u64, SystemTime);

/// A folder of files.
pub struct Shelf {
    root: PathBuf,
    digests: Mutex<HashMap<Identity, Arc<OnceCell<Digest>>>>,
}

/// An open file.
pub struct Found {
    file: Arc<File>,
    /// Its size when it was opened.
    pub size: u64,
    /// Its digest.
    pub digest: Digest,
}

impl Shelf {
    /// The folder must exist.
    pub fn open(root: PathBuf) -> io::Result<Shelf> {
        let root = root.canonicalize()?;
        if !root.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Shelf {
            root,
            digests: Mutex::default(),
        })
    }

    /// The files of a repository as they are now.
    pub async fn list(&self, repository: &Path) -> io::Result<Listing> {
        let (root, repository) = (self.root.clone(), repository.to_owned());
        blocking(move || Listing::of(&root, &repository)).await.map_err(missing)
    }

    /// The digest of a listed file, if an earlier request has computed it.
    pub fn known(&self, entry: &Entry) -> Option<Digest> {
        let identity = (entry.real.clone(), entry.size, entry.changed);
        let digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        digests.get(&identity)?.get().copied()
    }

    /// Opens a file, by its path in the folder; whatever is not a regular file inside the folder is not found.
    pub async fn find(&self, path: &Path) -> io::Result<Found> {
        let (root, wanted) = (self.root.clone(), self.root.join(path));
        let (path, file) = blocking(move || open_inside(&root, &wanted)).await?;
        let metadata = file.metadata()?;
        let (file, size) = (Arc::new(file), metadata.len());
        let cell = self.cell((path, size, metadata.modified()?));
        let to_hash = file.clone();
        let digest = cell
            .get_or_try_init(|| blocking(move || Digest::of(&*to_hash, |_| {})))
            .await?;
        Ok(Found {
            file,
            size,
            digest: *digest,
        })
    }

    fn cell(&self, identity: Identity) -> Arc<OnceCell<Digest>> {
        let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        if digests.len() >= MOST_DIGESTS {
            digests.clear(); // they are computed again when they are wanted
        }
        digests.entry(identity).or_default().clone()
    }
}

/// A path through a file, and one with a name that is too long, lead nowhere.
fn missing(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => io::ErrorKind::NotFound.into(),
        _ => error,
    }
}

fn open_inside(root: &Path, wanted: &Path) -> io::Result<(PathBuf, File)> {
    let path = wanted.canonicalize().map_err(missing)?;
    if !path.starts_with(root) || !path.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let file = File::open(&path)?;
    Ok((path, file))
}

impl Found {
    /// The bytes of a part that lies inside the file; the permit is given back when the last one is sent.
    pub fn stream(
        &self,
        start: u64,
        length: u64,
        permit: OwnedSemaphorePermit,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let file = self.file.clone();
        stream::try_unfold((start, length, permit), move |(at, left, permit)| {
            let file = file.clone();
            async move {
                if left == 0 {
                    return Ok(None);
                }
                let bytes = blocking(move || {
                    let mut buffer = vec![0; usize::try_from(left.min(CHUNK)).unwrap_or_default()];
                    // A file that shrank ends the connection early: the caller sees a cut, not wrong bytes.
                    file.read_exact_at(&mut buffer, at).map(|()| buffer)
                })
                .await?;
                let count = bytes.len() as u64;
                Ok(Some((Bytes::from(bytes), (at + count, left - count, permit))))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_that_leave_the_folder_and_folders_are_not_found() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = folder.path().canonicalize().unwrap();
        fs::write(elsewhere.path().join("secret"), "x").unwrap();
        fs::write(root.join("file"), "x").unwrap();
        symlink(elsewhere.path().join("secret"), root.join("link")).unwrap();
        symlink("file", root.join("inside")).unwrap();
        let kind = |name: &str| {
            open_inside(&root, &root.join(name))
                .map(|(path, _)| path)
                .map_err(|error| error.kind())
        };
        assert_eq!(kind("inside").unwrap(), root.join("file"));
        for name in ["link", "", "absent", "file/below", &"x".repeat(300)] {
            assert_eq!(kind(name).unwrap_err(), io::ErrorKind::NotFound, "{name}");
        }
    }

    #[tokio::test]
    async fn a_changed_file_has_a_new_digest() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("org/repo/f");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let shelf = Shelf::open(folder.path().into()).unwrap();
        for content in ["a", "bc"] {
            fs::write(&file, content).unwrap();
            let found = shelf.find(Path::new("org/repo/f")).await.unwrap();
            assert_eq!(found.digest, Digest::of(content.as_bytes(), |_| {}).unwrap());
        }
    }
}
