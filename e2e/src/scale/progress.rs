//! Which ModelDeployments are Ready, and why the others are not: one watch on all of them.
use std::collections::{BTreeMap, HashMap};
use std::pin::pin;

use futures::StreamExt;
use kube::core::Object;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;

/// How far the objects are.
#[derive(Debug, Clone)]
pub struct Progress {
    /// How many have `Ready=True` for their present generation.
    pub ready: usize,
    /// Why the others have not, as far as their `Ready` condition says it.
    pub reasons: BTreeMap<String, usize>,
    /// When this was seen.
    pub at: Instant,
}

/// The part of an object's status that is read.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    observed_generation: Option<i64>,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
}

/// Fields that are not read.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Spec {}

/// An object as far as it is read.
pub(super) type Watched = Object<Spec, Status>;

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            ready: 0,
            reasons: BTreeMap::new(),
            at: Instant::now(),
        }
    }

    /// Counts an object that is Ready, or is not for a reason.
    fn count(&mut self, reason: Option<String>, change: isize) {
        let Some(reason) = reason else {
            self.ready = self.ready.saturating_add_signed(change);
            return;
        };
        let count = self.reasons.entry(reason).or_default();
        *count = count.saturating_add_signed(change);
        self.reasons.retain(|_, count| *count > 0);
    }
}

/// Keeps the progress up to date. Errors of the watch are shown; it goes on by itself.
pub(super) async fn follow(api: Api<Watched>, progress: watch::Sender<Progress>) {
    let mut changes = pin!(watcher(api, watcher::Config::default()).default_backoff());
    let mut states: HashMap<(String, String), Option<String>> = HashMap::new();
    while let Some(event) = changes.next().await {
        // Only the difference is counted: there are ten thousands of events about thousands of objects.
        let (before, after) = match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                let after = not_ready(&object);
                (states.insert(key(&object), after.clone()), Some(after))
            }
            Ok(Event::Delete(object)) => (states.remove(&key(&object)), None),
            Ok(Event::Init) => {
                states.clear();
                progress.send_replace(Progress::new());
                continue;
            }
            Ok(Event::InitDone) => continue,
            Err(error) => {
                eprintln!("watching the objects: {error}");
                continue;
            }
        };
        progress.send_modify(|progress| {
            if let Some(before) = before {
                progress.count(before, -1);
            }
            if let Some(after) = after {
                progress.count(after, 1);
            }
            progress.at = Instant::now();
        });
    }
}

fn key(object: &Watched) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// `None` for an object that is Ready for its present generation, else why it is not.
fn not_ready(object: &Watched) -> Option<String> {
    let Some(status) = &object.status else {
        return Some("NoStatus".to_owned());
    };
    if status.observed_generation != object.metadata.generation {
        return Some("NotObserved".to_owned());
    }
    match status.conditions.iter().find(|condition| condition.kind == "Ready") {
        Some(ready) if ready.status == "True" => None,
        Some(ready) => Some(ready.reason.clone()),
        None => Some("NoCondition".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(status: Value) -> Watched {
        serde_json::from_value(json!({"apiVersion": "windlass.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "a", "generation": 2}, "spec": {}, "status": status}))
        .unwrap()
    }

    #[test]
    fn an_object_counts_as_ready_only_for_its_present_generation() {
        let ready = json!([{"type": "Ready", "status": "True", "reason": "Ready"}]);
        assert_eq!(
            not_ready(&object(json!({"observedGeneration": 2, "conditions": ready}))),
            None
        );
        let old = not_ready(&object(json!({"observedGeneration": 1, "conditions": ready})));
        assert_eq!(old.as_deref(), Some("NotObserved"));
        let waiting = json!([{"type": "Ready", "status": "False", "reason": "Downloading"}]);
        let waiting = not_ready(&object(json!({"observedGeneration": 2, "conditions": waiting})));
        assert_eq!(waiting.as_deref(), Some("Downloading"));
    }
}
