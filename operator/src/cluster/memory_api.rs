//! An API server in memory, for tests: enough of server-side apply to distinguish a first apply from a forced
//! one, a repair from a repetition, and to fail at any chosen write. It defaults and schedules nothing.
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use kube::{Client, client::Body};
use serde_json::{Map, Value, json};

/// Where a write fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// The n-th write is refused with 500 and changes nothing.
    Before(usize),
    /// The n-th write is done, and answered with 500.
    After(usize),
}

/// What changes every object that is written, as a mutating webhook would.
pub type Webhook = fn(&mut Value);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    /// What each manager applied last, by object and manager.
    applied: BTreeMap<(String, String), Value>,
    /// `verb path`, events excluded.
    writes: Vec<String>,
    events: Vec<Value>,
    counter: u64,
    outage: Option<Outage>,
    webhook: Option<Webhook>,
    /// Writes whose path contains the text are answered with 403.
    forbidden: Option<&'static str>,
}

/// An API server in memory; clones share it.
#[derive(Clone, Default)]
pub struct MemoryApi(Arc<Mutex<State>>);

impl MemoryApi {
    /// A client that speaks to it.
    pub fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// The writes since the last call, as `verb path`.
    pub fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.state().writes)
    }

    /// The number of writes since the last `take_writes` or `fail`.
    pub fn writes(&self) -> usize {
        self.state().writes.len()
    }

    /// The reasons of the events since the last call.
    pub fn take_events(&self) -> Vec<String> {
        let events = std::mem::take(&mut self.state().events);
        events
            .iter()
            .map(|event| event["reason"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Fails at a write, counted from now.
    pub fn fail(&self, outage: Option<Outage>) {
        let mut state = self.state();
        state.writes.clear();
        state.outage = outage;
    }

    /// Changes every written object from now on.
    pub fn mutate(&self, webhook: Option<Webhook>) {
        self.state().webhook = webhook;
    }

    /// Refuses writes whose path contains the text.
    pub fn forbid(&self, path: Option<&'static str>) {
        self.state().forbidden = path;
    }

    /// The object at a path.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.state().objects.get(path).cloned()
    }

    /// All objects, without what differs between two equal runs.
    pub fn snapshot(&self) -> BTreeMap<String, Value> {
        let mut objects = self.state().objects.clone();
        for object in objects.values_mut() {
            if let Some(metadata) = object["metadata"].as_object_mut() {
                for volatile in ["uid", "resourceVersion", "generation", "managedFields"] {
                    metadata.remove(volatile);
                }
                if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
                    annotations.remove("windlass.dev/rollout-started");
                    annotations.remove("windlass.dev/intent");
                }
            }
            for condition in object["status"]["conditions"].as_array_mut().into_iter().flatten() {
                condition["lastTransitionTime"] = Value::Null;
            }
        }
        objects
    }

    /// Puts an object there, as somebody else would.
    pub fn put(&self, path: &str, mut object: Value) {
        let mut state = self.state();
        state.counter += 1;
        let counter = state.counter;
        let metadata = &mut object["metadata"];
        if metadata.get("uid").is_none() {
            metadata["uid"] = json!(format!("uid-{counter}"));
        }
        metadata["resourceVersion"] = json!(counter.to_string());
        state.objects.insert(path.to_owned(), object);
    }

    /// Removes an object, as somebody else would.
    pub fn remove(&self, path: &str) {
        let mut state = self.state();
        state.objects.remove(path);
        state.applied.retain(|(object, _), _| object != path);
    }

    /// The objects of an API kind in the namespace `ns`.
    pub fn of_kind(&self, plural: &str) -> Vec<Value> {
        let state = self.state();
        let marker = format!("/namespaces/ns/{plural}/");
        let of_kind = state.objects.iter().filter(|(path, _)| path.contains(&marker));
        of_kind.map(|(_, object)| object.clone()).collect()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no test panicked while it held the lock")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.expect("body").to_bytes();
        let body: Value = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).expect("JSON")
        };
        let (status, answer) = self.state().handle(&parts.method, &parts.uri, body);
        Response::builder()
            .status(status)
            .body(Full::from(answer.to_string()))
            .expect("response")
    }
}

impl State {
    fn handle(&mut self, method: &Method, uri: &Uri, body: Value) -> (StatusCode, Value) {
        let path = uri.path().to_owned();
        if path.contains("/events") && method != Method::GET {
            self.events.push(body.clone());
            return (StatusCode::CREATED, body);
        }
        if method == Method::GET {
            return self.read(&path, uri.query().unwrap_or_default());
        }
        self.writes.push(format!("{method} {path}"));
        let number = self.writes.len();
        if self.outage == Some(Outage::Before(number)) {
            return failure(500, "InternalError", "a test's outage");
        }
        if self.forbidden.is_some_and(|text| path.contains(text)) {
            return failure(403, "Forbidden", "a test's policy forbids it");
        }
        let answer = match *method {
            Method::PATCH => self.apply(&path, uri.query().unwrap_or_default(), body),
            Method::DELETE => self.delete(&path, &body),
            _ => failure(405, "MethodNotAllowed", "only GET, PATCH and DELETE are known"),
        };
        if self.outage == Some(Outage::After(number)) {
            return failure(500, "InternalError", "a test's outage");
        }
        answer
    }

