//! Source -> verified file: reuse what is there, else download, check the digest, read the header, give the name.
use std::fs::File;
use std::path::{Path, PathBuf};

use windlass_api::fetch::{FetchPhase, ModelFacts};

use crate::connection::{Connection, Token};
use crate::digest::Digest;
use crate::download::{Demand, Expected, blocking, download};
use crate::failure::FetchFailed;
use crate::gguf::{self, Unreadable};
use crate::part::{Part, folder_of};
use crate::patience::Patience;
use crate::progress::Progress;
use crate::source::Source;

/// What to fetch, whereto, and within which limits.
pub struct Order {
    /// From where.
    pub source: Source,
    /// The file that shall be there in the end; its folder is created.
    pub dest: PathBuf,
    /// Sent to the source's own origin only.
    pub token: Option<Token>,
    /// Digest and size.
    pub demand: Demand,
    /// Time-outs and retries.
    pub patience: Patience,
}

/// Fetches; afterwards the file stands at its place and is what was asked for, or nothing stands there that was not
/// there before.
pub async fn fetch(order: &Order, progress: &Progress) -> Result<ModelFacts, FetchFailed> {
    let connection = Connection::new(&order.source, order.token.as_ref(), order.patience.stall)?;
    if let Some(facts) = reuse(order, &connection, progress).await? {
        return Ok(facts);
    }
    let (dest, key) = (order.dest.clone(), key_of(&order.source));
    let mut part = blocking(move || {
        let folder = folder_of(&dest);
        std::fs::create_dir_all(folder).map_err(|error| FetchFailed::io("creating", folder, error))?;
        Part::open(&dest, &key)
    })
    .await?;
    loop {
        let shown_source = order.source.shown().to_owned();
        part = download(&connection, &order.patience, &order.demand, part, progress).await?;
        progress.enter(FetchPhase::Verifying);
        let Err(mismatch) = check(&part, &order.demand) else {
            break;
        };
        if !part.resumed() {
            return Err(blocking(move || explain(part, &shown_source, mismatch)).await);
        }
        // Pieces of two downloads may not belong together (a replaced file, a lost tail): the whole gets one chance.
        tracing::warn!("{mismatch}; once more from the start, because this file came in pieces");
        part.restart()?;
    }
    let shown = order.source.shown().to_owned();
    blocking(move || match examine(&part.path(), &shown, part.digest()) {
        Ok(facts) => part.finish().map(|()| facts),
        Err(failed) => part.discard().and(Err(failed)),
    })
    .await
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

/// An earlier run's file, if its digest is the chosen one or the one that the source announces.
async fn reuse(
    order: &Order,
    connection: &Connection<'_>,
    progress: &Progress,
) -> Result<Option<ModelFacts>, FetchFailed> {
    if !order.dest.is_file() {
        return Ok(None);
    }
    let wanted = match order.demand.expected {
        Some(expected) => Some(expected.digest()),
        None => connection.announced().await.digest,
    };
    let Some(wanted) = wanted else { return Ok(None) };
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
    match part.note().announced.as_deref().and_then(Digest::from_hex) {
        Some(announced) if announced != found => Err(FetchFailed::Damaged { announced, found }),
        _ => Ok(()),
    }
}

/// Tells sources apart without repeating an address that may be a secret.
fn key_of(source: &Source) -> String {
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
