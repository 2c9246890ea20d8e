//! Brings all bytes of a source into its part: attempts, ranges, validators, sizes. It does not judge the content.
//!
//! An attempt goes on where the last one ended if the source can prove that the bytes are the same ones (a strong
//! ETag in `If-Range`, or a digest that will be checked at the end); otherwise it begins at zero.
use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode};
use windlass_api::fetch::FetchPhase;

use crate::connection::{Announced, Answer, Connection, Interruption, NoAnswer};
use crate::digest::Digest;
use crate::failure::FetchFailed;
use crate::part::{Note, Part, folder_of};
use crate::patience::Patience;
use crate::progress::Progress;
use crate::space;

/// Bytes handed to the disk at once.
const BATCH: usize = 1 << 20;

/// An attempt that brought less than this counts as one that brought nothing: a source that gives a byte at a time
/// must come to an end.
const WORTH: u64 = 1 << 20;

/// What the bytes must be.
#[derive(Debug, Clone, Copy)]
pub struct Demand {
    /// From the spec or from the recorded pin.
    pub expected: Option<Expected>,
    /// The digest that the source's listing has.
    pub listed: Option<Digest>,
    /// Refuse files above this size.
    pub limit: Option<u64>,
}

/// A digest that somebody chose, and who.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// `spec.model.digest`.
    Asked(Digest),
    /// The digest that this source had when it was first fetched.
    Recorded(Digest),
}

impl Expected {
    /// The digest itself.
    pub fn digest(&self) -> Digest {
        let (Expected::Asked(digest) | Expected::Recorded(digest)) = *self;
        digest
    }

    /// Refuses another digest, in the words of whoever chose this one.
    pub fn check(&self, found: Digest) -> Result<(), FetchFailed> {
        match *self {
            Expected::Asked(expected) if expected != found => Err(FetchFailed::DigestMismatch { expected, found }),
            Expected::Recorded(recorded) if recorded != found => Err(FetchFailed::PinMoved { recorded, found }),
            _ => Ok(()),
        }
    }
}

/// Runs blocking file work beside the async tasks.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // It is never aborted, so this is its own panic.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Attempts until the part is complete, something final happens, or patience ends.
pub async fn download(
    connection: &Connection<'_>,
    patience: &Patience,
    demand: &Demand,
    mut part: Part,
    progress: &Progress,
) -> Result<Part, FetchFailed> {
    let (mut failed, mut best) = (0, part.length());
    loop {
        progress.received(part.length());
        let (returned, interruption) = attempt(connection, patience.stall, demand, part, progress).await?;
        part = returned;
        let Some(interruption) = interruption else {
            return Ok(part);
        };
        if part.length() >= best.saturating_add(WORTH) {
            (failed, best) = (0, part.length());
        }
        failed += 1;
        if failed >= patience.attempts {
            return Err(exhausted(interruption, failed, &part));
        }
        progress.troubled(&interruption.host, &interruption.what);
        let wait = patience.wait(failed, interruption.retry_after);
        tracing::warn!(
            "{}: {}; attempt {} in {wait:.1?}",
            interruption.host,
            interruption.what,
            failed + 1
        );
        tokio::time::sleep(wait).await;
    }
}

fn exhausted(interruption: Interruption, attempts: u32, part: &Part) -> FetchFailed {
    match (interruption.cut, part.note().total) {
        (true, Some(announced)) => FetchFailed::WrongSize {
            announced,
            received: part.length(),
        },
        _ => FetchFailed::SourceUnavailable {
            host: interruption.host,
            attempts,
            last: interruption.what,
        },
    }
}

/// One connection. `None` beside the part means that it is complete.
async fn attempt(
    connection: &Connection<'_>,
    stall: Duration,
    demand: &Demand,
    mut part: Part,
    progress: &Progress,
) -> Result<(Part, Option<Interruption>), FetchFailed> {
    let range = continuation(&part, demand);
    if range.is_empty() && part.length() > 0 {
        part.restart()?;
        progress.received(0);
    }
    let Answer {
        response,
        announced,
        host,
    } = match connection.get(&range).await {
        Ok(answer) => answer,
        Err(NoAnswer::Interrupted(interruption)) => return Ok((part, Some(interruption))),
        Err(NoAnswer::Failed(failed)) => return Err(failed),
    };
    if let (Some(expected), Some(digest)) = (&demand.expected, announced.digest) {
        expected.check(digest)?; // before the first of perhaps many gigabytes
    }
    let heads = Heads::of(&response);
    if response.status() == StatusCode::RANGE_NOT_SATISFIABLE && heads.total == Some(part.length()) {
        return Ok((part, None));
    }
    if !heads.continues(&response, &part, announced) {
        part.restart()?;
        progress.received(0);
        if response.status() != StatusCode::OK {
            let what = "the file is another one now than when its first bytes came".to_owned();
            return Ok((
                part,
                Some(Interruption {
                    host,
                    what,
                    retry_after: None,
                    cut: false,
                }),
            ));
        }
    }
    if response
        .headers()
        .get(header::CONTENT_ENCODING)
        .is_some_and(|encoding| encoding != "identity")
    {
        let last = "a compressed answer, although none was asked for".to_owned();
        return Err(FetchFailed::SourceUnavailable {
            host,
            attempts: 1,
            last,
        });
    }
    let total = heads.agree(announced)?;
    admit(total, demand, &part)?;
    if part.length() > 0 {
        part.mark_resumed();
    }
    let commit = announced.commit.map(|commit| commit.to_string());
    let announced = announced
        .digest
        .map(|digest| digest.hex())
        .or_else(|| part.note().announced.clone());
    let note = Note {
        key: part.note().key.clone(),
        etag: heads.etag,
        total,
        announced,
        commit: commit.or_else(|| part.note().commit.clone()),
    };
    part.remember(note)?;
    progress.expect(total);
    progress.enter(FetchPhase::Downloading);
    receive(response, stall, host, total, demand, part, progress).await
}

