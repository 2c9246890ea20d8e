//! A spec edit reaches the pods while requests keep coming, on nodes whose kube-proxy lags behind the end of a pod, as it
//! may on busy nodes. `installed.rs` shows that no request is lost; the control here, that the same edit loses requests
//! without the preStop.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, LogParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use windlass_crds::ModelDeployment;
use windlass_e2e::inside::Inside;
use windlass_e2e::model::{is_because, tiny, url};
use windlass_e2e::traffic::{Order, Report, Traffic};
use windlass_e2e::until::{never, until, until_all, until_is, until_some};
use windlass_e2e::{Needs, Space, test};

use crate::stand::{READY, hub_and_operator, ready, short_completion};

/// Streams of the traffic.
pub const STREAMS: usize = 4;
const PODS: &str = "windlass.dev/model-deployment=chat";
/// What a pod must have answered before it counts as serving.
const SERVED: u64 = 50;
/// How long kube-proxy sends requests to a pod that ends: less than the preStop lets it accept them.
const PROXY_LAG: Duration = Duration::from_secs(2);
/// More than the 2 s for which a draining server leaves idle connections open.
const STREAM_HOLDS: Duration = Duration::from_secs(4);

#[test]
fn without_the_pre_stop_the_same_edit_loses_requests() {
    test("no-pre-stop", Needs::OwnAlone, async |space| {
        let outcome = edits_without_pre_stop(space).await;
        space
            .kubectl(&[
                "delete",
                "mutatingadmissionpolicy,mutatingadmissionpolicybinding",
                &space.namespace,
            ])
            .await?;
        outcome
    });
}

async fn edits_without_pre_stop(space: &Space) -> Result<()> {
    remove_pre_stop(space).await?;
    let (_hub, _operator) = hub_and_operator(space).await?;
    space.apply(&tiny("chat", json!({}))?).await?;
    ready(space, "chat").await?;
    let report = edit_under_traffic(space, json!({"podAnnotations": {"example.com/edit": "1"}})).await?;
    ensure!(
        report.failed() > 0,
        "no request was lost: this traffic would not show a missing preStop"
    );
    Ok(())
}

#[test]
fn a_drained_node_loses_its_pods_one_at_a_time_and_no_request_of_a_model_with_three_replicas() {
    test("drain", Needs::OwnAlone, async |space| {
        let (_hub, _operator) = hub_and_operator(space).await?;
        space.apply(&tiny("one", json!({"placement": prefers_n2()}))?).await?;
        let apart =
            json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}]);
        space
            .apply(&tiny(
                "chat",
                json!({"replicas": 3, "placement": {"topologySpreadConstraints": apart}}),
            )?)
            .await?;
        for name in ["one", "chat"] {
            settled(space, name).await?;
        }
        let outcome = drain(space).await;
        space.kubectl(&["uncordon", "n2"]).await?;
        let report = outcome?;
        ensure!(report.failed() == 0, "requests were lost: {report:#?}");
        ensure!(report.fresh.completed > 0, "there was no traffic: {report:#?}");
        Ok(())
    });
}

/// Empties the node n2 while traffic runs, and waits until everything serves elsewhere.
async fn drain(space: &Space) -> Result<Report> {
    let inside = space.inside().await?;
    let models = space.api::<ModelDeployment>();
    let mut order = order(&models.get("chat").await?)?;
    order.streams = 0;
    let traffic = Traffic::start(space, &inside, &order).await?;
    let selector = "--pod-selector=windlass.dev/model-deployment";
    space
        .kubectl(&["drain", "n2", "--delete-emptydir-data", selector, "--timeout=240s"])
        .await?;
    for name in ["one", "chat"] {
        settled(space, name).await?;
    }
    let left = space
        .api::<Pod>()
        .list(&ListParams::default().labels("windlass.dev/model-deployment"))
        .await?;
    for pod in left {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        ensure!(node != Some("n2"), "{} is still on n2", pod.name_any());
    }
    traffic.stop(READY).await
}

async fn settled(space: &Space, name: &str) -> Result<()> {
    let settled = |object: &ModelDeployment| {
        windlass_e2e::model::is_ready(object) && is_because(object, "Reconciling", "False", "Settled")
    };
    until_is(&space.api(), name, "a model at rest", READY, settled)
        .await
        .map(drop)
}

fn prefers_n2() -> Value {
    let n2 = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"]}]});
    let preferred = json!([{"weight": 100, "preference": n2}]);
    json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}})
}

