//! Source -> verified file: reuse what is there, else download, check the digest, read the header, give the name.
use std::fs::File;
use std::path::{Path, PathBuf};

use reqwest::Client;
use windlass_api::fetch::{FetchPhase, ModelFacts};

use crate::client::client;
use crate::commit::Commit;
use crate::connection::{Announced, Connection, Token};
use crate::digest::Digest;
use crate::download::{Demand, Expected, blocking, download};
use crate::failure::FetchFailed;
use crate::gguf::{self, Unreadable};
use crate::hub;
use crate::part::{Part, folder_of};
use crate::patience::Patience;
use crate::pattern::Patterns;
use crate::progress::Progress;
use crate::repository;
use crate::source::Source;
use crate::split;

/// What to fetch, whereto, and within which limits.
pub struct Order {
    /// From where.
    pub source: Source,
    /// The commit that this deployment recorded; it goes before the source's revision.
    pub commit: Option<Commit>,
    /// The file that shall be there in the end, or the folder for a whole repository; the folder above is created.
    pub dest: PathBuf,
    /// Which files of a whole repository.
    pub patterns: Patterns,
    /// Sent to the source's own origin only.
    pub token: Option<Token>,
    /// Digest and size.
    pub demand: Demand,
    /// Time-outs and retries.
    pub patience: Patience,
    /// Certificates in PEM, trusted like those of the system.
    pub bundle: Option<PathBuf>,
}

/// Fetches; afterwards the file stands at its place and is what was asked for, or nothing stands there that was not
/// there before. A branch or tag of a hub is resolved to a commit once, and all is fetched by that commit.
pub async fn fetch(order: &Order, progress: &Progress) -> Result<ModelFacts, FetchFailed> {
    let client = client(order.patience.stall, order.bundle.as_deref())?;
    let wanted = order.demand.expected.map(|expected| expected.digest());
    if let Some(facts) = reuse(order, wanted, progress).await? {
        return Ok(with_commit(facts, order.commit));
    }
    let Some(recorded) = order.commit else {
        return by_revision(order, &client, progress).await;
    };
    match by_commit(order, &client, recorded, progress).await {
        Err(FetchFailed::NotFound { what, .. }) => {
            let gone = FetchFailed::CommitGone { what, commit: recorded };
            if wanted.is_none() {
                return Err(gone);
            }
            // The digest decides: the revision may still have the same content.
            tracing::warn!("{gone}; its digest is known, so the revision is tried");
            match by_revision(order, &client, progress).await {
                Err(
                    FetchFailed::DigestMismatch { .. } | FetchFailed::PinMoved { .. } | FetchFailed::NotFound { .. },
                ) => Err(gone),
                other => other,
            }
        }
        other => other,
    }
}

async fn by_commit(
    order: &Order,
    client: &Client,
    commit: Commit,
    progress: &Progress,
) -> Result<ModelFacts, FetchFailed> {
    let source = order.source.at(&commit);
    let facts = content(order, client, &source, progress).await?;
    Ok(with_commit(facts, Some(commit)))
}

/// Resolves the revision and fetches by the commit; a hub that names no commit is asked by the revision.
async fn by_revision(order: &Order, client: &Client, progress: &Progress) -> Result<ModelFacts, FetchFailed> {
    let home = Connection::new(client, &order.source, order.token.as_ref(), order.patience.stall);
    let announced = match order.source.place().and_then(|place| Commit::from_hex(&place.revision)) {
        Some(commit) => Announced {
            commit: Some(commit),
            ..Announced::default()
        },
        None if order.source.place().is_some_and(|place| place.file.is_empty()) => Announced::default(),
        None if order.source.place().is_some() || order.dest.exists() => home.announced().await,
        None => Announced::default(),
    };
    // What the first of several parts announces is not the digest of all.
    let digest = announced
        .digest
        .filter(|_| matches!(split::of_source(&order.source), Ok(None)));
    if let Some(facts) = reuse(order, digest, progress).await? {
        return Ok(with_commit(
            facts,
            announced.commit.filter(|_| order.source.place().is_some()),
        ));
    }
    match order.source.place() {
        None => content(order, client, &order.source, progress).await,
        Some(place) => {
            let commit = match announced.commit {
                None => hub::commit(&home, place).await,
                known => known,
            };
            match commit {
                Some(commit) => by_commit(order, client, commit, progress).await,
                None => content(order, client, &order.source, progress).await,
            }
        }
    }
}

