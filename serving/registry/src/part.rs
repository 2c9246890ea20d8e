//! `FILE.part`: what has come of a file so far, hashed while it is written, with a note beside it
//! (`FILE.part.json`) that lets a later process go on. Blocking; at its final name a file stands only after `finish`.
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::failure::FetchFailed;

/// What must be known to go on where an earlier attempt ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Identifies source and revision without repeating them (an address may be a secret).
    pub key: String,
    /// The strong validator of the bytes so far.
    pub etag: Option<String>,
    /// Size of the whole.
    pub total: Option<u64>,
    /// The digest that the source announced, in hex.
    pub announced: Option<String>,
    /// The commit that the source announced with the last bytes.
    #[serde(default)]
    pub commit: Option<String>,
}

/// The file that grows. It holds a lock: two fetches never write to one file.
#[derive(Debug)]
pub struct Part {
    dest: PathBuf,
    file: File,
    hash: Sha256,
    length: u64,
    resumed: bool,
    note: Note,
}

impl Part {
    /// Opens or creates the part of `dest`; what an earlier run left is kept and hashed if its note has the same key.
    pub fn open(dest: &Path, key: &str) -> Result<Part, FetchFailed> {
        let path = beside(dest, ".part");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| FetchFailed::io("opening", &path, error))?;
        file.try_lock().map_err(|error| {
            let error = match error {
                TryLockError::Error(error) => error,
                TryLockError::WouldBlock => io::Error::other("another fetch is writing it"),
            };
            FetchFailed::io("locking", &path, error)
        })?;
        let note = read_note(dest).filter(|note| note.key == key);
        let fresh = Note {
            key: key.to_owned(),
            ..Note::default()
        };
        let mut part = Part {
            dest: dest.to_owned(),
            file,
            hash: Sha256::new(),
            length: 0,
            resumed: false,
            note: fresh,
        };
        match note {
            Some(note) => {
                part.note = note;
                part.rehash()
                    .map_err(|error| FetchFailed::io("reading", &path, error))?;
                part.resumed = part.length > 0;
            }
            None => part.restart()?,
        }
        Ok(part)
    }

    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether some of the bytes came in an earlier attempt than the rest.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// What is known of the whole.
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// The digest of the bytes so far.
    pub fn digest(&self) -> Digest {
        self.hash.clone().into()
    }

    /// The path of the part itself.
    pub fn path(&self) -> PathBuf {
        beside(&self.dest, ".part")
    }

    /// Writes the note, if it says something new.
    pub fn remember(&mut self, note: Note) -> Result<(), FetchFailed> {
        if note == self.note && beside(&self.dest, ".part.json").exists() {
            return Ok(());
        }
        let (path, new) = (beside(&self.dest, ".part.json"), beside(&self.dest, ".part.json.new"));
        serde_json::to_vec(&note)
            .map_err(io::Error::from)
            .and_then(|text| fs::write(&new, text))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|error| FetchFailed::io("writing", path, error))?;
        self.note = note;
        Ok(())
    }

    /// More bytes of the file follow from another connection than the first ones.
    pub fn mark_resumed(&mut self) {
        self.resumed = true;
    }

    /// Adds bytes at the end.
    pub fn append(&mut self, data: &[u8]) -> Result<(), FetchFailed> {
        self.file
            .write_all(data)
            .map_err(|error| FetchFailed::io("writing", self.path(), error))?;
        self.hash.update(data);
        self.length += data.len() as u64;
        Ok(())
    }

    /// Throws the bytes away and begins at zero.
    pub fn restart(&mut self) -> Result<(), FetchFailed> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(|error| FetchFailed::io("emptying", self.path(), error))?;
        (self.hash, self.length, self.resumed) = (Sha256::new(), 0, false);
        Ok(())
    }

    /// Gives the file its final name, after all of it is on the disk.
    pub fn finish(self) -> Result<(), FetchFailed> {
        let dest = &self.dest;
        self.file
            .sync_all()
            .map_err(|error| FetchFailed::io("flushing", self.path(), error))?;
        fs::rename(self.path(), dest).map_err(|error| FetchFailed::io("naming", dest, error))?;
        remove(&beside(dest, ".part.json"))?;
        let folder = folder_of(dest);
        File::open(folder)
            .and_then(|file| file.sync_all())
            .map_err(|error| FetchFailed::io("flushing", folder, error))
    }

    /// Removes the part: its content is wrong.
    pub fn discard(self) -> Result<(), FetchFailed> {
        remove(&self.path())?;
        remove(&beside(&self.dest, ".part.json"))
    }

    fn rehash(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 20];
        self.file.seek(SeekFrom::Start(0))?;
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.hash.update(&buffer[..count]);
                    self.length += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The folder that a file is in.
