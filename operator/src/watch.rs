//! Which changes in the cluster lead to which reconcile. Objects, children and pods are watched as
//! metadata: a change wakes the object that it belongs to, which then reads what it needs. Nothing is
//! filtered, so no deletion is missed.
use std::{fmt::Debug, sync::Arc};

use futures::{Stream, StreamExt, stream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{ControllerRevision, Deployment},
        core::v1::{ConfigMap, Pod, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt, applier,
        controller::{Config, ReconcileRequest, trigger_owners, trigger_self, trigger_with},
        reflector::{self, ObjectRef},
        watcher,
    },
};
use tokio::sync::watch;
use windlass_crds::ModelDeployment;

use crate::{
    args::Scope,
    context::Context,
    health::Readiness,
    model_deployment::{Watched, reconcile, retry},
    names,
};

/// Events that come together are answered together.
const DEBOUNCE: std::time::Duration = std::time::Duration::from_millis(200);

type Triggers = stream::BoxStream<'static, Result<ReconcileRequest<Watched>, watcher::Error>>;

/// Reconciles until `stop` becomes true, then finishes what was begun.
pub async fn run(
    context: Arc<Context>,
    scope: &Scope,
    concurrency: u16,
    readiness: Readiness,
    stop: watch::Receiver<bool>,
) {
    let namespaces: Vec<Option<String>> = match scope {
        Scope::Cluster => vec![None],
        Scope::Namespaces(namespaces) => namespaces.iter().cloned().map(Some).collect(),
    };
    // One controller for each namespace: a store is filled by one watch, or a restart of one would
    // empty what the others know.
    let controllers = namespaces
        .into_iter()
        .map(|namespace| controller(context.clone(), namespace, concurrency, readiness.clone(), stop.clone()));
    futures::future::join_all(controllers).await;
}

async fn controller(
    context: Arc<Context>,
    namespace: Option<String>,
    concurrency: u16,
    readiness: Readiness,
    mut stop: watch::Receiver<bool>,
) {
    let client = context.client.clone();
    let (store, writer) = reflector::store::<Watched>();
    let objects = watcher(
        api::<ModelDeployment>(&client, namespace.as_deref()),
        watcher::Config::default(),
    )
    .default_backoff()
    // An object with managedFields takes seven times as much memory.
    .modify(|object| object.managed_fields_mut().clear())
    .reflect(writer)
    .touched_objects();
    let children = children(&client, namespace.as_deref());
    let queue: Triggers = stream::select_all([trigger_self(objects, ()).boxed(), children]).boxed();
    let stopped = async move {
        // An error means that the sender is gone, which is an end as well.
        stop.wait_for(|stop| *stop).await.is_ok()
    };
    let config = Config::default().concurrency(concurrency).debounce(DEBOUNCE);
    let ready_store = store.clone();
    let ready = async move {
        if ready_store.wait_until_ready().await.is_ok() {
            readiness.set();
        }
    };
    let work = applier(
        |object, context| Box::pin(reconcile(object, context)),
        retry,
        context,
        store,
        queue.take_until(stopped),
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
    futures::join!(ready, work);
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

fn children(client: &Client, namespace: Option<&str>) -> Triggers {
    let pods = changes::<Pod>(client, namespace, names::LABEL_DEPLOYMENT);
    let pods = trigger_with(pods, |pod: PartialObjectMeta<Pod>| {
        let owner = pod.labels().get(names::LABEL_DEPLOYMENT).cloned();
        owner.map(|owner| ObjectRef::<Watched>::new(&owner).within(&pod.namespace().unwrap_or_default()))
    });
    stream::select_all([
        pods.boxed(),
        owned::<Deployment>(client, namespace),
        owned::<ControllerRevision>(client, namespace),
        owned::<Service>(client, namespace),
        owned::<ServiceAccount>(client, namespace),
        owned::<ConfigMap>(client, namespace),
        owned::<NetworkPolicy>(client, namespace),
        owned::<PodDisruptionBudget>(client, namespace),
    ])
    .boxed()
}

fn owned<K>(client: &Client, namespace: Option<&str>) -> Triggers
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Send + Sync + 'static,
{
    trigger_owners::<Watched, _>(changes::<K>(client, namespace, names::LABEL_DEPLOYMENT), (), ()).boxed()
}

/// Changes of objects with our label, deletions among them.
fn changes<K>(
    client: &Client,
    namespace: Option<&str>,
    label: &str,
) -> impl Stream<Item = Result<PartialObjectMeta<K>, watcher::Error>> + Send + 'static
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Send + Sync + 'static,
{
    watcher(api::<K>(client, namespace), watcher::Config::default().labels(label))
        .default_backoff()
        .touched_objects()
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<PartialObjectMeta<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}