/// Fetches the file or the whole repository from exactly this address.
async fn content(
    order: &Order,
    client: &Client,
    source: &Source,
    progress: &Progress,
) -> Result<ModelFacts, FetchFailed> {
    match source.place().filter(|place| place.file.is_empty()) {
        Some(place) => repository::fetch(order, client, source, place, progress).await,
        None => match split::of_source(&order.source)? {
            Some(names) => split::fetch(order, client, source, &names, progress).await,
            None => file(order, client, source, progress).await,
        },
    }
}

async fn file(order: &Order, client: &Client, source: &Source, progress: &Progress) -> Result<ModelFacts, FetchFailed> {
    let connection = Connection::new(client, source, order.token.as_ref(), order.patience.stall);
    let shown = order.source.shown().to_owned();
    let part = open(&order.dest, &key_of(&order.source)).await?;
    let part = match bring(&connection, &order.patience, &order.demand, part, progress).await? {
        Ok(part) => part,
        Err((part, mismatch)) => return Err(blocking(move || explain(part, &shown, mismatch)).await),
    };
    let commit = part.note().commit.as_deref().and_then(Commit::from_hex);
    let commit = commit.filter(|_| source.place().is_some());
    blocking(move || match examine(&part.path(), &shown, part.digest()) {
        Ok(facts) => part.finish().map(|()| with_commit(facts, commit)),
        Err(failed) => part.discard().and(Err(failed)),
    })
    .await
}

fn with_commit(facts: ModelFacts, commit: Option<Commit>) -> ModelFacts {
    ModelFacts {
        commit: commit.map(|commit| commit.to_string()).or(facts.commit),
        ..facts
    }
}

/// Opens the part of a file, whose folder is created.
pub async fn open(dest: &Path, key: &str) -> Result<Part, FetchFailed> {
    let (dest, key) = (dest.to_owned(), key.to_owned());
    blocking(move || {
        let folder = folder_of(&dest);
        std::fs::create_dir_all(folder).map_err(|error| FetchFailed::io("creating", folder, error))?;
        Part::open(&dest, &key)
    })
    .await
}

/// Downloads all of a file into its part and checks the digest; a part with the wrong content is given back with what
/// is wrong.
pub async fn bring(
    connection: &Connection<'_>,
    patience: &Patience,
    demand: &Demand,
    mut part: Part,
    progress: &Progress,
) -> Result<Result<Part, (Part, FetchFailed)>, FetchFailed> {
    loop {
        part = download(connection, patience, demand, part, progress).await?;
        progress.enter(FetchPhase::Verifying);
        let Err(mismatch) = check(&part, demand) else {
            return Ok(Ok(part));
        };
        if !part.resumed() {
            return Ok(Err((part, mismatch)));
        }
        // Pieces of two downloads may not belong together (a replaced file, a lost tail): the whole gets one chance.
        tracing::warn!("{mismatch}; once more from the start, because this file came in pieces");
        part.restart()?;
    }
}

/// Reads the header of a file whose bytes are known to be `digest`.
pub fn examine(path: &Path, shown: &str, digest: Digest) -> Result<ModelFacts, FetchFailed> {
    let file = File::open(path).map_err(|error| FetchFailed::io("opening", path, error))?;
    let size = file
        .metadata()
        .map_err(|error| FetchFailed::io("looking at", path, error))?
        .len();
    let what = shown.to_owned();
    gguf::read(file, digest, size).map_err(|unreadable| match unreadable {
        Unreadable::OtherFormat(looks_like) => FetchFailed::NotGguf { what, looks_like },
        Unreadable::Malformed(why) => FetchFailed::MalformedGguf { what, why },
        Unreadable::Io(error) => FetchFailed::io("reading", path, error),
    })
}