/// Headers that ask for the rest, or none if the file must come whole.
fn continuation(part: &Part, demand: &Demand) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let note = part.note();
    let checked = demand.expected.is_some() || note.announced.is_some();
    if part.length() == 0 || (note.etag.is_none() && !checked) || note.total.is_some_and(|total| part.length() > total)
    {
        return headers;
    }
    let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", part.length())) else {
        return headers;
    };
    headers.insert(header::RANGE, range);
    if let Some(etag) = note.etag.as_deref().and_then(|etag| HeaderValue::from_str(etag).ok()) {
        headers.insert(header::IF_RANGE, etag);
    }
    headers
}

/// What the final answer says about itself.
struct Heads {
    etag: Option<String>,
    start: Option<u64>,
    total: Option<u64>,
}

impl Heads {
    fn of(response: &Response) -> Heads {
        let text = |name| {
            response
                .headers()
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        let etag = text(header::ETAG)
            .filter(|etag| etag.starts_with('"'))
            .map(str::to_owned);
        let range = text(header::CONTENT_RANGE).and_then(|value| value.strip_prefix("bytes "));
        let (span, whole) = range.and_then(|range| range.split_once('/')).unwrap_or_default();
        let start = span.split_once('-').and_then(|(start, _)| start.trim().parse().ok());
        let total = match response.status() {
            StatusCode::OK => text(header::CONTENT_LENGTH).and_then(|length| length.trim().parse().ok()),
            _ => whole.trim().parse().ok(),
        };
        Heads { etag, start, total }
    }

    /// Whether the bytes of this answer follow those of the part.
    fn continues(&self, response: &Response, part: &Part, announced: Announced) -> bool {
        let note = part.note();
        let same = |then: &Option<String>, now: &Option<String>| then.is_none() || now.is_none() || then == now;
        match response.status() {
            StatusCode::OK => part.length() == 0,
            StatusCode::PARTIAL_CONTENT => {
                self.start == Some(part.length())
                    && (note.total.is_none() || self.total.is_none() || note.total == self.total)
                    && same(&note.etag, &self.etag)
                    && same(&note.announced, &announced.digest.map(|digest| digest.hex()))
            }
            _ => false,
        }
    }

    /// The size of the whole, if the file's host and the source's origin do not contradict each other.
    fn agree(&self, announced: Announced) -> Result<Option<u64>, FetchFailed> {
        match (announced.size, self.total) {
            (Some(announced), Some(received)) if announced != received => {
                Err(FetchFailed::WrongSize { announced, received })
            }
            (announced, total) => Ok(total.or(announced)),
        }
    }
}

/// Refuses a file that is too large for the limit or for the volume.
fn admit(total: Option<u64>, demand: &Demand, part: &Part) -> Result<(), FetchFailed> {
    let Some(size) = total else { return Ok(()) };
    if let Some(limit) = demand.limit.filter(|limit| size > *limit) {
        return Err(FetchFailed::OverLimit { size, limit });
    }
    space::require(folder_of(&part.path()), size.saturating_sub(part.length()))
}

/// Streams the body into the part.
async fn receive(
    mut response: Response,
    stall: Duration,
    host: String,
    total: Option<u64>,
    demand: &Demand,
    mut part: Part,
    progress: &Progress,
) -> Result<(Part, Option<Interruption>), FetchFailed> {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let (done, interruption) = match tokio::time::timeout(stall, response.chunk()).await {
            Ok(Ok(Some(bytes))) => {
                batch.extend_from_slice(&bytes);
                (false, None)
            }
            Ok(Ok(None)) => (true, None),
            Ok(Err(error)) => (true, Some(Interruption::of(host.clone(), error))),
            Err(_) => (true, Some(Interruption::stalled(host.clone(), stall))),
        };
        let received = part.length() + batch.len() as u64;
        if let Some(announced) = total.filter(|total| received > *total) {
            part.discard()?;
            return Err(FetchFailed::WrongSize { announced, received });
        }
        if let Some(limit) = demand.limit.filter(|limit| received > *limit) {
            part.discard()?;
            return Err(FetchFailed::OverLimit { size: received, limit });
        }
        if batch.len() >= BATCH || done {
            (part, batch) = blocking(move || {
                part.append(&batch)?;
                batch.clear();
                Ok::<_, FetchFailed>((part, batch))
            })
            .await?;
        }
        progress.received(received);
        if interruption.is_some() {
            return Ok((part, interruption));
        }
        if done {
            return match total {
                Some(announced) if received < announced => {
                    part.discard()?;
                    Err(FetchFailed::WrongSize { announced, received })
                }
                _ => Ok((part, None)),
            };
        }
    }
}
