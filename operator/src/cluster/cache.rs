//! What the watches last saw of children and pods, kept small: children as compact JSON text without field
//! ownership, pods without their containers' details. Indexed by owner, so that a reconcile costs what its own
//! children cost, however many objects there are. No decision needs a read of the API server for what is here;
//! every write carries the uid or resourceVersion that it rests on, so that an old copy can do no harm.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{api::DynamicObject, runtime::watcher::Event};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::apply::controller;
use crate::{
    kind::children::{ChildKind, Key},
    names,
};

/// An object that a change belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its kind, for example `ModelDeployment`.
    pub kind: String,
    pub namespace: String,
    pub name: String,
}

/// What an event of a watch means.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Fed {
    /// The objects that it concerns.
    pub concerned: Vec<ObjectKey>,
    /// Namespace and name of what is cached and was not in a new list. A list may be older than what is known, so
    /// each is read before it counts as gone.
    pub suspects: Vec<(String, String)>,
}

/// Where an object of the cluster lies.
type Place = (String, String, String);
/// A watch: API kind, and the namespace that it is limited to.
type Watch = (String, Option<String>);

struct Child {
    owner_uid: String,
    owner: ObjectKey,
    version: Option<u64>,
    text: Box<str>,
}

#[derive(Default)]
struct State {
    children: HashMap<Place, Child>,
    /// Places of the children of an owner, by its uid.
    of_owner: HashMap<String, BTreeSet<Place>>,
    pods: HashMap<ObjectKey, BTreeMap<String, Arc<Pod>>>,
    owner_of_pod: HashMap<(String, String), ObjectKey>,
    /// What watches that list anew have listed so far.
    listing: HashMap<Watch, HashSet<(String, String)>>,
}

/// The cache; clones share it.
#[derive(Clone)]
pub struct Cache {
    state: Arc<Mutex<State>>,
    /// Watches that have not listed everything yet.
    missing: Arc<watch::Sender<BTreeSet<Watch>>>,
    /// The kind that each pod label belongs to.
    labels: Arc<Vec<(&'static str, &'static str)>>,
}

impl Cache {
    /// An empty cache; `labels` are those that mark pods, with the kind that each belongs to.
    pub fn new(labels: Vec<(&'static str, &'static str)>) -> Self {
        Self {
            state: Arc::default(),
            missing: Arc::new(watch::Sender::new(BTreeSet::new())),
            labels: Arc::new(labels),
        }
    }

    /// A watch will fill the cache: until it has listed everything, `complete` waits.
    pub fn expect(&self, kind: &ChildKind, namespace: Option<&str>) {
        self.missing.send_modify(|missing| {
            missing.insert((kind.name().to_owned(), namespace.map(str::to_owned)));
        });
    }

    /// Waits until every expected watch has listed what exists.
    pub async fn complete(&self) {
        // The sender lives as long as the cache does.
        if self.missing.subscribe().wait_for(BTreeSet::is_empty).await.is_err() {
            tracing::error!("the cache was dropped while it was in use");
        }
    }

    /// The children that carry an owner's uid.
    pub fn children_of(&self, uid: &str) -> BTreeMap<Key, Value> {
        let state = self.lock();
        let places = state.of_owner.get(uid).into_iter().flatten();
        let read = |place: &Place| {
            let child = state.children.get(place)?;
            // It was written by this program.
            let value = serde_json::from_str(&child.text).ok()?;
            Some(((place.0.clone(), place.2.clone()), value))
        };
        places.filter_map(read).collect()
    }

    /// The pods that carry an object's label.
    pub fn pods_of(&self, owner: &ObjectKey) -> Vec<Arc<Pod>> {
        let state = self.lock();
        state
            .pods
            .get(owner)
            .into_iter()
            .flat_map(|pods| pods.values().cloned())
            .collect()
    }

    /// Keeps what a write returned, before the watch shows it.
    pub fn store(&self, kind: &ChildKind, live: &Value) {
        self.lock().put(kind, live.clone());
    }

    /// Forgets what was deleted, before the watch shows it.
    pub fn forget(&self, kind: &ChildKind, live: &Value) {
        let text = |key: &str| live["metadata"][key].as_str().unwrap_or_default().to_owned();
        self.lock()
            .remove_child(&(kind.name().to_owned(), text("namespace"), text("name")));
    }

