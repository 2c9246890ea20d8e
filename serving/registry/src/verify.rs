//! A file or folder that somebody else put on a volume: is it inside the volume, the chosen content, and a model?
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use windlass_api::fetch::{FetchPhase, ModelFacts};

use crate::digest::Digest;
use crate::download::{Expected, blocking};
use crate::failure::FetchFailed;
use crate::fetch::examine;
use crate::manifest::Manifest;
use crate::part::folder_of;
use crate::pattern::Patterns;
use crate::progress::Progress;
use crate::repository::choice::{Listed, choose};
use crate::repository::folder::{facts, paths};
use crate::split;

/// Folders of huggingface_hub, of git, and of file systems.
const OF_OTHERS: [&str; 3] = [".cache/huggingface/", ".git/", "lost+found/"];

/// Verifies a file or a folder; links to files are followed as long as they stay inside the volume.
pub async fn verify(
    file: PathBuf,
    volume: PathBuf,
    expected: Option<Expected>,
    patterns: Patterns,
    progress: &Progress,
) -> Result<ModelFacts, FetchFailed> {
    progress.enter(FetchPhase::Verifying);
    let counter = progress.clone();
    blocking(move || {
        let path = locate(&file, &volume)?;
        if path.is_dir() {
            let root = volume
                .canonicalize()
                .map_err(|error| FetchFailed::io("opening the volume", &volume, error))?;
            let shown = file.display().to_string();
            return folder(&path, &root, expected, &patterns, &shown, &counter);
        }
        if let Some(names) = split::names(&file.file_name().unwrap_or_default().to_string_lossy())? {
            let part = |name: &String| locate(&folder_of(&file).join(name), &volume);
            let places = names.iter().map(part).collect::<Result<Vec<_>, _>>()?;
            if places.iter().any(|place| place.is_dir()) {
                return Err(FetchFailed::OutsideVolume {
                    path: file,
                    why: "has a folder among its parts",
                });
            }
            return split::verify(&names, &places, expected, &file.display().to_string(), &counter);
        }
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

/// The manifest of a folder and what its files are.
pub fn folder(
    path: &Path,
    root: &Path,
    expected: Option<Expected>,
    patterns: &Patterns,
    shown: &str,
    progress: &Progress,
) -> Result<ModelFacts, FetchFailed> {
    let files = choose(listed(path, root)?, patterns, shown)?;
    progress.expect(Some(files.iter().filter_map(|file| file.size).sum()));
    let mut manifest = Manifest::default();
    for file in files {
        let real = path.join(&file.path);
        let (counter, mut size) = (progress.after(manifest.size()), 0);
        let digest = File::open(&real)
            .and_then(|handle| {
                Digest::of(handle, |bytes| {
                    size = bytes;
                    counter.received(bytes);
                })
            })
            .map_err(|error| FetchFailed::io("reading", &real, error))?;
        manifest.add(&file.path, digest, size);
    }
    // What the folder is comes first: "no safetensors" helps more than two digests.
    let facts = facts(path, &manifest, patterns, shown)?;
    expected.map_or(Ok(()), |expected| expected.check(manifest.digest()))?;
    Ok(facts)
}

/// The files of a folder, without what downloaders and file systems keep there for themselves.
fn listed(folder: &Path, root: &Path) -> Result<Vec<Listed>, FetchFailed> {
    let mut files = Vec::new();
    for path in paths(folder)? {
        let outside = |why| FetchFailed::OutsideVolume {
            path: path.clone(),
            why,
        };
        let Some(name) = path.strip_prefix(folder).ok().and_then(Path::to_str) else {
            return Err(outside("has a name that is not UTF-8"));
        };
        if OF_OTHERS.iter().any(|other| name.starts_with(other)) {
            continue;
        }
        let real = path
            .canonicalize()
            .map_err(|error| FetchFailed::io("opening", &path, error))?;
        if !real.starts_with(root) {
            return Err(outside("is a link that leaves the volume"));
        }
        if !real.is_file() {
            return Err(outside("is neither a regular file nor a link to one"));
        }
        let metadata = real
            .metadata()
            .map_err(|error| FetchFailed::io("looking at", &path, error))?;
        files.push(Listed {
            path: name.to_owned(),
            size: Some(metadata.len()),
            digest: None,
        });
    }
    Ok(files)
}

/// The real path of a regular file or a folder inside the volume.
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
    if !path.is_file() && !path.is_dir() {
        return Err(outside("is neither a regular file nor a folder"));
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
        let pipe = root.join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(reason(&pipe, root), FetchFailure::InvalidSource);
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