/// Edits the spec while traffic runs and kube-proxy lags behind, and holds streams open on the old pod while it drains.
pub async fn edit_under_traffic(space: &Space, change: Value) -> Result<Report> {
    let pods = space.api::<Pod>();
    let inside = space.inside().await?;
    let old = until_all(&pods, PODS, "one pod", READY, |pods| pods.len() == 1)
        .await?
        .remove(0);
    let models = space.api::<ModelDeployment>();
    let mut traffic = Traffic::start(space, &inside, &order(&models.get("chat").await?)?).await?;
    serves(&inside, &old).await?;

    space
        .merge::<ModelDeployment>("chat", json!({ "spec": change }))
        .await?;
    let is_new = |pod: &Pod| pod.uid() != old.uid() && is_ready(pod);
    let both = until_all(&pods, PODS, "a new pod next to the old one", READY, |pods| {
        pods.len() == 2 && pods.iter().any(is_new)
    });
    let new = both.await?.into_iter().find(is_new).context("no new pod")?;
    with_frozen_proxies(space, async || {
        let rolling = |object: &ModelDeployment| is_because(object, "Reconciling", "True", "RollingOut");
        let rolling = until_is(&models, "chat", "Reconciling because RollingOut", READY, rolling).await?;
        space.capture("inprogress-rolling-out", &rolling)?;
        let ends = |pod: Option<&Pod>| pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
        until(&pods, &old.name_any(), "the old pod to end", READY, ends).await?;
        // Not a wait for something, but the fault itself.
        sleep(PROXY_LAG).await;
        Ok(())
    })
    .await?;

    logs(&pods, &old.name_any(), "draining").await?;
    never(&pods, &old.name_any(), STREAM_HOLDS, |_| None)
        .await
        .context("the old pod did not wait for its streams")?;
    traffic.mark().await?;
    until(&pods, &old.name_any(), "the old pod to go", READY, |pod| pod.is_none()).await?;
    serves(&inside, &new).await?;
    ready(space, "chat").await?;
    let report = traffic.stop(READY).await?;
    eprintln!("--- {}: {report:?}", space.namespace);
    Ok(report)
}

/// Requests to a model's Service: new and kept connections, and streams.
pub fn order(object: &ModelDeployment) -> Result<Order> {
    let url = url(object)?;
    let authority = url.split('/').nth(2).context("a url without a host")?;
    let mut short = short_completion("chat");
    short["ignore_eos"] = json!(true);
    let mut long = short.clone();
    long["stream"] = json!(true);
    long["max_tokens"] = json!(2000);
    Ok(Order {
        authority: authority.into(),
        fresh: 6,
        kept: 2,
        streams: STREAMS,
        pause: 10,
        path: "/v1/completions".into(),
        short,
        long,
    })
}

/// Returns once a pod has answered some requests more, by its own metrics.
async fn serves(inside: &Inside, pod: &Pod) -> Result<()> {
    let before = served(inside, pod).await?;
    let what = format!("{} to serve", pod.name_any());
    until_some(&what, Duration::from_secs(30), async || {
        Ok((served(inside, pod).await? >= before + SERVED).then_some(()))
    })
    .await
}

async fn served(inside: &Inside, pod: &Pod) -> Result<u64> {
    let status = pod.status.as_ref().context("a pod without status")?;
    let address = status.pod_ip.as_deref().context("a pod without address")?;
    let metrics = inside.get(&format!("http://{address}:8000/metrics")).await?.body;
    let answers = |line: &&str| {
        line.starts_with("windlass:http_responses_total{")
            && line.contains(r#"route="/v1/completions""#)
            && line.contains(r#"code="200""#)
    };
    let line = metrics.lines().find(answers);
    let count = line
        .and_then(|line| line.rsplit(' ').next())
        .map(str::parse)
        .transpose()?;
    Ok(count.unwrap_or(0))
}

/// Returns once the engine of a pod has logged this.
async fn logs(pods: &Api<Pod>, pod: &str, text: &str) -> Result<()> {
    let parameters = LogParams {
        follow: true,
        container: Some("engine".into()),
        ..LogParams::default()
    };
    let mut lines = pods.log_stream(pod, &parameters).await?.lines();
    let found = async {
        while let Some(line) = lines.try_next().await? {
            if line.contains(text) {
                return Ok(());
            }
        }
        anyhow::bail!("its log ended")
    };
    timeout(READY, found)
        .await
        .map_err(anyhow::Error::from)
        .flatten()
        .with_context(|| format!("waiting for {pod} to log {text:?}"))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Runs `body` while kube-proxy stands still on both nodes: Services go on as they are, whatever ends or begins.
async fn with_frozen_proxies<T>(space: &Space, body: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
    signal_proxies(space, "STOP").await?;
    let outcome = body().await;
    signal_proxies(space, "CONT").await?;
    outcome
}

async fn signal_proxies(space: &Space, signal: &str) -> Result<()> {
    for node in ["n1", "n2"] {
        space.cluster(&["signal", node, "kube-proxy", signal]).await?;
    }
    Ok(())
}

/// Takes the preStop from each pod of the namespace as it is created: the operator and its writes stay as they are.
async fn remove_pre_stop(space: &Space) -> Result<()> {
    let name = &space.namespace;
    let policy = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail", "reinvocationPolicy": "Never",
                "matchConstraints": {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
                    "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]},
                "matchConditions": [{"name": "pre-stop", "expression": "has(object.spec.containers[0].lifecycle)"}],
                "mutations": [{"patchType": "JSONPatch", "jsonPatch": {
                    "expression": "[JSONPatch{op: 'remove', path: '/spec/containers/0/lifecycle'}]"}}]}},
        {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": name},
            "spec": {"policyName": name}}]});
    let file = space.folder.join("no-pre-stop.json");
    std::fs::write(&file, serde_json::to_vec(&policy)?)?;
    space
        .kubectl(&[
            "apply",
            "--server-side",
            "--filename",
            file.to_str().context("a path that is no text")?,
        ])
        .await?;

    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "probe"}, "spec": {
        "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "probe", "image": "none", "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}}))?;
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    until_some("the policy to take effect", Duration::from_secs(30), async || {
        let created = space.api::<Pod>().create(&dry_run, &pod).await?;
        let containers = created.spec.map(|spec| spec.containers).unwrap_or_default();
        Ok(containers
            .iter()
            .all(|container| container.lifecycle.is_none())
            .then_some(()))
    })
    .await
}
