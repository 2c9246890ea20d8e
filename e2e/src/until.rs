//! Waiting: on an object (by watch), on a list of objects (by watch), or on something outside of the API
//! (by asking again). Every wait has a deadline, and its error shows what was seen last. Nothing here sleeps
//! for a time in the hope that it was enough.
use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector;
use kube::runtime::watcher::{self, watch_object, watcher};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

/// Interval of questions to things that cannot be watched.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Watches one object until `holds` says true of it (`None`: it does not exist). `what` completes the sentence
/// "waited in vain for …".
pub async fn until<K>(
    api: &Api<K>,
    name: &str,
    what: &str,
    within: Duration,
    holds: impl Fn(Option<&K>) -> bool,
) -> Result<Option<K>>
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug + Send + 'static,
{
    let deadline = Instant::now() + within;
    let mut changes = pin!(watch_object(api.clone(), name).default_backoff());
    let mut last: Option<K> = None;
    loop {
        match timeout_at(deadline, changes.next()).await {
            Ok(Some(Ok(now))) if holds(now.as_ref()) => return Ok(now),
            Ok(Some(Ok(now))) => last = now,
            // The watcher backs off and goes on; an API server may restart under a test.
            Ok(Some(Err(error))) => eprintln!("watching {name}: {error}"),
            Ok(None) => return Err(anyhow!("the watch on {name} ended")),
            Err(_) => {
                let kind = std::any::type_name::<K>().rsplit("::").next().unwrap_or_default();
                return Err(anyhow!(
                    "waited {within:?} in vain for {what}; the last state of {kind} {name}:\n{}",
                    last.as_ref().map_or("(it does not exist)".into(), readable)
                ));
            }
        }
    }
}

/// Watches one object until `holds` says true; fails as well when it does not exist at the end.
pub async fn until_is<K>(
    api: &Api<K>,
    name: &str,
    what: &str,
    within: Duration,
    holds: impl Fn(&K) -> bool,
) -> Result<K>
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug + Send + 'static,
{
    let found = until(api, name, what, within, |object| object.is_some_and(&holds)).await?;
    found.with_context(|| format!("{name} vanished"))
}

/// Watches the objects of a selector until `holds` says true of all of them together.
pub async fn until_all<K>(
    api: &Api<K>,
    labels: &str,
    what: &str,
    within: Duration,
    holds: impl Fn(&[K]) -> bool,
) -> Result<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug + Send + Sync + 'static,
{
    let deadline = Instant::now() + within;
    let (store, writer) = reflector::store::<K>();
    let changes = watcher(api.clone(), watcher::Config::default().labels(labels))
        .default_backoff()
        .reflect(writer);
    let mut changes = pin!(changes);
    let mut complete = false;
    loop {
        let now: Vec<K> = store.state().iter().map(|object| K::clone(object)).collect();
        if complete && holds(&now) {
            return Ok(now);
        }
        match timeout_at(deadline, changes.next()).await {
            Ok(Some(Ok(event))) => complete |= matches!(event, watcher::Event::InitDone),
            Ok(Some(Err(error))) => eprintln!("watching {labels}: {error}"),
            Ok(None) => return Err(anyhow!("the watch on {labels} ended")),
            Err(_) => {
                let seen: Vec<String> = now.iter().map(readable).collect();
                return Err(anyhow!(
                    "waited {within:?} in vain for {what}; the last {} objects of {labels:?}:\n{}",
                    seen.len(),
                    seen.join("---\n")
                ));
            }
        }
    }
}

/// Asks until the answer is `Some`. For what no watch can tell: files, processes, pods' own endpoints.
/// An error of the question counts as "not yet" and is shown at the end.
pub async fn until_some<T>(what: &str, within: Duration, ask: impl AsyncFn() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + within;
    let mut ticks = interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = "nothing yet".to_owned();
    loop {
        ticks.tick().await;
        match timeout_at(deadline, ask()).await {
            Ok(Ok(Some(answer))) => return Ok(answer),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => last = format!("{error:#}"),
            Err(_) => last.push_str(" (the last question was not answered in time)"),
        }
        if Instant::now() >= deadline {
            return Err(anyhow!("waited {within:?} in vain for {what}: {last}"));
        }
    }
}

/// Fails if `broken` says something about any state of the object within a time; to show that something
/// does *not* happen needs time to pass.
pub async fn never<K>(api: &Api<K>, name: &str, during: Duration, broken: impl Fn(&K) -> Option<String>) -> Result<()>
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug + Send + 'static,
{
    let end = Instant::now() + during;
    let mut changes = pin!(watch_object(api.clone(), name).default_backoff());
    loop {
        match timeout_at(end, changes.next()).await {
            Err(_) => return Ok(()),
            Ok(None) => return Err(anyhow!("the watch on {name} ended")),
            Ok(Some(Err(error))) => return Err(error).with_context(|| format!("watching {name}")),
            Ok(Some(Ok(None))) => return Err(anyhow!("{name} vanished")),
            Ok(Some(Ok(Some(now)))) => {
                if let Some(sentence) = broken(&now) {
                    return Err(anyhow!("{sentence}:\n{}", readable(&now)));
                }
            }
        }
    }
}

/// YAML of an object without the noise of managed fields.
pub fn readable<K: Serialize>(object: &K) -> String {
    let mut value = match serde_json::to_value(object) {
        Ok(value) => value,
        Err(error) => return format!("(unreadable: {error})"),
    };
    if let Some(metadata) = value.get_mut("metadata").and_then(|metadata| metadata.as_object_mut()) {
        metadata.remove("managedFields");
    }
    serde_yaml::to_string(&value).unwrap_or_else(|error| format!("(unreadable: {error})"))
}
