//! For tests: a cluster in memory with one object of a kind in it, and an operator that reconciles it when asked to.
use std::{
    marker::PhantomData,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Resource,
    runtime::{controller::Action, watcher::Event},
};
use serde_json::{Value, json};

use super::{
    Kind, Watched,
    children::ChildKind,
    driver::{Error, reconcile},
};
use crate::{
    cluster::{
        apply::Writer, cache::Cache, leader::Leadership, memory_api::MemoryApi, progress::Progress,
        schema_skew::SchemaSkew, watch::Triggers,
    },
    context::{Backoff, Context, Pace, Settings},
    metrics::Metrics,
};

/// A cluster with the object `chat` in the namespace `ns`, and an operator.
pub struct World<K: Kind> {
    pub api: MemoryApi,
    pub context: Arc<Context>,
    _kind: PhantomData<K>,
}

impl<K: Kind> World<K> {
    /// A new cluster with a new object.
    pub fn new(spec: Value, settings: Settings) -> Self {
        let api = MemoryApi::default();
        api.put(
            &Self::path(),
            json!({
                "apiVersion": K::Object::api_version(&()), "kind": K::Object::kind(&()),
                "metadata": {"name": "chat", "namespace": "ns", "uid": "owner", "generation": 1}, "spec": spec,
            }),
        );
        Self::operator(&api, settings)
    }

    /// A new operator in the same cluster: it knows nothing but the cluster.
    pub fn operator(api: &MemoryApi, settings: Settings) -> Self {
        let leadership = Leadership::default();
        leadership.extend(Instant::now() + Duration::from_secs(600));
        let metrics = Metrics::new().expect("metrics");
        let kind: &'static str = Box::leak(K::Object::kind(&()).into_owned().into_boxed_str());
        let context = Context {
            client: api.client(),
            writer: Writer::new(api.client(), "test".into(), leadership, metrics.clone(), None),
            cache: Cache::new(vec![(K::LABEL, kind)]),
            triggers: Triggers::default(),
            progress: Progress::new(Triggers::default()),
            settings,
            metrics,
            backoff: Backoff::default(),
            pace: Pace::default(),
            skew: SchemaSkew::default(),
        };
        Self {
            api: api.clone(),
            context: Arc::new(context),
            _kind: PhantomData,
        }
    }

    /// Another operator takes over.
    pub fn restarted(&self) -> Self {
        Self::operator(&self.api, self.context.settings.clone())
    }

    /// Where the object lies.
    pub fn path() -> String {
        format!(
            "/apis/{}/namespaces/ns/{}/chat",
            K::Object::api_version(&()),
            K::Object::plural(&())
        )
    }

    /// The object.
    pub fn object(&self) -> Value {
        self.api.get(&Self::path()).expect("object")
    }

    /// Replaces the spec.
    pub fn edit(&self, spec: Value) {
        let mut object = self.object();
        object["spec"] = spec;
        let generation = object["metadata"]["generation"].as_i64().expect("generation");
        object["metadata"]["generation"] = json!(generation + 1);
        self.api.put(&Self::path(), object);
    }

    /// Lets the watches list everything, then reconciles.
    pub async fn reconcile(&self) -> Result<Action, Error> {
        let kinds = K::children_kinds().into_iter().chain([ChildKind::of::<Pod>()]);
        for kind in kinds {
            let listed = self.api.of_kind(&kind.resource().plural);
            self.context.cache.feed(&kind, None, Event::Init);
            for object in listed {
                let object = serde_json::from_value(object).expect("object");
                self.context.cache.feed(&kind, None, Event::InitApply(object));
            }
            let fed = self.context.cache.feed(&kind, None, Event::InitDone);
            for (namespace, name) in fed.suspects {
                self.context.cache.confirm(&kind, &namespace, &name, None);
            }
        }
        self.reconcile_as_seen().await
    }

    /// Reconciles with what the watches showed before.
    pub async fn reconcile_as_seen(&self) -> Result<Action, Error> {
        let metadata = serde_json::from_value(json!({"name": "chat", "namespace": "ns"})).expect("metadata");
        let watched: Watched<K> = Watched::<K> {
            types: None,
            metadata,
            _phantom: PhantomData,
        };
        reconcile::<K>(Arc::new(watched), self.context.clone()).await
    }

    /// Status and reason of a condition.
    pub fn condition(&self, type_: &str) -> (String, String) {
        let object = self.object();
        let conditions = object["status"]["conditions"].as_array().expect("conditions").clone();
        let found = conditions.iter().find(|condition| condition["type"] == type_);
        let found = found.expect("condition");
        let text = |key: &str| found[key].as_str().expect("text").to_owned();
        (text("status"), text("reason"))
    }
}
