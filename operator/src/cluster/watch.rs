//! Which changes in the cluster lead to which reconcile. Children and pods of all kinds are watched once for each
//! API kind, by the label that all of them carry, and fill the cache; a change triggers a reconcile of the object
//! that it belongs to. Nothing is filtered by generation, so no deletion is missed.
use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    runtime::{
        WatchStreamExt, applier,
        controller::{Config, ReconcileRequest, trigger_self},
        reflector::{self, ObjectRef},
        watcher,
    },
};
use tokio::sync::{mpsc, watch};

use super::cache::ObjectKey;
use crate::{
    args::Scope,
    context::Context,
    health::Readiness,
    kind::{
        Kind, Registered, Watched,
        children::ChildKind,
        driver::{reconcile, retry},
    },
    names,
};

/// Events that come together are answered together.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Triggers that wait for a controller; a watch that finds the queue full waits with its next event.
const QUEUE: usize = 1024;

/// The queues of the controllers, by kind and the namespace that they are limited to; clones share them.
#[derive(Clone, Default)]
pub struct Triggers(Arc<HashMap<Controlled, mpsc::Sender<ObjectKey>>>);

/// A kind, and the namespace that its controller is limited to.
type Controlled = (String, Option<String>);

impl Triggers {
    /// Asks for a reconcile of an object.
    pub async fn send(&self, object: &ObjectKey) {
        let of_namespace = (object.kind.clone(), Some(object.namespace.clone()));
        let of_cluster = (object.kind.clone(), None);
        let Some(queue) = self.0.get(&of_namespace).or_else(|| self.0.get(&of_cluster)) else {
            return;
        };
        if queue.send(object.clone()).await.is_err() {
            tracing::debug!(kind = object.kind, "the controller has ended");
        }
    }

    /// The queue of one kind, for a test.
    #[cfg(test)]
    pub fn for_test(kind: &str) -> (Self, mpsc::Receiver<ObjectKey>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let queues = HashMap::from([((kind.to_owned(), None), sender)]);
        (Self(Arc::new(queues)), receiver)
    }
}

