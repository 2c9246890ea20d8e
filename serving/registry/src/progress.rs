//! How far a fetch is: one shared report, read by `GET /progress` and by a line in the log every few seconds.
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::routing::get;
use axum::{Json, Router};
use tokio::task::JoinSet;
use windlass_api::fetch::{FetchError, FetchFailure, FetchPhase, FetchReport};

use crate::failure::FetchFailed;

const LOG_EVERY: Duration = Duration::from_secs(5);

/// A handle on the report of the running work; clones share it.
#[derive(Debug, Clone)]
pub struct Progress {
    report: Arc<Mutex<FetchReport>>,
    /// Set on the handle of one file of several: the bytes of the files before it.
    before: Option<u64>,
}

impl Default for Progress {
    fn default() -> Progress {
        let report = FetchReport {
            phase: FetchPhase::Resolving,
            received_bytes: 0,
            total_bytes: None,
            error: None,
            model: None,
        };
        Progress {
            report: Arc::new(Mutex::new(report)),
            before: None,
        }
    }
}

impl Progress {
    /// A handle for one file of several: its bytes count on from those of the files `before` it, and its size is not
    /// that of the whole.
    pub fn after(&self, before: u64) -> Progress {
        Progress {
            report: self.report.clone(),
            before: Some(before),
        }
    }

    /// The report as it is now.
    pub fn report(&self) -> FetchReport {
        self.lock().clone()
    }

    /// A new phase begins.
    pub fn enter(&self, phase: FetchPhase) {
        self.lock().phase = phase;
    }

    /// So many bytes are there. New ones end the trouble.
    pub fn received(&self, bytes: u64) {
        let bytes = bytes.saturating_add(self.before.unwrap_or_default());
        let mut report = self.lock();
        if bytes > report.received_bytes {
            report.error = None;
        }
        report.received_bytes = bytes;
    }

    /// An attempt failed, and another one follows.
    pub fn troubled(&self, host: &str, what: &str) {
        // Without the number of the attempt: who reads this sees one state and not many.
        let message = format!("{host} gives no usable answer: {what}; it is tried again");
        let reason = FetchFailure::SourceUnavailable;
        self.lock().error = Some(FetchError { reason, message });
    }

    /// The whole will have so many bytes.
    pub fn expect(&self, total: Option<u64>) {
        if self.before.is_none() {
            self.lock().total_bytes = total;
        }
    }

    /// Ends with the final report.
    pub fn end(&self, report: FetchReport) {
        *self.lock() = report;
    }

    fn lock(&self) -> MutexGuard<'_, FetchReport> {
        // A panic between two plain assignments cannot leave a half-written report worth refusing.
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves `GET /progress` (where an address is given) and writes the log lines, until dropped.
pub struct Watch {
    /// Dropping the set ends its tasks.
    _tasks: JoinSet<()>,
}

impl Watch {
    /// Starts both; fails when the address cannot be bound.
    pub async fn start(progress: &Progress, listen: Option<SocketAddr>) -> Result<Watch, FetchFailed> {
        let mut tasks = JoinSet::new();
        if let Some(address) = listen {
            let listener = windlass_listen::bind(address)
                .map_err(|error| FetchFailed::io("listening for progress on", address.to_string(), error))?;
            let bound = listener
                .local_addr()
                .map_err(|error| FetchFailed::io("listening for progress on", address.to_string(), error))?;
            tracing::info!("progress at http://{bound}/progress");
            let shared = progress.clone();
            let router = Router::new().route("/progress", get(async move || Json(shared.report())));
            tasks.spawn(async move {
                if let Err(error) = axum::serve(listener, router).await {
                    tracing::error!(%error, "progress is no longer served");
                }
            });
        }
        tasks.spawn(log(progress.clone()));
        Ok(Watch { _tasks: tasks })
    }
}

async fn log(progress: Progress) {
    let (mut then, mut before) = (Instant::now(), progress.report().received_bytes);
    loop {
        tokio::time::sleep(LOG_EVERY).await;
        let report = progress.report();
        tracing::info!("{}", line(&report, before, then.elapsed()));
        (then, before) = (Instant::now(), report.received_bytes);
    }
}

fn line(report: &FetchReport, before: u64, elapsed: Duration) -> String {
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let speed = mebibytes(report.received_bytes.saturating_sub(before)) / elapsed.as_secs_f64().max(0.001);
    let received = mebibytes(report.received_bytes);
    let phase = format!("{:?}", report.phase).to_lowercase();
    match report.total_bytes {
        Some(total) if total > 0 => {
            let percent = report.received_bytes as f64 / total as f64 * 100.0;
            let whole = mebibytes(total);
            format!("{phase}: {received:.1} of {whole:.1} MiB ({percent:.0} %), {speed:.1} MiB/s")
        }
        _ => format!("{phase}: {received:.1} MiB, {speed:.1} MiB/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_has_size_percent_and_speed() {
        let progress = Progress::default();
        progress.enter(FetchPhase::Downloading);
        progress.received(30 << 20);
        let unknown = line(&progress.report(), 0, Duration::from_secs(5));
        assert_eq!(unknown, "downloading: 30.0 MiB, 6.0 MiB/s");
        progress.expect(Some(120 << 20));
        let known = line(&progress.report(), 10 << 20, Duration::from_secs(5));
        assert_eq!(known, "downloading: 30.0 of 120.0 MiB (25 %), 4.0 MiB/s");
    }

    #[test]
    fn trouble_is_reported_until_new_bytes_come() {
        let progress = Progress::default();
        progress.received(10);
        progress.troubled("hub", "connection refused");
        progress.received(10);
        let error = progress.report().error.unwrap();
        assert_eq!(error.reason, FetchFailure::SourceUnavailable);
        assert!(
            error.message.contains("hub") && error.message.contains("refused"),
            "{}",
            error.message
        );
        progress.received(11);
        assert_eq!(progress.report().error, None);
    }

    #[test]
    fn the_files_of_a_repository_count_on_in_one_report() {
        let progress = Progress::default();
        progress.expect(Some(30));
        let second = progress.after(10);
        second.expect(Some(20));
        second.received(5);
        assert_eq!(
            (progress.report().received_bytes, progress.report().total_bytes),
            (15, Some(30))
        );
    }

    #[test]
    fn a_restart_from_zero_has_no_negative_speed() {
        assert_eq!(
            line(&Progress::default().report(), 5 << 20, Duration::ZERO),
            "resolving: 0.0 MiB, 0.0 MiB/s"
        );
    }
}
