//! Reads what containers report about themselves (`GET /progress`): how far a download is, what a runtime
//! answered to its verification. Each object that is followed has a task of its own, outside of every reconcile;
//! a changed report triggers one. Reads are bounded in time and size, and in number for each namespace. A
//! report is shown to people and extends deadlines; whether a pod is ready is never read from it.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::{sync::Semaphore, task::JoinHandle, time::timeout};

use super::{cache::ObjectKey, watch::Triggers};

const TIMEOUT: Duration = Duration::from_secs(2);
const MAX_BODY: usize = 64 * 1024;
/// Between two reads of the same container.
const INTERVAL: Duration = Duration::from_secs(5);
/// Reads under way at the same time in one namespace: endpoints that hang keep no other namespace waiting.
const READS_PER_NAMESPACE: usize = 8;

/// Plain HTTP inside the cluster, no proxy, no redirects.
type PodClient = Client<HttpConnector, Empty<Bytes>>;
type Reports = Arc<Mutex<BTreeMap<String, Value>>>;

/// The containers that are followed; clones share them.
#[derive(Clone)]
pub struct Progress {
    client: PodClient,
    triggers: Triggers,
    followed: Arc<Mutex<HashMap<ObjectKey, Followed>>>,
    permits: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

struct Followed {
    addresses: BTreeSet<String>,
    reports: Reports,
    task: JoinHandle<()>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Progress {
    /// Follows nothing yet; changed reports go to `triggers`.
    pub fn new(triggers: Triggers) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(TIMEOUT));
        Self {
            client: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(connector),
            triggers,
            followed: Arc::default(),
            permits: Arc::default(),
        }
    }

    /// Follows exactly these addresses of an object's containers from now on.
    pub fn follow(&self, object: &ObjectKey, addresses: BTreeSet<String>) {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.is_empty() {
            followed.remove(object);
            return;
        }
        if followed
            .get(object)
            .is_some_and(|followed| followed.addresses == addresses)
        {
            return;
        }
        let reports = Reports::default();
        let task = tokio::spawn(read_on(
            self.client.clone(),
            self.permits_of(&object.namespace),
            self.triggers.clone(),
            object.clone(),
            addresses.clone(),
            reports.clone(),
        ));
        let new = Followed {
            addresses,
            reports,
            task,
        };
        followed.insert(object.clone(), new);
    }

    /// The last report of each address that is followed for an object and has answered.
    pub fn reports(&self, object: &ObjectKey) -> BTreeMap<String, Value> {
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(followed) = followed.get(object) else {
            return BTreeMap::new();
        };
        followed.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn permits_of(&self, namespace: &str) -> Arc<Semaphore> {
        let mut permits = self.permits.lock().unwrap_or_else(PoisonError::into_inner);
        permits.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        let new = || Arc::new(Semaphore::new(READS_PER_NAMESPACE));
        permits.entry(namespace.to_owned()).or_insert_with(new).clone()
    }
}

/// The address of a report; `None` unless the host is an IP address, since a pod's status may hold nothing else.
pub fn address(host: &str, port: i32) -> Option<String> {
    match host.parse().ok()? {
        IpAddr::V4(address) => Some(format!("http://{address}:{port}/progress")),
        IpAddr::V6(address) => Some(format!("http://[{address}]:{port}/progress")),
    }
}

async fn read_on(
    client: PodClient,
    permits: Arc<Semaphore>,
    triggers: Triggers,
    object: ObjectKey,
    addresses: BTreeSet<String>,
    reports: Reports,
) {
    loop {
        let mut changed = false;
        for address in &addresses {
            let Ok(permit) = permits.acquire().await else {
                return;
            };
            let report = read(&client, address).await;
            drop(permit);
            if let Some(report) = report {
                let mut reports = reports.lock().unwrap_or_else(PoisonError::into_inner);
                changed |= reports.get(address) != Some(&report);
                reports.insert(address.clone(), report);
            }
        }
        if changed {
            triggers.send(&object).await;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// One report; `None` when the container does not give one, which is no failure.
async fn read(client: &PodClient, address: &str) -> Option<Value> {
    let request = Request::get(address).body(Empty::new()).ok()?;
    let exchange = async {
        let response = client.request(request).await.ok()?;
        if response.status() != StatusCode::OK {
            return None;
        }
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await.ok()?;
        serde_json::from_slice(&body.to_bytes()).ok()
    };
    timeout(TIMEOUT, exchange).await.ok()?
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Json, Router, routing::get};
    use serde_json::json;

    fn key(namespace: &str) -> ObjectKey {
        ObjectKey {
            kind: "ModelDeployment".into(),
            namespace: namespace.into(),
            name: "chat".into(),
        }
    }

    async fn serve(router: Router) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        tokio::spawn(async move { axum::serve(listener, router).await });
        address("127.0.0.1", i32::from(port)).expect("address")
    }

    #[tokio::test]
    async fn a_report_triggers_a_reconcile_and_is_kept_while_it_is_followed() {
        let address =
            serve(Router::new().route("/progress", get(|| async { Json(json!({"phase": "Downloading"})) }))).await;
        let (triggers, mut triggered) = Triggers::for_test("ModelDeployment");
        let progress = Progress::new(triggers);
        progress.follow(&key("ns"), BTreeSet::from([address.clone()]));
        assert_eq!(triggered.recv().await, Some(key("ns")));
        assert_eq!(progress.reports(&key("ns"))[&address]["phase"], "Downloading");
        progress.follow(&key("ns"), BTreeSet::new());
        assert!(progress.reports(&key("ns")).is_empty());
    }

    #[tokio::test]
    async fn endpoints_that_hang_keep_no_other_namespace_waiting() {
        let hanging = serve(Router::new().route("/progress", get(std::future::pending::<()>))).await;
        let good = serve(Router::new().route("/progress", get(|| async { Json(json!(1)) }))).await;
        let (triggers, mut triggered) = Triggers::for_test("ModelDeployment");
        let progress = Progress::new(triggers);
        for number in 0..3 * READS_PER_NAMESPACE {
            let mut object = key("full");
            object.name = number.to_string();
            progress.follow(&object, BTreeSet::from([hanging.clone()]));
        }
        progress.follow(&key("other"), BTreeSet::from([good]));
        assert_eq!(triggered.recv().await, Some(key("other")));
    }

    #[tokio::test]
    async fn what_is_no_report_is_no_report() {
        let huge = serve(Router::new().route("/progress", get(|| async { "1".repeat(MAX_BODY + 1) }))).await;
        let text = serve(Router::new().route("/progress", get(|| async { "hello" }))).await;
        let progress = Progress::new(Triggers::default());
        for address in [huge, text, "http://127.0.0.1:1/progress".to_owned()] {
            assert_eq!(read(&progress.client, &address).await, None, "{address}");
        }
    }

    #[test]
    fn only_ip_addresses_are_read() {
        for host in ["", "metadata.internal", "10.0.0.1@evil", "10.0.0.1/..", "::1%eth0"] {
            assert_eq!(address(host, 80), None, "{host}");
        }
        assert_eq!(address("fd00::1", 80).as_deref(), Some("http://[fd00::1]:80/progress"));
    }
}
