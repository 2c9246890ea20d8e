//! Sources of models that fail: each becomes a condition and an event that name the next action, the pod is
//! never ready, and the corrected object is.
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};
use tokio::process::Command;
use windlass_crds::ModelDeployment;
use windlass_e2e::env::workspace;
use windlass_e2e::hub::{Hub, Manner};
use windlass_e2e::model::{TINY, condition, model, tiny, url};
use windlass_e2e::until::{never, until_is, until_some};
use windlass_e2e::{Needs, Space, test};

use crate::stand::{because, hub_and_operator, ready};

/// A repository with an encoder.
const ENCODER: &str = "e2e/encoder";
/// A digest that no file has.
const NO_FILE: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

#[test]
fn a_wrong_digest_is_named_never_served_and_corrected_by_an_edit() {
    test("digest", Needs::Own, async |space| {
        let (_hub, _operator) = hub_and_operator(space).await?;
        space
            .apply(&tiny("chat", json!({"model": {"digest": NO_FILE}}))?)
            .await?;
        refused(space, "ModelVerified", "DigestMismatch").await?;
        corrected(space, json!({"spec": {"model": {"digest": null}}})).await
    });
}

#[test]
fn an_encoder_in_a_whole_repository_is_fetched_without_what_the_patterns_leave_out_and_serves_embeddings() {
    test("embed", Needs::Own, async |space| {
        let (hub, _operator) = hub_and_operator(space).await?;
        let folder = model_folder("all-minilm-l6-v2").await?;
        for file in [
            "config.json",
            "tokenizer.json",
            "model.safetensors",
            "1_Pooling/config.json",
        ] {
            hub.put(
                &format!("{ENCODER}/{file}"),
                std::fs::read(folder.join(file))?,
                Manner::Honest,
            );
        }
        // Without the pattern the repository would be refused: this file may run code.
        hub.put(&format!("{ENCODER}/pytorch_model.bin"), "pickled", Manner::Honest);
        let spec = json!({"model": {"source": format!("hf://{ENCODER}"), "task": "Embed"}});
        space.apply(&model("vectors", spec)?).await?;
        let object = because(space, "vectors", "ModelVerified", "False", "InvalidSource").await?;
        let said = &condition(&object, "ModelVerified").context("no ModelVerified")?.message;
        ensure!(said.contains("pytorch_model.bin"), "ModelVerified says {said:?}");

        let change = json!({"spec": {"model": {"ignorePatterns": ["*.bin"]}}});
        space.merge::<ModelDeployment>("vectors", change).await?;
        let object = ready(space, "vectors").await?;
        let facts = object.status.as_ref().and_then(|status| status.model.as_ref());
        let format = facts.and_then(|facts| facts.format.as_deref());
        ensure!(format == Some("safetensors"), "the format is {format:?}");
        let request = json!({"model": "vectors", "input": ["a winch on a ship"]});
        let endpoint = format!("{}/v1/embeddings", url(&object)?);
        let answer = space.inside().await?.post(&endpoint, &request).await?;
        let body: Value = serde_json::from_str(&answer.body)?;
        let vector = body.pointer("/data/0/embedding").and_then(Value::as_array);
        ensure!(
            vector.is_some_and(|vector| vector.len() == 384),
            "the answer is {answer:?}"
        );
        Ok(())
    });
}