/// Removes a part with the wrong content. Where that is no model at all, saying what it is helps more than two digests.
fn explain(part: Part, shown: &str, mismatch: FetchFailed) -> FetchFailed {
    let explanation = match examine(&part.path(), shown, part.digest()) {
        Err(other @ FetchFailed::NotGguf { .. }) => other,
        _ => mismatch,
    };
    part.discard().err().unwrap_or(explanation)
}

/// An earlier run's file, if its digest is the wanted one.
async fn reuse(order: &Order, wanted: Option<Digest>, progress: &Progress) -> Result<Option<ModelFacts>, FetchFailed> {
    let Some(wanted) = wanted else { return Ok(None) };
    if order.source.place().is_some_and(|place| place.file.is_empty()) {
        return repository::reuse(order, wanted, progress).await;
    }
    if let Some(names) = split::of_source(&order.source)? {
        return split::reuse(order, &names, wanted, progress).await;
    }
    if !order.dest.is_file() {
        return Ok(None);
    }
    let (dest, shown, counter) = (order.dest.clone(), order.source.shown().to_owned(), progress.clone());
    progress.enter(FetchPhase::Verifying);
    let facts = blocking(move || {
        let file = File::open(&dest).map_err(|error| FetchFailed::io("opening", &dest, error))?;
        let found = Digest::of(file, |bytes| counter.received(bytes))
            .map_err(|error| FetchFailed::io("reading", &dest, error))?;
        if found != wanted {
            tracing::warn!("{} has {found}, wanted is {wanted}: it is fetched anew", dest.display());
            return Ok(None);
        }
        examine(&dest, &shown, found).map(Some)
    })
    .await?;
    progress.enter(FetchPhase::Resolving);
    progress.received(0);
    Ok(facts)
}

/// The chosen digest, and the one that the source announced.
fn check(part: &Part, demand: &Demand) -> Result<(), FetchFailed> {
    let found = part.digest();
    if let Some(expected) = &demand.expected {
        expected.check(found)?;
    }
    let announced = part.note().announced.as_deref().and_then(Digest::from_hex);
    match demand.listed.or(announced) {
        Some(announced) if announced != found => Err(FetchFailed::Damaged { announced, found }),
        _ => Ok(()),
    }
}

/// Tells sources apart without repeating an address that may be a secret.
pub fn key_of(source: &Source) -> String {
    use sha2::Digest as _;
    Digest::from(sha2::Sha256::new_with_prefix(source.url().as_str())).hex()
}

/// The digest to insist on: the spec's, else the recorded one. Empty texts are none.
pub fn expected(asked: Option<&str>, recorded: Option<&str>) -> Result<Option<Expected>, FetchFailed> {
    let parse = |text: Option<&str>, which| match text.map(str::trim).filter(|text| !text.is_empty()) {
        Some(text) => text
            .parse::<Digest>()
            .map(Some)
            .map_err(|_| FetchFailed::InvalidDigest { which }),
        None => Ok(None),
    };
    let recorded = parse(recorded, "the recorded digest")?.map(Expected::Recorded);
    Ok(parse(asked, "spec.model.digest")?.map(Expected::Asked).or(recorded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_the_spec_goes_before_the_recorded_one() {
        let (one, two) = (
            format!("sha256:{}", "1".repeat(64)),
            format!("sha256:{}", "2".repeat(64)),
        );
        assert_eq!(
            expected(Some(&one), Some(&two)).unwrap(),
            Some(Expected::Asked(one.parse().unwrap()))
        );
        assert_eq!(
            expected(Some(""), Some(&two)).unwrap(),
            Some(Expected::Recorded(two.parse().unwrap()))
        );
        assert_eq!(expected(None, Some("\n")).unwrap(), None);
        assert!(expected(Some("sha256:12"), None).is_err());
        assert!(expected(Some(&one), Some("latest")).is_err());
    }
}