    /// Takes in what a watch of `kind` in `namespace` saw.
    pub fn feed(&self, kind: &ChildKind, namespace: Option<&str>, event: Event<DynamicObject>) -> Fed {
        let watch: Watch = (kind.name().to_owned(), namespace.map(str::to_owned));
        let mut state = self.lock();
        let mut fed = Fed::default();
        match event {
            Event::Init => {
                state.listing.insert(watch, HashSet::new());
            }
            Event::InitApply(object) => {
                if let Some(listed) = state.listing.get_mut(&watch) {
                    listed.insert(place_of(&object));
                }
                fed.concerned = self.take(&mut state, kind, object);
            }
            Event::InitDone => {
                let listed = state.listing.remove(&watch).unwrap_or_default();
                fed.suspects = state.places(kind.name(), namespace, &listed);
                drop(state);
                self.missing.send_if_modified(|missing| missing.remove(&watch));
            }
            Event::Apply(object) => fed.concerned = self.take(&mut state, kind, object),
            Event::Delete(object) => {
                let (ns, name) = place_of(&object);
                fed.concerned.extend(self.drop_one(&mut state, kind, &ns, &name));
            }
        }
        fed
    }

    /// Takes in what a read of a suspect gave: the object, or that it is gone.
    pub fn confirm(
        &self,
        kind: &ChildKind,
        namespace: &str,
        name: &str,
        live: Option<DynamicObject>,
    ) -> Vec<ObjectKey> {
        let mut state = self.lock();
        match live {
            Some(live) => self.take(&mut state, kind, live),
            None => self.drop_one(&mut state, kind, namespace, name).into_iter().collect(),
        }
    }

    fn take(&self, state: &mut State, kind: &ChildKind, object: DynamicObject) -> Vec<ObjectKey> {
        if kind.name() == "Pod" {
            return self.take_pod(state, object);
        }
        let Ok(value) = serde_json::to_value(object) else {
            return Vec::new();
        };
        state.put(kind, value)
    }

    fn take_pod(&self, state: &mut State, object: DynamicObject) -> Vec<ObjectKey> {
        let (namespace, name) = place_of(&object);
        let version = |pod: &ObjectMeta| {
            pod.resource_version
                .as_ref()
                .and_then(|version| version.parse::<u64>().ok())
        };
        let known = state.owner_of_pod.get(&(namespace.clone(), name.clone()));
        let known = known.and_then(|owner| state.pods.get(owner)?.get(&name));
        if known.is_some_and(|known| version(&object.metadata) < version(&known.metadata)) {
            return Vec::new();
        }
        let before = state.remove_pod(&namespace, &name);
        let labels = object.metadata.labels.clone().unwrap_or_default();
        let owner = self.labels.iter().find_map(|(label, kind)| {
            Some(ObjectKey {
                kind: (*kind).to_owned(),
                namespace: namespace.clone(),
                name: labels.get(*label)?.clone(),
            })
        });
        let pod = serde_json::to_value(object).and_then(serde_json::from_value::<Pod>);
        if let (Some(owner), Ok(pod)) = (&owner, pod) {
            let pods = state.pods.entry(owner.clone()).or_default();
            pods.insert(name.clone(), Arc::new(slim(pod)));
            state.owner_of_pod.insert((namespace, name), owner.clone());
        }
        let moved = before.filter(|before| Some(before) != owner.as_ref());
        owner.into_iter().chain(moved).collect()
    }

