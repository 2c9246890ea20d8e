//! What the proxy shall do to the requests that pass: faults by number of the write, faults on
//! watch streams, and lists to be answered from the past. Pure bookkeeping; the proxy acts.
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::Value;

/// What happens to one write request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFault {
    /// The operator dies before the API server sees the write.
    KillBefore,
    /// The API server has applied the write; the operator dies before it reads the answer.
    KillAfter,
    /// The API server never sees the write; the operator gets this status, and `Retry-After: 1` with 429 and 503.
    Refuse(u16),
    /// The API server has applied the write; the connection ends without an answer.
    CutAfter,
    /// The API server has applied the write; the answer never comes, until the operator gives up.
    SilentAfter,
    /// The API server has applied the write; the answer waits until the proxy's `release_answers`.
    HoldAfter,
}

/// Decides about one watch event: `true` drops it.
pub type EventFilter = Arc<dyn Fn(&Value) -> bool + Send + Sync>;

/// A write that went through the proxy.
#[derive(Debug, Clone)]
pub struct Write {
    /// 1 for the first write of this proxy.
    pub number: usize,
    /// `PATCH`, `POST`, `PUT` or `DELETE`.
    pub method: Method,
    /// Path without the query.
    pub path: String,
    /// What the API server answered; none where it was not asked.
    pub status: Option<StatusCode>,
    /// The fault that was put on it.
    pub fault: Option<WriteFault>,
}

/// Everything that a proxy shall do, and what it has seen.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) on_write: BTreeMap<usize, WriteFault>,
    pub(super) writes: Vec<Write>,
    pub(super) drop_event: Option<EventFilter>,
    /// The newest answer to each LIST, by path and query.
    pub(super) lists: BTreeMap<String, Bytes>,
    /// `lists` as they were when a test asked to remember them.
    pub(super) past: BTreeMap<String, Bytes>,
    /// Lists that are answered from the past, once each.
    pub(super) replay: BTreeMap<String, Bytes>,
}

impl Plan {
    /// Numbers a write and says which fault it gets.
    pub(super) fn enter(&mut self, method: &Method, path: &str) -> (usize, Option<WriteFault>) {
        let number = self.writes.len() + 1;
        let fault = self.on_write.get(&number).copied();
        self.writes.push(Write {
            number,
            method: method.clone(),
            path: path.to_owned(),
            status: None,
            fault,
        });
        (number, fault)
    }

    /// Keeps the API server's answer to write `number`.
    pub(super) fn answered(&mut self, number: usize, status: StatusCode) {
        if let Some(write) = self.writes.get_mut(number - 1) {
            write.status = Some(status);
        }
    }
}

/// True for requests that change the cluster. Leases and access reviews are POSTs and PATCHes too,
/// but say nothing about what the operator made of an object.
pub fn is_write(method: &Method, path: &str) -> bool {
    let changes = matches!(*method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE);
    changes && !path.starts_with("/apis/coordination.k8s.io/") && !path.starts_with("/apis/authorization.k8s.io/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_and_reads_are_not_counted_as_writes() {
        assert!(is_write(&Method::PATCH, "/apis/apps/v1/namespaces/a/deployments/chat"));
        assert!(is_write(&Method::POST, "/apis/events.k8s.io/v1/namespaces/a/events"));
        assert!(!is_write(&Method::GET, "/apis/apps/v1/namespaces/a/deployments/chat"));
        assert!(!is_write(
            &Method::PATCH,
            "/apis/coordination.k8s.io/v1/namespaces/a/leases/windlass"
        ));
        assert!(!is_write(
            &Method::POST,
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        ));
    }

    #[test]
    fn a_fault_hits_the_write_with_its_number_alone() {
        let mut plan = Plan::default();
        plan.on_write.insert(2, WriteFault::KillAfter);
        assert_eq!(plan.enter(&Method::PATCH, "/a"), (1, None));
        assert_eq!(plan.enter(&Method::PATCH, "/b"), (2, Some(WriteFault::KillAfter)));
        assert_eq!(plan.enter(&Method::PATCH, "/c"), (3, None));
        plan.answered(3, StatusCode::CREATED);
        assert_eq!(plan.writes[2].status, Some(StatusCode::CREATED));
    }
}
