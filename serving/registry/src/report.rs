//! The final report: made from a result, and written so that the kubelet's 4,096 bytes always hold valid JSON.
use std::path::Path;

use windlass_api::fetch::{FetchError, FetchPhase, FetchReport, ModelFacts};

use crate::failure::FetchFailed;
use crate::progress::Progress;

/// What the kubelet keeps of a termination message.
const LIMIT: usize = 4096;

/// Ends the progress with the result, and returns its report.
pub fn conclude(progress: &Progress, result: Result<ModelFacts, FetchFailed>) -> FetchReport {
    let mut report = progress.report();
    match result {
        Ok(model) => {
            (report.phase, report.error) = (FetchPhase::Verified, None);
            (report.received_bytes, report.total_bytes) = (model.size_bytes, Some(model.size_bytes));
            report.model = Some(model);
        }
        Err(failed) => {
            report.phase = FetchPhase::Failed;
            report.error = Some(FetchError {
                reason: failed.reason(),
                message: failed.explained(),
            });
        }
    }
    progress.end(report.clone());
    report
}

/// Writes the report in place (a termination log is a mounted file and cannot be replaced).
pub fn write(report: &FetchReport, path: &Path) -> Result<(), FetchFailed> {
    let text = encode(report).map_err(|error| FetchFailed::io("encoding the report for", path, error.into()))?;
    std::fs::write(path, text).map_err(|error| FetchFailed::io("writing the report to", path, error))
}

/// The report as JSON of at most 4,096 bytes; a message that is too long loses its end.
fn encode(report: &FetchReport) -> serde_json::Result<String> {
    let mut report = report.clone();
    loop {
        let text = serde_json::to_string(&report)?;
        let (excess, Some(error)) = (text.len().saturating_sub(LIMIT), report.error.as_mut()) else {
            return Ok(text);
        };
        if excess == 0 || error.message.is_empty() {
            return Ok(text);
        }
        // JSON may need several bytes a character: what is cut frees at least one each, so this ends.
        let kept = error.message.chars().count().saturating_sub(excess.div_ceil(6) + 1);
        error.message = error.message.chars().take(kept).chain(['…']).collect();
        if kept == 0 {
            error.message.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(why: String) -> FetchReport {
        conclude(&Progress::default(), Err(FetchFailed::InvalidSource { why }))
    }

    #[test]
    fn a_report_is_written_over_an_older_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "x".repeat(9000)).unwrap();
        let report = failed("it is wrong".into());
        write(&report, &path).unwrap();
        assert_eq!(
            serde_json::from_slice::<FetchReport>(&std::fs::read(&path).unwrap()).unwrap(),
            report
        );
    }

    #[test]
    fn an_endless_message_still_gives_valid_json_of_the_permitted_size() {
        for text in [
            "x".repeat(10_000),
            "\u{1}".repeat(10_000),
            "\"".repeat(5_000),
            "é\n".repeat(4_000),
        ] {
            let encoded = encode(&failed(text)).unwrap();
            assert!(encoded.len() <= LIMIT && encoded.len() > LIMIT / 2, "{}", encoded.len());
            let read: FetchReport = serde_json::from_str(&encoded).unwrap();
            assert_eq!(read.phase, FetchPhase::Failed);
            assert!(read.error.unwrap().message.ends_with('…'));
        }
    }

    #[test]
    fn a_report_that_cannot_be_written_says_where() {
        let message = write(&failed(String::new()), Path::new("/nowhere/log"))
            .unwrap_err()
            .to_string();
        assert!(message.contains("/nowhere/log"), "{message}");
    }
}
