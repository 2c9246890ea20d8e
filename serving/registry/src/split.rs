//! A GGUF model in several files, `NAME-00001-of-0000N.gguf` and so on, as `gguf-split` writes them: all parts stand next
//! to each other under their own names, or none does.
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use reqwest::Client;
use windlass_api::fetch::{FetchPhase, ModelFacts};

use crate::connection::Connection;
use crate::digest::Digest;
use crate::download::{Demand, Expected, blocking};
use crate::failure::FetchFailed;
use crate::fetch::{Order, bring, examine, key_of, open};
use crate::manifest::Manifest;
use crate::part::{Part, folder_of};
use crate::progress::Progress;
use crate::source::Source;

/// More parts are no model; a hundred of 50 GB are five terabytes.
const MOST_PARTS: u32 = 256;

/// The names of all parts, if the name is that of a first one of several. Another part's name is an error, because the
/// head of the first one has what a runtime needs.
pub fn names(name: &str) -> Result<Option<Vec<String>>, FetchFailed> {
    let Some((prefix, number, count)) = parse(name) else {
        return Ok(None);
    };
    if count <= 1 {
        return Ok(None);
    }
    let refused = |why: String| Err(FetchFailed::InvalidSource { why });
    let of = |number: u32| format!("{prefix}-{number:05}-of-{count:05}.gguf");
    if number != 1 {
        return refused(format!("{name} is one of {count} parts; name the first one, {}", of(1)));
    }
    if count > MOST_PARTS {
        return refused(format!(
            "{name} claims {count} parts, more than the {MOST_PARTS} that are believable"
        ));
    }
    Ok(Some((1..=count).map(of).collect()))
}

fn parse(name: &str) -> Option<(&str, u32, u32)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    let digits =
        |text: &str| (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?;
    (!prefix.is_empty()).then_some((prefix, digits(number)?, digits(count)?))
}

/// The names of all parts that a source means, if it is a first one.
pub fn of_source(source: &Source) -> Result<Option<Vec<String>>, FetchFailed> {
    let last = source
        .url()
        .path_segments()
        .and_then(|mut parts| parts.next_back())
        .unwrap_or_default();
    names(&percent_decode_str(last).decode_utf8_lossy())
}

/// The paths of all parts next to `dest`, which must be named as the first one is.
fn places(dest: &Path, names: &[String]) -> Result<Vec<PathBuf>, FetchFailed> {
    if dest.file_name().and_then(|name| name.to_str()) != names.first().map(String::as_str) {
        let (count, first) = (names.len(), names.first().cloned().unwrap_or_default());
        return Err(FetchFailed::InvalidSource {
            why: format!("the model has {count} files, whose names must stay: end --dest with {first}"),
        });
    }
    Ok(names.iter().map(|name| folder_of(dest).join(name)).collect())
}

/// Fetches all parts from exactly this revision.
pub async fn fetch(
    order: &Order,
    client: &Client,
    source: &Source,
    names: &[String],
    progress: &Progress,
) -> Result<ModelFacts, FetchFailed> {
    let places = places(&order.dest, names)?;
    let mut announced = Vec::new();
    for name in names {
        let source = source.sibling(name);
        let connection = Connection::new(client, &source, order.token.as_ref(), order.patience.stall);
        announced.push(connection.announced().await);
    }
    let total = announced
        .iter()
        .try_fold(0_u64, |sum, part| sum.checked_add(part.size?));
    if let (Some(size), Some(limit)) = (total, order.demand.limit.filter(|limit| total > Some(*limit))) {
        return Err(FetchFailed::OverLimit { size, limit });
    }
    progress.expect(total);
    let (mut pieces, mut done) = (Vec::new(), 0);
    for ((name, place), announced) in names.iter().zip(&places).zip(announced) {
        let source = source.sibling(name);
        let connection = Connection::new(client, &source, order.token.as_ref(), order.patience.stall);
        let counter = progress.after(done);
        let kept = match announced.digest {
            Some(wanted) => there(place, wanted, &counter).await?,
            None => None,
        };
        let piece = match kept {
            Some(piece) => piece,
            None => {
                let demand = Demand {
                    expected: None,
                    listed: announced.digest,
                    limit: order.demand.limit.map(|limit| limit.saturating_sub(done)),
                };
                let part = open(place, &key_of(&order.source.sibling(name))).await?;
                match bring(&connection, &order.patience, &demand, part, &counter).await? {
                    Ok(part) => Piece::Fetched(part),
                    Err((part, wrong)) => return Err(blocking(move || part.discard().err().unwrap_or(wrong)).await),
                }
            }
        };
        done += piece.size();
        pieces.push(piece);
    }
    progress.enter(FetchPhase::Verifying);
    let (names, expected, shown) = (names.to_vec(), order.demand.expected, order.source.shown().to_owned());
    blocking(move || {
        let files: Vec<_> = pieces.iter().map(Piece::file).collect();
        match judge(&names, &files, expected, &shown) {
            Ok(facts) => pieces.into_iter().try_for_each(Piece::finish).map(|()| facts),
            Err(failed) => pieces.into_iter().try_for_each(Piece::discard).and(Err(failed)),
        }
    })
    .await
}