    fn read(&self, path: &str, query: &str) -> (StatusCode, Value) {
        if let Some(object) = self.objects.get(path) {
            return (StatusCode::OK, object.clone());
        }
        if path.ends_with("/events") {
            return list(Vec::new());
        }
        let Some(selector) = query.split('&').find_map(|pair| pair.strip_prefix("labelSelector=")) else {
            return failure(404, "NotFound", "no such object");
        };
        let selector = selector.replace("%2F", "/").replace("%3D", "=");
        let (key, value) = selector.split_once('=').expect("an equality selector");
        let prefix = format!("{path}/");
        let items: Vec<Value> = self
            .objects
            .iter()
            .filter(|(object, _)| object.starts_with(&prefix))
            .filter(|(_, object)| object["metadata"]["labels"][key] == value)
            .map(|(_, object)| object.clone())
            .collect();
        list(items)
    }

    fn apply(&mut self, path: &str, query: &str, mut patch: Value) -> (StatusCode, Value) {
        let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
        let manager = parameter("fieldManager").expect("a field manager").to_owned();
        let force = parameter("force") == Some("true");
        let target = path.strip_suffix("/status").unwrap_or(path).to_owned();
        let live = self.objects.get(&target).cloned();
        let wanted = (
            patch["metadata"]["uid"].take(),
            patch["metadata"]["resourceVersion"].take(),
        );
        for (key, wanted) in [("uid", wanted.0), ("resourceVersion", wanted.1)] {
            let is_met = wanted.is_null() || live.as_ref().is_some_and(|live| live["metadata"][key] == wanted);
            if !is_met {
                return failure(409, "Conflict", "the object is another one");
            }
        }
        let patch = crate::fingerprint::without_nulls(patch);
        let owner = (
            target.clone(),
            format!("{manager}{}", path.strip_prefix(&target).unwrap_or_default()),
        );
        let mut next = live.clone().unwrap_or_else(|| json!({}));
        if let Some(previous) = self.applied.get(&owner) {
            drop_fields(&mut next, previous, &patch);
        } else if !force && live.is_some() && !crate::cluster::cover::covers(&next, &patch) {
            return failure(409, "Conflict", "another manager owns a field");
        }
        merge(&mut next, &patch);
        if let Some(webhook) = self.webhook {
            webhook(&mut next);
        }
        self.applied.insert(owner, patch);
        self.counter += 1;
        let metadata = &mut next["metadata"];
        if metadata.get("uid").is_none() {
            metadata["uid"] = json!(format!("uid-{}", self.counter));
        }
        let mut managers: Vec<String> = self
            .applied
            .keys()
            .filter(|(object, _)| *object == target)
            .map(|(_, manager)| manager.clone())
            .collect();
        managers.dedup();
        metadata["managedFields"] = managers
            .iter()
            .map(|manager| json!({"manager": manager, "operation": "Apply"}))
            .collect();
        let is_same = live.as_ref().is_some_and(|live| {
            let mut with_old_version = next.clone();
            with_old_version["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
            with_old_version == *live
        });
        if !is_same {
            next["metadata"]["resourceVersion"] = json!(self.counter.to_string());
        }
        self.objects.insert(target, next.clone());
        (StatusCode::OK, next)
    }

    fn delete(&mut self, path: &str, options: &Value) -> (StatusCode, Value) {
        let Some(live) = self.objects.get(path) else {
            return failure(404, "NotFound", "no such object");
        };
        let wanted = &options["preconditions"]["uid"];
        if *wanted != live["metadata"]["uid"] {
            return failure(409, "Conflict", "the object is another one");
        }
        self.objects.remove(path);
        self.applied.retain(|(object, _), _| object != path);
        (
            StatusCode::OK,
            json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
        )
    }
}

/// Removes what a manager applied before and does not apply any more.
fn drop_fields(live: &mut Value, previous: &Value, next: &Value) {
    let (Some(live), Some(previous)) = (live.as_object_mut(), previous.as_object()) else {
        return;
    };
    for (key, before) in previous {
        match next.get(key) {
            None => {
                live.remove(key);
            }
            Some(now) => drop_fields(
                live.entry(key.clone()).or_insert(Value::Object(Map::new())),
                before,
                now,
            ),
        }
    }
}

fn merge(live: &mut Value, patch: &Value) {
    match (live, patch) {
        (Value::Object(live), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(live.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (live, patch) => *live = patch.clone(),
    }
}

fn list(items: Vec<Value>) -> (StatusCode, Value) {
    let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items});
    (StatusCode::OK, list)
}

fn failure(code: u16, reason: &str, message: &str) -> (StatusCode, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message});
    (StatusCode::from_u16(code).expect("a status"), status)
}