/// The folder of a model that `make models` fetches.
async fn model_folder(name: &str) -> Result<PathBuf> {
    let output = Command::new(workspace().join("deploy/samples/fetch-model"))
        .arg(name)
        .output()
        .await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

#[test]
fn a_truncated_file_is_named_never_served_and_corrected_at_its_source() {
    test("truncated", Needs::Own, async |space| {
        let (hub, _operator) = hub_and_operator(space).await?;
        let whole = windlass_e2e::tiny::gguf(1);
        hub.put(TINY, whole[..whole.len() / 2].to_vec(), Manner::Honest);
        space.apply(&tiny("chat", json!({}))?).await?;
        refused(space, "ModelVerified", "InvalidFile").await?;
        hub.put(TINY, whole, Manner::Honest);
        ready(space, "chat").await.map(drop)
    });
}

#[test]
fn a_file_that_is_not_there_is_named_and_corrected_by_an_edit() {
    test("not-found", Needs::Own, async |space| {
        let (_hub, _operator) = hub_and_operator(space).await?;
        space
            .apply(&tiny("chat", json!({"model": {"source": "hf://e2e/tiny/other.gguf"}}))?)
            .await?;
        refused(space, "ModelVerified", "ModelNotFound").await?;
        corrected(space, json!({"spec": {"model": {"source": format!("hf://{TINY}")}}})).await
    });
}

#[test]
fn missing_and_wrong_credentials_are_distinguished_and_corrected_by_the_secret() {
    test("credentials", Needs::Own, async |space| {
        let (hub, _operator) = hub_and_operator(space).await?;
        hub.put(TINY, windlass_e2e::tiny::gguf(1), Manner::Locked("right".into()));
        space.apply(&tiny("chat", json!({}))?).await?;
        refused(space, "ResolvedRefs", "CredentialsRequired").await?;

        space.apply(&token("wrong")?).await?;
        let named = json!({"spec": {"model": {"credentialsSecretRef": {"name": "hub"}}}});
        space.merge::<ModelDeployment>("chat", named).await?;
        refused(space, "ResolvedRefs", "CredentialsRejected").await?;

        // The pod is the kubelet's to start again; its next attempt reads the new value.
        space.apply(&token("right")?).await?;
        ready(space, "chat").await.map(drop)
    });
}

#[test]
fn a_secret_that_is_missing_is_named_and_waited_for() {
    test("no-secret", Needs::Own, async |space| {
        let (hub, _operator) = hub_and_operator(space).await?;
        hub.put(TINY, windlass_e2e::tiny::gguf(1), Manner::Locked("right".into()));
        space
            .apply(&tiny(
                "chat",
                json!({"model": {"credentialsSecretRef": {"name": "hub"}}}),
            )?)
            .await?;
        let object = because(space, "chat", "ResolvedRefs", "False", "ReferenceNotFound").await?;
        says(&object, "ResolvedRefs", "hub")?;
        space.capture("inprogress-secret-missing", &object)?;
        space.apply(&token("right")?).await?;
        ready(space, "chat").await.map(drop)
    });
}

#[test]
fn a_model_larger_than_its_volume_is_named_and_corrected_at_its_source() {
    test("no-space", Needs::Own, async |space| {
        let (hub, _operator) = hub_and_operator(space).await?;
        const PEBIBYTE: u64 = 1 << 50;
        hub.put(TINY, windlass_e2e::tiny::gguf(1), Manner::Boasting(PEBIBYTE));
        space.apply(&tiny("chat", json!({}))?).await?;
        refused(space, "ModelVerified", "NoSpace").await?;
        hub.put(TINY, windlass_e2e::tiny::gguf(1), Manner::Honest);
        ready(space, "chat").await.map(drop)
    });
}

#[test]
fn a_download_under_way_shows_its_progress_and_a_finished_one_none() {
    test("progress", Needs::Own, async |space| {
        let (hub, _operator) = hub_and_operator(space).await?;
        hub.put(TINY, windlass_e2e::tiny::gguf(1), Manner::Stalling);
        space.apply(&tiny("chat", json!({}))?).await?;
        let models = space.api::<ModelDeployment>();
        let shown = until_is(
            &models,
            "chat",
            "a download of which some came",
            Duration::from_secs(60),
            |object| {
                let model = object.status.as_ref().and_then(|status| status.model.as_ref());
                let download = model.and_then(|model| model.download.as_ref());
                download.is_some_and(|download| {
                    download.received_bytes > Some(0) && download.total_bytes > download.received_bytes
                })
            },
        );
        space.capture("inprogress-downloading", &shown.await?)?;
        hub.put(TINY, windlass_e2e::tiny::gguf(1), Manner::Honest);
        let object = ready(space, "chat").await?;
        let download = object
            .status
            .and_then(|status| status.model)
            .and_then(|model| model.download);
        ensure!(
            download.is_none(),
            "a finished download is still reported: {download:?}"
        );
        Ok(())
    });
}

#[test]
fn the_digest_of_the_first_fetch_is_recorded_and_another_file_refused_afterwards() {
    test("pinned", Needs::Own, async |space| {
        let (hub, _operator) = hub_and_operator(space).await?;
        space.apply(&tiny("chat", json!({}))?).await?;
        let first = ready(space, "chat").await?;
        let pinned = digest(&first);
        ensure!(pinned.is_some(), "no digest was recorded");

        hub.put(TINY, windlass_e2e::tiny::gguf(2), Manner::Honest);
        space
            .api::<Pod>()
            .delete_collection(&Default::default(), &models_pods())
            .await?;
        let object = because(space, "chat", "ModelVerified", "False", "DigestMismatch").await?;
        ensure!(
            digest(&object) == pinned,
            "the recorded digest changed to {:?}",
            digest(&object)
        );
        Ok(())
    });
}

#[test]
fn a_claim_that_is_filled_already_is_served_and_a_missing_one_is_named() {
    test("claim", Needs::Own, async |space| {
        let (hub, _operator) = hub_and_operator(space).await?;
        let source = json!({"model": {"source": format!("pvc://weights/{}", claimed_file(space))}});
        space.apply(&tiny("chat", source)?).await?;
        let object = because(space, "chat", "ResolvedRefs", "False", "ClaimNotUsable").await?;
        space.capture("inprogress-claim-missing", &object)?;

        volume(space).await?;
        fill(space, &format!("{}/e2e/tiny/resolve/main/tiny.gguf", hub.url())).await?;
        ready(space, "chat").await.map(drop)
    });
}

/// The object says why it is not served, an event says it too, no pod is ever ready, and both name an action.
async fn refused(space: &Space, kind: &str, reason: &str) -> Result<()> {
    let object = because(space, "chat", kind, "False", reason).await?;
    let message = condition(&object, kind)
        .map(|condition| condition.message.clone())
        .unwrap_or_default();
    ensure!(message.len() > 30, "the message {message:?} names no next action");
    // Another digest takes an edit; everything else may be corrected at the source.
    let state = if reason == "DigestMismatch" {
        "failed"
    } else {
        "inprogress"
    };
    space.capture(&format!("{state}-{}", reason.to_lowercase()), &object)?;
    until_some(
        &format!("an event with reason {reason}"),
        Duration::from_secs(20),
        async || {
            let events = space.api::<Event>().list(&ListParams::default()).await?;
            let about = |event: &&Event| {
                event
                    .regarding
                    .as_ref()
                    .is_some_and(|about| about.kind.as_deref() == Some("ModelDeployment"))
            };
            Ok(events
                .iter()
                .filter(about)
                .any(|event| event.reason.as_deref() == Some(reason))
                .then_some(()))
        },
    )
    .await?;
    never(
        &space.api::<ModelDeployment>(),
        "chat",
        Duration::from_secs(3),
        |object| {
            let ready = object
                .status
                .as_ref()
                .and_then(|status| status.replicas.as_ref())
                .and_then(|replicas| replicas.ready);
            (ready.unwrap_or(0) > 0).then(|| "a pod without its model became ready".to_owned())
        },
    )
    .await
}

async fn corrected(space: &Space, change: Value) -> Result<()> {
    space.merge::<ModelDeployment>("chat", change).await?;
    ready(space, "chat").await.map(drop)
}

fn says(object: &ModelDeployment, kind: &str, text: &str) -> Result<()> {
    let message = condition(object, kind)
        .map(|condition| condition.message.as_str())
        .unwrap_or_default();
    ensure!(message.contains(text), "{kind} says {message:?}, without {text:?}");
    Ok(())
}

fn digest(object: &ModelDeployment) -> Option<String> {
    object.status.as_ref()?.model.as_ref()?.digest.clone()
}

fn models_pods() -> ListParams {
    ListParams::default().labels("windlass.dev/model-deployment=chat")
}

fn token(value: &str) -> Result<Secret> {
    Ok(serde_json::from_value(
        json!({"metadata": {"name": "hub"}, "stringData": {"token": value}}),
    )?)
}

/// A claim bound to a folder of a node that every user may write to: the cluster has no provisioner.
async fn volume(space: &Space) -> Result<()> {
    let name = &space.namespace;
    let node = json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]);
    let volume: PersistentVolume = serde_json::from_value(json!({"metadata": {"name": name}, "spec": {
        "capacity": {"storage": "64Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
        "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": name, "name": "weights"},
        "hostPath": {"path": "/tmp", "type": "Directory"}, "nodeAffinity": {"required": {"nodeSelectorTerms": node}}}}))?;
    Api::<PersistentVolume>::all(space.client.clone())
        .create(&PostParams::default(), &volume)
        .await?;
    let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {"name": "weights"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": name,
        "resources": {"requests": {"storage": "64Mi"}}}}))?;
    space.create(&claim).await.map(drop)
}