    fn drop_one(&self, state: &mut State, kind: &ChildKind, namespace: &str, name: &str) -> Option<ObjectKey> {
        if kind.name() == "Pod" {
            return state.remove_pod(namespace, name);
        }
        state.remove_child(&(kind.name().to_owned(), namespace.to_owned(), name.to_owned()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn put(&mut self, kind: &ChildKind, mut value: Value) -> Vec<ObjectKey> {
        let text = |value: &Value, key: &str| value["metadata"][key].as_str().unwrap_or_default().to_owned();
        let place: Place = (kind.name().to_owned(), text(&value, "namespace"), text(&value, "name"));
        let version = value["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|version| version.parse().ok());
        let is_older = self.children.get(&place).is_some_and(|known| version < known.version);
        if is_older {
            return Vec::new();
        }
        let before = self.remove_child(&place);
        let owner = controller(&value).filter(|owner| {
            owner["apiVersion"]
                .as_str()
                .is_some_and(|version| version.starts_with(names::PREFIX))
        });
        let Some(owner) = owner.cloned() else {
            return before.into_iter().collect();
        };
        let member = |key: &str| owner[key].as_str().unwrap_or_default().to_owned();
        let key = ObjectKey {
            kind: member("kind"),
            namespace: place.1.clone(),
            name: member("name"),
        };
        shrink(&mut value);
        // Items of a list come without them.
        value["apiVersion"] = json!(kind.resource().api_version);
        value["kind"] = json!(kind.resource().kind);
        self.of_owner.entry(member("uid")).or_default().insert(place.clone());
        let child = Child {
            owner_uid: member("uid"),
            owner: key.clone(),
            version,
            text: value.to_string().into_boxed_str(),
        };
        self.children.insert(place, child);
        let moved = before.filter(|before| *before != key);
        std::iter::once(key).chain(moved).collect()
    }

    fn remove_child(&mut self, place: &Place) -> Option<ObjectKey> {
        let child = self.children.remove(place)?;
        if let Some(places) = self.of_owner.get_mut(&child.owner_uid) {
            places.remove(place);
            if places.is_empty() {
                self.of_owner.remove(&child.owner_uid);
            }
        }
        Some(child.owner)
    }

    fn remove_pod(&mut self, namespace: &str, name: &str) -> Option<ObjectKey> {
        let owner = self.owner_of_pod.remove(&(namespace.to_owned(), name.to_owned()))?;
        if let Some(pods) = self.pods.get_mut(&owner) {
            pods.remove(name);
            if pods.is_empty() {
                self.pods.remove(&owner);
            }
        }
        Some(owner)
    }

    /// Namespace and name of what is cached of an API kind within a watch's limits, and was not listed.
    fn places(&self, kind: &str, namespace: Option<&str>, listed: &HashSet<(String, String)>) -> Vec<(String, String)> {
        let cached: Vec<(String, String)> = if kind == "Pod" {
            self.owner_of_pod.keys().cloned().collect()
        } else {
            let of_kind = self.children.keys().filter(|(cached, _, _)| cached == kind);
            of_kind
                .map(|(_, namespace, name)| (namespace.clone(), name.clone()))
                .collect()
        };
        let is_within = |place: &(String, String)| namespace.is_none_or(|namespace| place.0 == namespace);
        cached
            .into_iter()
            .filter(|place| is_within(place) && !listed.contains(place))
            .collect()
    }
}

fn place_of(object: &DynamicObject) -> (String, String) {
    let metadata = &object.metadata;
    (
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

/// Of field ownership only the managers are kept: the rest takes more than the object.
fn shrink(value: &mut Value) {
    let metadata = &mut value["metadata"];
    if let Some(fields) = metadata["managedFields"].as_array() {
        let managers: Vec<Value> = fields
            .iter()
            .map(|entry| json!({"manager": entry["manager"]}))
            .collect();
        metadata["managedFields"] = Value::Array(managers);
    }
}

/// What no decision needs.
fn slim(mut pod: Pod) -> Pod {
    pod.metadata.managed_fields = None;
    pod.metadata.annotations = None;
    if let Some(spec) = &mut pod.spec {
        let mut small = k8s_openapi::api::core::v1::PodSpec {
            node_name: spec.node_name.take(),
            readiness_gates: spec.readiness_gates.take(),
            ..Default::default()
        };
        for container in std::mem::take(&mut spec.containers) {
            small.containers.push(k8s_openapi::api::core::v1::Container {
                name: container.name,
                resources: container.resources,
                ..Default::default()
            });
        }
        *spec = small;
    }
    pod
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;

    fn cache() -> Cache {
        Cache::new(vec![("windlass.dev/model-deployment", "ModelDeployment")])
    }

    fn object(name: &str, version: &str, owner: Option<&str>) -> DynamicObject {
        let owners = owner.map(|owner| {
            json!([{"apiVersion": "windlass.dev/v1alpha1", "kind": "ModelDeployment", "name": owner, "uid": owner, "controller": true}])
        });
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Service", "metadata": {
            "name": name, "namespace": "ns", "resourceVersion": version, "ownerReferences": owners}}))
        .expect("object")
    }

    fn pod(name: &str, owner: &str) -> DynamicObject {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
            "name": name, "namespace": "ns", "labels": {"windlass.dev/model-deployment": owner}},
            "spec": {"nodeName": "n1", "containers": [{"name": "engine", "image": "x", "resources": {"limits": {"memory": "1Gi"}}}]}}))
        .expect("pod")
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey {
            kind: "ModelDeployment".into(),
            namespace: "ns".into(),
            name: name.into(),
        }
    }

    #[test]
    fn a_change_concerns_the_owner_and_one_that_changed_owners_both() {
        let (cache, services) = (cache(), ChildKind::of::<Service>());
        let feed = |event| cache.feed(&services, None, event).concerned;
        assert_eq!(feed(Event::Apply(object("a", "1", Some("chat")))), [key("chat")]);
        assert_eq!(cache.children_of("chat").len(), 1);
        assert_eq!(
            feed(Event::Apply(object("a", "2", Some("other")))),
            [key("other"), key("chat")]
        );
        assert_eq!(
            (cache.children_of("chat").len(), cache.children_of("other").len()),
            (0, 1)
        );
        assert_eq!(feed(Event::Apply(object("a", "3", None))), [key("other")]);
        assert!(cache.children_of("other").is_empty());
    }

    #[test]
    fn an_item_of_a_list_is_the_same_as_an_object_of_an_event() {
        let (cache, services) = (cache(), ChildKind::of::<Service>());
        let mut item = object("a", "1", Some("chat"));
        item.types = None;
        cache.feed(&services, None, Event::Init);
        cache.feed(&services, None, Event::InitApply(item));
        let listed = cache.children_of("chat");
        cache.feed(&services, None, Event::Apply(object("a", "1", Some("chat"))));
        assert_eq!(listed, cache.children_of("chat"));
    }

    #[test]
    fn a_late_event_does_not_replace_what_a_write_returned() {
        let (cache, services) = (cache(), ChildKind::of::<Service>());
        let mut written = serde_json::to_value(object("a", "7", Some("chat"))).expect("JSON");
        written["spec"] = json!({"new": true});
        cache.store(&services, &written);
        cache.feed(&services, None, Event::Apply(object("a", "6", Some("chat"))));
        assert_eq!(
            cache.children_of("chat")[&("Service".into(), "a".into())]["spec"]["new"],
            true
        );
    }

    #[test]
    fn what_a_new_list_lacks_within_its_namespace_is_forgotten_once_a_read_confirms_it() {
        let (cache, services) = (cache(), ChildKind::of::<Service>());
        for name in ["a", "b"] {
            cache.feed(&services, Some("ns"), Event::Apply(object(name, "1", Some("chat"))));
        }
        let mut elsewhere = object("a", "1", Some("far"));
        elsewhere.metadata.namespace = Some("elsewhere".into());
        cache.feed(&services, Some("elsewhere"), Event::Apply(elsewhere));
        cache.feed(&services, Some("ns"), Event::Init);
        cache.feed(&services, Some("ns"), Event::InitApply(object("b", "1", Some("chat"))));
        let suspects = cache.feed(&services, Some("ns"), Event::InitDone).suspects;
        assert_eq!(suspects, [("ns".to_owned(), "a".to_owned())]);
        assert_eq!(cache.children_of("chat").len(), 2, "the list may be old");
        assert_eq!(cache.confirm(&services, "ns", "a", None), [key("chat")]);
        assert_eq!(cache.children_of("chat").len(), 1);
        assert_eq!(cache.children_of("far").len(), 1);
    }

    #[tokio::test]
    async fn it_is_complete_when_every_watch_has_listed() {
        let (cache, services, pods) = (cache(), ChildKind::of::<Service>(), ChildKind::of::<Pod>());
        cache.expect(&services, None);
        cache.expect(&pods, None);
        cache.feed(&services, None, Event::Init);
        cache.feed(&services, None, Event::InitDone);
        let waiting = tokio::spawn({
            let cache = cache.clone();
            async move { cache.complete().await }
        });
        cache.feed(&pods, None, Event::Init);
        assert!(!waiting.is_finished());
        cache.feed(&pods, None, Event::InitDone);
        waiting.await.expect("complete");
    }

    #[test]
    fn pods_are_found_by_label_and_kept_without_what_nobody_reads() {
        let (cache, pods) = (cache(), ChildKind::of::<Pod>());
        assert_eq!(
            cache.feed(&pods, None, Event::Apply(pod("p", "chat"))).concerned,
            [key("chat")]
        );
        let found = cache.pods_of(&key("chat"));
        let container = &found[0].spec.as_ref().expect("spec").containers[0];
        assert_eq!((container.name.as_str(), &container.image), ("engine", &None));
        assert!(container.resources.is_some());
        assert_eq!(
            cache.feed(&pods, None, Event::Delete(pod("p", "chat"))).concerned,
            [key("chat")]
        );
        assert!(cache.pods_of(&key("chat")).is_empty());
    }
}
