//! Verifies a runtime next to which it runs, before the pod is Ready: waits for its health path, sends one request,
//! judges the answer, and verifies again after the runtime has restarted.
//!
//! It never ends a runtime and never judges one that was verified by later answers: liveness is the runtime's own.
pub mod answer;
pub mod client;
pub mod request;
pub mod state;

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use client::{Outcome, Runtime};
use state::State;

/// Health checks in a row that must fail before a verified runtime counts as restarted.
const LOST_AFTER: u32 = 2;
/// The pause before the second of them where nobody listens: a container takes longer to start again.
const SECOND_LOOK: Duration = Duration::from_millis(250);
/// How long the idle connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How often and how long.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between attempts, and between health checks once the runtime is verified.
    pub period: Duration,
    /// Refusals in a row that end the verification.
    pub threshold: u32,
}

/// Verifies, and watches what was verified; returns only when the runtime has been refused `threshold` times in a row.
pub async fn verify(runtime: &Runtime, pace: Pace, state: &State) {
    loop {
        while let Err(unhealthy) = runtime.health().await {
            state.starting(&unhealthy.why);
            tokio::time::sleep(pace.period).await;
        }
        state.asking();
        let wait = match runtime.ask().await {
            Outcome::Right(answer) => {
                state.verified(answer);
                let why = watch(runtime, pace.period).await;
                state.lost(&why);
                continue;
            }
            Outcome::Busy(answer, pause) => {
                state.busy(answer);
                pause.unwrap_or_default().max(pace.period)
            }
            Outcome::Refused(answer, why) => {
                if state.refused(answer, &why) >= pace.threshold {
                    return;
                }
                pace.period
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// Returns why, once the health path has failed twice in a row. An idle connection shows the end of the process at
/// once: a runtime that starts within one period would otherwise pass as the one that was verified.
async fn watch(runtime: &Runtime, period: Duration) -> String {
    let (mut failed, mut wait, mut line) = (0, period, connect(runtime).await);
    loop {
        let ended = tokio::select! {
            () = tokio::time::sleep(wait) => false,
            () = closed(&mut line) => true,
        };
        match runtime.health().await {
            Ok(()) => {
                (failed, wait) = (0, period);
                // One that has just ended is made again after a period only: some runtimes close each of them.
                line = match (ended, line) {
                    (true, _) => None,
                    (false, None) => connect(runtime).await,
                    (false, line) => line,
                };
            }
            Err(unhealthy) => {
                failed += 1;
                tracing::warn!("{}", unhealthy.why);
                if failed >= LOST_AFTER {
                    return unhealthy.why;
                }
                line = None;
                wait = if unhealthy.absent {
                    period.min(SECOND_LOOK)
                } else {
                    period
                };
            }
        }
    }
}

/// A connection on which nothing is asked. A runtime that allows none is watched by its health path alone.
async fn connect(runtime: &Runtime) -> Option<TcpStream> {
    match tokio::time::timeout(CONNECT, TcpStream::connect(runtime.address())).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "no idle connection to the runtime");
            None
        }
        Err(_) => {
            tracing::debug!("no idle connection to the runtime within {CONNECT:?}");
            None
        }
    }
}

/// Returns when the other side has closed; bytes that it sends (a time-out of its own) mean the same.
async fn closed(line: &mut Option<TcpStream>) {
    match line {
        Some(stream) => match stream.read(&mut [0; 64]).await {
            Ok(count) => tracing::debug!(count, "the idle connection to the runtime ended"),
            Err(error) => tracing::debug!(%error, "the idle connection to the runtime ended"),
        },
        None => std::future::pending().await,
    }
}