/// A pod that puts the file into the claim, and takes it away when the namespace goes.
async fn fill(space: &Space, url: &str) -> Result<()> {
    let file = format!("/weights/{}", claimed_file(space));
    let script = format!(
        "trap 'rm -f {file}; exit' TERM; curl -sSf -o {file}.part {url} && mv {file}.part {file}; sleep infinity & wait"
    );
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "fill"}, "spec": {
        "restartPolicy": "Never", "automountServiceAccountToken": false,
        "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "fill", "image": space.env.image("client")?, "command": ["sh", "-c", script],
            "readinessProbe": {"exec": {"command": ["test", "-f", file]}, "periodSeconds": 1},
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": "weights", "mountPath": "/weights"}]}],
        "volumes": [{"name": "weights", "persistentVolumeClaim": {"claimName": "weights"}}]}}))?;
    space.create(&pod).await?;
    let pods = space.api::<Pod>();
    let filled = until_is(
        &pods,
        "fill",
        "the claim to be filled",
        Duration::from_secs(60),
        |pod| {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
            conditions
                .into_iter()
                .flatten()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        },
    );
    filled.await.map(drop)
}

/// The folder behind the claim is shared with other tests.
fn claimed_file(space: &Space) -> String {
    format!("{}.gguf", space.namespace)
}

#[test]
fn a_hub_that_does_not_answer_is_named_and_waited_for() {
    test("unreachable", Needs::Own, async |space| {
        use windlass_e2e::operator::{Operator, Settings};
        let hub: Hub = crate::stand::hub(space).await?;
        // Port 9 of the same machine: nobody listens there.
        let nowhere = hub
            .url()
            .rsplit_once(':')
            .map(|(host, _)| format!("{host}:9"))
            .unwrap_or_default();
        let _operator = Operator::start(space, Settings::new(space, nowhere)?).await?;
        space.apply(&tiny("chat", json!({}))?).await?;
        let object = because(space, "chat", "ModelVerified", "False", "SourceUnavailable").await?;
        space.capture("inprogress-source-unavailable", &object)
    });
}