/// The receiving ends of `Triggers`.
pub struct Queues(Vec<(&'static Registered, Option<String>, mpsc::Receiver<ObjectKey>)>);

/// One queue for each kind and namespace of the scope.
pub fn queues(kinds: &'static [Registered], scope: &Scope) -> (Triggers, Queues) {
    let mut senders = HashMap::new();
    let mut receivers = Vec::new();
    for kind in kinds {
        for namespace in namespaces(scope) {
            let (sender, receiver) = mpsc::channel(QUEUE);
            senders.insert((kind.kind.to_owned(), namespace.clone()), sender);
            receivers.push((kind, namespace, receiver));
        }
    }
    (Triggers(Arc::new(senders)), Queues(receivers))
}

/// How controllers run.
#[derive(Clone)]
pub struct Running {
    /// Objects of a kind that are worked on at the same time.
    pub concurrency: u16,
    pub readiness: Readiness,
    /// Becomes true when no new work shall be begun.
    pub stop: watch::Receiver<bool>,
}

/// Reconciles until `stop` becomes true, then finishes what was begun.
pub async fn run(context: Arc<Context>, kinds: &'static [Registered], scope: &Scope, queues: Queues, running: Running) {
    let mut watched: Vec<ChildKind> = vec![ChildKind::of::<Pod>()];
    for kind in kinds.iter().flat_map(|kind| (kind.children)()) {
        if !watched.contains(&kind) {
            watched.push(kind);
        }
    }
    // One watch for each namespace: rights may not reach further.
    let mut watches = Vec::new();
    for kind in &watched {
        for namespace in namespaces(scope) {
            context.cache.expect(kind, namespace.as_deref());
            watches.push(follow(context.clone(), kind.clone(), namespace));
        }
    }
    let controllers = queues
        .0
        .into_iter()
        .map(|(kind, namespace, queue)| (kind.run)(context.clone(), namespace, queue, running.clone()));
    tokio::select! {
        _ = futures::future::join_all(watches) => tracing::error!("the watches ended"),
        _ = futures::future::join_all(controllers) => {}
    }
}

fn namespaces(scope: &Scope) -> Vec<Option<String>> {
    match scope {
        Scope::Cluster => vec![None],
        Scope::Namespaces(namespaces) => namespaces.iter().cloned().map(Some).collect(),
    }
}

/// Fills the cache from one watch, and triggers what each change concerns. The watch begins anew with a list now and
/// then, in case it missed something.
async fn follow(context: Arc<Context>, kind: ChildKind, namespace: Option<String>) {
    let api = match &namespace {
        Some(namespace) => kind.api(&context.client, namespace),
        None => Api::all_with(context.client.clone(), kind.resource()),
    };
    let selector = format!("{}={}", names::LABEL_MANAGED_BY, names::MANAGED_BY);
    loop {
        let config = watcher::Config::default().labels(&selector);
        let mut events = watcher(api.clone(), config).default_backoff().boxed();
        let until = tokio::time::Instant::now() + context.pace.settled;
        while let Ok(Some(event)) = tokio::time::timeout_at(until, events.next()).await {
            match event {
                Ok(event) => {
                    let fed = context.cache.feed(&kind, namespace.as_deref(), event);
                    for object in fed.concerned {
                        context.triggers.send(&object).await;
                    }
                    confirm(&context, &kind, fed.suspects).await;
                }
                Err(error) => tracing::warn!(%error, kind = kind.name(), "a watch failed and begins again"),
            }
        }
    }
}

/// Reads what a list lacks: it is gone, or the list was old.
async fn confirm(context: &Context, kind: &ChildKind, suspects: Vec<(String, String)>) {
    for (namespace, name) in suspects {
        match kind.api(&context.client, &namespace).get_opt(&name).await {
            Ok(live) => {
                for object in context.cache.confirm(kind, &namespace, &name, live) {
                    context.triggers.send(&object).await;
                }
            }
            // It stays cached; the next list asks again.
            Err(error) => tracing::warn!(%error, kind = kind.name(), namespace, name, "cannot read an object"),
        }
    }
}

/// Reconciles the objects of one kind in one namespace, or in all.
pub fn controller<K: Kind>(
    context: Arc<Context>,
    namespace: Option<String>,
    queue: mpsc::Receiver<ObjectKey>,
    mut running: Running,
) -> impl Future<Output = ()> + Send {
    let client = context.client.clone();
    let (store, writer) = reflector::store::<Watched<K>>();
    let api: Api<Watched<K>> = match &namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let objects = watcher(api, watcher::Config::default())
        .default_backoff()
        // An object with managedFields takes seven times as much memory.
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer)
        .touched_objects();
    let concerned = stream::unfold(queue, |mut queue| async move { Some((queue.recv().await?, queue)) });
    let concerned = concerned.map(|object| {
        let reference = ObjectRef::<Watched<K>>::new(&object.name).within(&object.namespace);
        Ok(ReconcileRequest::from(reference))
    });
    let triggers = stream::select(trigger_self(objects, ()), concerned);
    let stopped = async move {
        // An error means that the sender is gone, which is an end as well.
        running.stop.wait_for(|stop| *stop).await.is_ok()
    };
    let config = Config::default().concurrency(running.concurrency).debounce(DEBOUNCE);
    let (ready_store, readiness) = (store.clone(), running.readiness);
    let ready = async move {
        if ready_store.wait_until_ready().await.is_ok() {
            readiness.set();
        }
    };
    let work = applier(
        |object, context| Box::pin(reconcile::<K>(object, context)),
        retry::<K>,
        context,
        store,
        triggers.take_until(stopped),
        config,
    )
    .for_each(|outcome| async {
        match outcome {
            Ok((object, _)) => tracing::debug!(%object, "reconciled"),
            // An object that is gone is no failure.
            Err(kube::runtime::controller::Error::ObjectNotFound(_)) => {}
            Err(error) => tracing::warn!(error = %chain(&error), "not reconciled"),
        }
    });
    async move {
        futures::join!(ready, work);
    }
}

/// An error with its causes, on one line; of an answer of the API server only its message.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(kube::Error::Api(status)) = cause.downcast_ref() {
            return format!("{text}: {}", status.message);
        }
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
