//! Constant traffic on a Service from inside the cluster: the order that a test gives, the report that it
//! gets, and the driver of the program (`src/bin/traffic.rs`) that runs in the client pod.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;
use tokio::time::timeout;

use crate::inside::Inside;
use crate::space::Space;

/// What the traffic shall look like. Each client sends its next request after the last one is answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// `host:port`.
    pub authority: String,
    /// Clients that connect anew for each request.
    pub fresh: usize,
    /// Clients that keep their connection as long as the server lets them.
    pub kept: usize,
    /// Clients that read the beginning of a streamed answer, hold it open until the next mark, and read the rest.
    pub streams: usize,
    /// Milliseconds that `fresh` and `kept` clients pause between two requests.
    pub pause: u64,
    /// Path of the requests of all clients.
    pub path: String,
    /// Body of the requests of `fresh` and `kept` clients.
    pub short: Value,
    /// Body of the requests of `streams` clients: for an answer that no buffer on the way holds, of some 200 KB.
    pub long: Value,
}

/// What came of it.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Requests on new connections.
    pub fresh: Tally,
    /// Requests on kept connections.
    pub kept: Tally,
    /// Streams.
    pub streams: Tally,
    /// Streams that were running at a mark and came to their proper end.
    pub streams_across_a_mark: usize,
    /// Kept connections that the server had closed before the next request.
    pub reconnects: usize,
}

/// Requests of one sort.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Tally {
    /// Answered in full, with status 200.
    pub completed: usize,
    /// Anything else.
    pub failed: usize,
    /// The first failures in words, with the milliseconds since the start.
    pub failures: Vec<String>,
}

impl Tally {
    /// Failures that are kept in words.
    const WORDS: usize = 10;

    /// Counts one request.
    pub fn count(&mut self, outcome: Result<(), String>, since_start: Duration) {
        match outcome {
            Ok(()) => self.completed += 1,
            Err(what) => {
                self.failed += 1;
                if self.failures.len() < Self::WORDS {
                    self.failures.push(format!("{} ms: {what}", since_start.as_millis()));
                }
            }
        }
    }
}

impl Report {
    /// Failed requests of all sorts.
    pub fn failed(&self) -> usize {
        self.fresh.failed + self.kept.failed + self.streams.failed
    }
}

/// Running traffic.
pub struct Traffic {
    child: Child,
}

impl Traffic {
    /// Starts it in the client pod.
    pub async fn start(space: &Space, inside: &Inside, order: &Order) -> Result<Self> {
        inside.install("traffic", &space.env.traffic).await?;
        Ok(Self {
            child: inside.spawn(&["/work/traffic", &serde_json::to_string(order)?])?,
        })
    }

    /// Marks this moment: the report says how many streams spanned it.
    pub async fn mark(&mut self) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("the traffic has no stdin")?;
        stdin.write_all(b"mark\n").await?;
        Ok(stdin.flush().await?)
    }

    /// Sends no new requests, waits for the running ones, and returns the report.
    pub async fn stop(mut self, within: Duration) -> Result<Report> {
        drop(self.child.stdin.take());
        let mut stdout = self.child.stdout.take().context("the traffic has no stdout")?;
        let mut text = String::new();
        timeout(within, stdout.read_to_string(&mut text))
            .await
            .context("the last requests were not answered")??;
        let status = self.child.wait().await?;
        ensure!(status.success(), "the load generator failed ({status}): {text}");
        serde_json::from_str(&text).with_context(|| format!("the load generator's report {text:?}"))
    }
}