/// Verifies parts that are there.
pub fn verify(
    names: &[String],
    places: &[PathBuf],
    expected: Option<Expected>,
    shown: &str,
    progress: &Progress,
) -> Result<ModelFacts, FetchFailed> {
    let (mut files, mut done) = (Vec::new(), 0);
    for place in places {
        let (digest, size) = hash(place, &progress.after(done))?;
        done += size;
        files.push((place.clone(), digest, size));
    }
    judge(names, &files, expected, shown)
}

/// The earlier run's parts next to `dest`, if their manifest is the wanted one.
pub async fn reuse(
    order: &Order,
    names: &[String],
    wanted: Digest,
    progress: &Progress,
) -> Result<Option<ModelFacts>, FetchFailed> {
    let places = places(&order.dest, names)?;
    if !places.iter().all(|place| place.is_file()) {
        return Ok(None);
    }
    let (names, counter, shown) = (names.to_vec(), progress.clone(), order.source.shown().to_owned());
    progress.enter(FetchPhase::Verifying);
    let found = blocking(move || verify(&names, &places, Some(Expected::Asked(wanted)), &shown, &counter)).await;
    progress.enter(FetchPhase::Resolving);
    progress.received(0);
    Ok(found
        .inspect_err(|failed| tracing::warn!("what is there is not what is wanted ({failed}): it is fetched anew"))
        .ok())
}

/// One of the files, before all are verified.
enum Piece {
    /// It stood at its place before.
    There(PathBuf, Digest, u64),
    /// It has no name yet.
    Fetched(Part),
}

impl Piece {
    fn size(&self) -> u64 {
        self.file().2
    }

    fn file(&self) -> (PathBuf, Digest, u64) {
        match self {
            Piece::There(path, digest, size) => (path.clone(), *digest, *size),
            Piece::Fetched(part) => (part.path(), part.digest(), part.length()),
        }
    }

    fn finish(self) -> Result<(), FetchFailed> {
        match self {
            Piece::There(..) => Ok(()),
            Piece::Fetched(part) => part.finish(),
        }
    }

    fn discard(self) -> Result<(), FetchFailed> {
        match self {
            Piece::There(..) => Ok(()),
            Piece::Fetched(part) => part.discard(),
        }
    }
}

async fn there(place: &Path, wanted: Digest, progress: &Progress) -> Result<Option<Piece>, FetchFailed> {
    if !place.is_file() {
        return Ok(None);
    }
    let (place, progress) = (place.to_owned(), progress.clone());
    blocking(move || {
        let (digest, size) = hash(&place, &progress)?;
        if digest != wanted {
            progress.received(0);
            return Ok(None);
        }
        Ok(Some(Piece::There(place, digest, size)))
    })
    .await
}

fn hash(path: &Path, progress: &Progress) -> Result<(Digest, u64), FetchFailed> {
    let mut size = 0;
    let seen = |bytes| {
        size = bytes;
        progress.received(bytes);
    };
    let digest = std::fs::File::open(path)
        .and_then(|file| Digest::of(file, seen))
        .map_err(|error| FetchFailed::io("reading", path, error))?;
    Ok((digest, size))
}

/// The facts of the whole: those of the first part, the sums of all.
fn judge(
    names: &[String],
    files: &[(PathBuf, Digest, u64)],
    expected: Option<Expected>,
    shown: &str,
) -> Result<ModelFacts, FetchFailed> {
    let mut manifest = Manifest::default();
    let mut whole = ModelFacts::default();
    for (index, (name, (path, digest, size))) in names.iter().zip(files).enumerate() {
        manifest.add(name, *digest, *size);
        let facts = examine(path, &format!("{name} of {shown}"), *digest)?;
        let sum = whole
            .parameters
            .unwrap_or_default()
            .saturating_add(facts.parameters.unwrap_or_default());
        if index == 0 {
            whole = facts;
        }
        whole.parameters = Some(sum).filter(|sum| *sum > 0);
    }
    expected.map_or(Ok(()), |expected| expected.check(manifest.digest()))?;
    (whole.digest, whole.size_bytes) = (manifest.digest().to_string(), manifest.size());
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_part_names_all_of_them() {
        let found = names("m-Q4-00001-of-00003.gguf").unwrap().unwrap();
        assert_eq!(
            found,
            [
                "m-Q4-00001-of-00003.gguf",
                "m-Q4-00002-of-00003.gguf",
                "m-Q4-00003-of-00003.gguf"
            ]
        );
        for name in [
            "m.gguf",
            "m-00001-of-00001.gguf",
            "m-1-of-3.gguf",
            "-00001-of-00003.gguf",
            "m-00001-of-00003.bin",
        ] {
            assert_eq!(names(name).unwrap(), None, "{name}");
        }
        let message = names("m-00002-of-00003.gguf").unwrap_err().to_string();
        assert!(
            message.contains("name the first one, m-00001-of-00003.gguf"),
            "{message}"
        );
        assert!(names("m-00001-of-99999.gguf").is_err());
    }
}
