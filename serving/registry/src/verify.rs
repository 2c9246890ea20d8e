//! A file that somebody else put on a volume: is it inside the volume, is it the chosen content, is it a model?
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use windlass_api::fetch::{FetchPhase, ModelFacts};

use crate::digest::Digest;
use crate::download::{Expected, blocking};
use crate::failure::FetchFailed;
use crate::fetch::examine;
use crate::progress::Progress;

/// Verifies a file; links are followed as long as they stay inside the volume.
pub async fn verify(
    file: PathBuf,
    volume: PathBuf,
    expected: Option<Expected>,
    progress: &Progress,
) -> Result<ModelFacts, FetchFailed> {
    progress.enter(FetchPhase::Verifying);
    let counter = progress.clone();
    blocking(move || {
        let path = locate(&file, &volume)?;
        let handle = File::open(&path).map_err(|error| FetchFailed::io("opening", &file, error))?;
        let size = handle
            .metadata()
            .map_err(|error| FetchFailed::io("looking at", &file, error))?
            .len();
        counter.expect(Some(size));
        let found = Digest::of(handle, |bytes| counter.received(bytes))
            .map_err(|error| FetchFailed::io("reading", &file, error))?;
        // What the file is comes first: "an HTML page" helps more than two digests.
        let facts = examine(&path, &file.display().to_string(), found)?;
        expected.map_or(Ok(()), |expected| expected.check(found))?;
        Ok(facts)
    })
    .await
}

/// The real path of a regular file inside the volume.
fn locate(file: &Path, volume: &Path) -> Result<PathBuf, FetchFailed> {
    let outside = |why| FetchFailed::OutsideVolume {
        path: file.to_owned(),
        why,
    };
    if file.components().any(|part| part == Component::ParentDir) {
        return Err(outside("contains `..`"));
    }
    if !file.is_absolute() || !file.starts_with(volume) {
        return Err(outside("is not inside the volume"));
    }
    let real = |path: &Path| path.canonicalize();
    let root = real(volume).map_err(|error| FetchFailed::io("opening the volume", volume, error))?;
    let path = match real(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(FetchFailed::NotFound {
                what: file.display().to_string(),
                detail: " on the volume".into(),
            });
        }
        other => other.map_err(|error| FetchFailed::io("opening", file, error))?,
    };
    if !path.starts_with(&root) {
        return Err(outside("is a link that leaves the volume"));
    }
    // Also keeps the process from waiting at a pipe for ever.
    if !path.is_file() {
        return Err(outside("is not a regular file"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use windlass_api::fetch::FetchFailure;

    use super::*;

    fn reason(file: &Path, volume: &Path) -> FetchFailure {
        locate(file, volume).unwrap_err().reason()
    }

    #[test]
    fn a_file_and_a_link_inside_the_volume_are_found() {
        let volume = tempfile::tempdir().unwrap();
        let root = volume.path().canonicalize().unwrap();
        fs::create_dir(root.join("blobs")).unwrap();
        fs::write(root.join("blobs/1"), "x").unwrap();
        symlink("blobs/1", root.join("model.gguf")).unwrap();
        assert_eq!(locate(&root.join("model.gguf"), &root).unwrap(), root.join("blobs/1"));
    }

    #[test]
    fn what_leaves_the_volume_is_refused() {
        let (volume, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (root, secret) = (volume.path(), elsewhere.path().join("secret"));
        fs::write(&secret, "x").unwrap();
        symlink(&secret, root.join("link")).unwrap();
        symlink(elsewhere.path(), root.join("folder")).unwrap();
        for file in [
            root.join("link"),
            root.join("folder/secret"),
            root.join("../x"),
            secret,
            PathBuf::from("link"),
        ] {
            assert_eq!(reason(&file, root), FetchFailure::InvalidSource, "{}", file.display());
        }
        assert_eq!(reason(root, root), FetchFailure::InvalidSource);
    }

    #[test]
    fn a_missing_file_is_not_found_and_a_missing_volume_is_io() {
        let volume = tempfile::tempdir().unwrap();
        assert_eq!(
            reason(&volume.path().join("absent"), volume.path()),
            FetchFailure::NotFound
        );
        let absent = volume.path().join("absent");
        assert_eq!(reason(&absent.join("file"), &absent), FetchFailure::Io);
    }
}
