//! What the verification knows now; read by `GET /ready` and `GET /progress`, and written as the final report.
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use windlass_api::verify::{RuntimeAnswer, RuntimePhase, RuntimeReport};

/// A handle on the state; clones share it.
#[derive(Debug, Clone)]
pub struct State(Arc<Mutex<Known>>);

#[derive(Debug)]
struct Known {
    phase: RuntimePhase,
    entered: Instant,
    request: String,
    refusals: u32,
    answer: Option<RuntimeAnswer>,
    message: String,
}

impl State {
    /// At the start; `request` is method and path.
    pub fn new(request: String) -> State {
        State(Arc::new(Mutex::new(Known {
            phase: RuntimePhase::Starting,
            entered: Instant::now(),
            request,
            refusals: 0,
            answer: None,
            message: "the runtime has not been asked yet".to_owned(),
        })))
    }

    /// The runtime's health path does not answer 200.
    pub fn starting(&self, why: &str) {
        let message = format!("the runtime is not healthy: {why}; look at its log if this lasts");
        self.enter(RuntimePhase::Starting, message, |_| {});
    }

    /// A runtime that had been verified is not healthy: all that was known of it is void.
    pub fn lost(&self, why: &str) {
        let message = format!("the runtime was verified, but is no longer healthy: {why}; it is verified again");
        self.enter(RuntimePhase::Starting, message, |known| {
            (known.refusals, known.answer) = (0, None);
        });
    }

    /// The request is on its way.
    pub fn asking(&self) {
        let message = format!("{} is sent, its answer is waited for", self.lock().request);
        self.enter(RuntimePhase::Asking, message, |_| {});
    }

    /// No room now.
    pub fn busy(&self, answer: RuntimeAnswer) {
        let status = answer.status.unwrap_or_default();
        let message = format!(
            "{} answered {status}: the runtime is busy and is asked again",
            self.lock().request
        );
        self.enter(RuntimePhase::Busy, message, |known| known.answer = Some(answer));
    }

    /// Right.
    pub fn verified(&self, answer: RuntimeAnswer) {
        let status = answer.status.unwrap_or_default();
        let message = format!("{} answered {status} as it should", self.lock().request);
        self.enter(RuntimePhase::Verified, message, |known| {
            (known.refusals, known.answer) = (0, Some(answer));
        });
    }

    /// Not right; returns how many refusals in a row there are now.
    pub fn refused(&self, answer: RuntimeAnswer, why: &str) -> u32 {
        let message = format!("{} {why}", self.lock().request);
        self.enter(RuntimePhase::Refused, message, |known| {
            (known.refusals, known.answer) = (known.refusals.saturating_add(1), Some(answer));
        });
        self.lock().refusals
    }

    /// The report as it is now.
    pub fn report(&self) -> RuntimeReport {
        let known = self.lock();
        let since = known.entered.elapsed().as_secs();
        let message = match known.phase {
            RuntimePhase::Asking if since >= 10 => format!("{} has not answered for {}", known.request, about(since)),
            _ => known.message.clone(),
        };
        RuntimeReport {
            phase: known.phase,
            request: known.request.clone(),
            refusals: known.refusals,
            since,
            answer: known.answer.clone(),
            message,
        }
    }

    /// Serves `GET /ready` (200 or 503, with one sentence) and `GET /progress` (the report).
    pub fn router(&self) -> Router {
        let (ready, progress) = (self.clone(), self.clone());
        let ready = get(async move || {
            let report = ready.report();
            let status = match report.phase {
                RuntimePhase::Verified => StatusCode::OK,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            (status, format!("{}\n", report.message))
        });
        let progress = get(async move || Json(progress.report()));
        Router::new().route("/ready", ready).route("/progress", progress)
    }

    fn enter(&self, phase: RuntimePhase, message: String, change: impl FnOnce(&mut Known)) {
        let mut known = self.lock();
        if known.phase != phase {
            known.entered = Instant::now();
        }
        if (known.phase, &known.message) != (phase, &message) {
            match phase {
                RuntimePhase::Refused => tracing::warn!("{message}"),
                _ => tracing::info!("{message}"),
            }
        }
        (known.phase, known.message) = (phase, message);
        change(&mut known);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // A panic between two plain assignments cannot leave a half-written state worth refusing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In steps of ten seconds, later of minutes: who copies the message elsewhere does not write every second.
fn about(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{} s", seconds / 10 * 10),
        _ => format!("{:?} min", Duration::from_secs(seconds).as_secs() / 60),
    }
}

/// Writes the report in place (a termination log is a mounted file and cannot be replaced). It is bounded because its
/// parts are: the path of the request and the excerpt of the answer.
pub fn write(report: &RuntimeReport, path: &Path) -> std::io::Result<()> {
    std::fs::write(path, serde_json::to_vec(report)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_report_fits_into_a_termination_message() {
        let state = State::new(format!("POST /{}", "x".repeat(511)));
        let excerpt = "\"".repeat(200);
        let answer = RuntimeAnswer {
            status: Some(500),
            excerpt: excerpt.clone(),
        };
        let why = format!(
            "answered 500 without a list of results with scores: \"{excerpt}\"; {}",
            "n".repeat(100)
        );
        state.refused(answer, &why);
        assert!(serde_json::to_vec(&state.report()).unwrap().len() <= 4096);
    }

    #[test]
    fn a_wait_is_shown_in_steps() {
        for (seconds, text) in [
            (10, "10 s"),
            (49, "40 s"),
            (119, "110 s"),
            (120, "2 min"),
            (400, "6 min"),
        ] {
            assert_eq!(about(seconds), text);
        }
    }

    #[test]
    fn a_refusal_keeps_counting_until_a_right_answer_or_a_restart() {
        let state = State::new("GET /x".into());
        let answer = RuntimeAnswer {
            status: Some(500),
            excerpt: String::new(),
        };
        for count in 1..=2 {
            assert_eq!(state.refused(answer.clone(), "answered 500"), count);
            state.asking();
            state.busy(answer.clone());
        }
        state.verified(answer.clone());
        assert_eq!(state.report().refusals, 0);
        state.refused(answer, "answered 500");
        state.lost("GET /health answers 503");
        assert_eq!((state.report().refusals, state.report().answer), (0, None));
    }
}