pub fn folder_of(dest: &Path) -> &Path {
    dest.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// `dest` with an ending added to its name.
pub fn beside(dest: &Path, suffix: &str) -> PathBuf {
    let mut name = dest.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A missing or unreadable note means that nothing is known: the download begins at zero.
fn read_note(dest: &Path) -> Option<Note> {
    serde_json::from_slice(&fs::read(beside(dest, ".part.json")).ok()?).ok()
}

fn remove(path: &Path) -> Result<(), FetchFailed> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FetchFailed::io("removing", path, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use windlass_api::fetch::FetchFailure;

    use super::*;

    fn dest() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let dest = folder.path().join("model.gguf");
        (folder, dest)
    }

    #[test]
    fn a_part_with_its_note_goes_on_where_it_ended_with_the_right_digest() {
        let (_folder, dest) = dest();
        let note = Note {
            key: "k".into(),
            etag: Some("\"e\"".into()),
            total: Some(3),
            announced: None,
            commit: None,
        };
        let mut part = Part::open(&dest, "k").unwrap();
        part.remember(note.clone()).unwrap();
        part.append(b"ab").unwrap();
        drop(part);
        let mut part = Part::open(&dest, "k").unwrap();
        assert_eq!((part.length(), part.resumed(), part.note()), (2, true, &note));
        part.append(b"c").unwrap();
        assert_eq!(part.digest(), Digest::of(&b"abc"[..], |_| {}).unwrap());
        part.finish().unwrap();
        assert_eq!(fs::read(&dest).unwrap(), b"abc");
        assert_eq!(fs::read_dir(dest.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_part_of_another_source_begins_at_zero() {
        let (_folder, dest) = dest();
        let mut part = Part::open(&dest, "k").unwrap();
        part.remember(Note {
            key: "k".into(),
            ..Note::default()
        })
        .unwrap();
        part.append(b"ab").unwrap();
        drop(part);
        assert_eq!(Part::open(&dest, "other").unwrap().length(), 0);
    }

    #[test]
    fn two_fetches_never_write_to_one_file() {
        let (_folder, dest) = dest();
        let _first = Part::open(&dest, "k").unwrap();
        let second = Part::open(&dest, "k").unwrap_err();
        assert!(second.explained().contains("another fetch"), "{}", second.explained());
    }

    #[test]
    fn a_full_disk_is_no_space() {
        let (_folder, dest) = dest();
        let mut part = Part::open(&dest, "k").unwrap();
        part.file = File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(part.append(b"ab").unwrap_err().reason(), FetchFailure::NoSpace);
        assert_eq!(part.length(), 0);
    }

    #[test]
    fn a_discarded_part_leaves_nothing() {
        let (_folder, dest) = dest();
        let mut part = Part::open(&dest, "k").unwrap();
        part.remember(Note {
            key: "k".into(),
            total: Some(1),
            ..Note::default()
        })
        .unwrap();
        part.discard().unwrap();
        assert_eq!(fs::read_dir(dest.parent().unwrap()).unwrap().count(), 0);
    }
}
