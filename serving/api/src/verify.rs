//! What `windlass-registry verify-runtime` reports about the runtime next to it: at `GET /progress` while it works and,
//! when the runtime was refused, as its termination message (at most 4,096 bytes). The operator reads both.
use serde::{Deserialize, Serialize};

/// The state of the verification of one runtime. It never holds the runtime's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeReport {
    /// How far it is.
    pub phase: RuntimePhase,
    /// Method and path of the request that verifies, for example `POST /v1/completions`.
    pub request: String,
    /// Refusals in a row; a right answer sets it to 0.
    #[serde(default)]
    pub refusals: u32,
    /// Seconds since `phase` began.
    #[serde(default)]
    pub since: u64,
    /// The last answer to the request; absent while none came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<RuntimeAnswer>,
    /// One sentence for people; where something is wrong, with the next action. It changes at most every ten seconds
    /// within a phase.
    pub message: String,
}

/// The phases of a verification. `Verified` alone is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuntimePhase {
    /// The runtime's health path does not answer 200 (yet, or no longer).
    Starting,
    /// The request has been sent and is not answered yet.
    Asking,
    /// The runtime answered 429, or 503 with Retry-After: it is asked again.
    Busy,
    /// The runtime answered the request rightly, and its health path has answered since.
    Verified,
    /// The last answer was not right. It is asked again until the permitted number of refusals is reached.
    Refused,
}

/// What the runtime answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeAnswer {
    /// The HTTP status; absent when the connection broke or the time ran out before one came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The first 200 bytes of the body as text, without control characters.
    #[serde(default)]
    pub excerpt: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_json_in_camel_case_without_absent_fields() {
        let mut report = RuntimeReport {
            phase: RuntimePhase::Starting,
            request: "POST /v1/completions".into(),
            refusals: 0,
            since: 3,
            answer: None,
            message: "m".into(),
        };
        let text = r#"{"phase":"Starting","request":"POST /v1/completions","refusals":0,"since":3,"message":"m"}"#;
        assert_eq!(serde_json::to_string(&report).unwrap(), text);
        report.answer = Some(RuntimeAnswer {
            status: Some(500),
            excerpt: "e".into(),
        });
        let text = serde_json::to_string(&report).unwrap();
        assert!(text.contains(r#""answer":{"status":500,"excerpt":"e"}"#), "{text}");
        assert_eq!(serde_json::from_str::<RuntimeReport>(&text).unwrap(), report);
    }
}
