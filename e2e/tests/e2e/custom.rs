//! Runtimes of the user's own: being ready is no proof, only a completion is.
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use windlass_crds::ModelDeployment;
use windlass_e2e::model::{condition, is, is_because, tiny, url};
use windlass_e2e::until::{until_all, until_is};
use windlass_e2e::{Needs, Space, test};

use crate::stand::{READY, because, hub_and_operator, ready, short_completion};

const PODS: &str = "windlass.dev/model-deployment=chat";

/// Runs its argument for each connection. (The first process of a container has to care for SIGTERM itself.)
const SERVE: &str = r#"trap exit TERM; nc -ll -p 8000 -e sh -c "$1" & wait"#;

/// Answers 200 on /health and 500 on everything else.
const BROKEN: &str = r#"
cr=$(printf '\r'); length=0; status='500 Internal Server Error'
read -r method path version
while read -r name value && [ "$name" != "$cr" ]; do
  case $name in [Cc]ontent-[Ll]ength:) length=${value%"$cr"} ;; esac
done
[ "$length" = 0 ] || head -c "$length" >/dev/null
[ "$path" != /health ] || status='200 OK'
printf 'HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' "$status"
"#;

#[test]
fn a_custom_runtime_that_is_healthy_but_completes_nothing_is_never_ready_until_an_edit_corrects_it() {
    test("custom", Needs::Own, async |space| {
        let (_hub, _operator) = hub_and_operator(space).await?;
        space.apply(&tiny("chat", json!({"engine": broken(space)?}))?).await?;
        let object = because(space, "chat", "Ready", "False", "ProofFailed").await?;
        says_what_came_back(&object)?;
        ensure!(
            is(&object, "Reconciling", "True"),
            "an unproven revision is not at rest"
        );
        ensure!(
            is(&object, "Available", "False"),
            "what never answered counts as available"
        );
        space.capture("inprogress-proof-failed", &object)?;

        let object = expire(space).await?;
        says_what_came_back(&object)?;
        ensure!(last_good(&object).is_none(), "it counts as proven: {:?}", object.status);
        space.capture("failed-progress-deadline", &object)?;

        let change = json!({"spec": {"engine": windlass_as_custom(space)?, "rollout": null}});
        space.merge::<ModelDeployment>("chat", change).await?;
        ready(space, "chat").await?;
        // Until then the broken pod takes requests too.
        let object = because(space, "chat", "Reconciling", "False", "Settled").await?;
        space.capture("current-custom", &object)?;
        let endpoint = format!("{}/v1/completions", url(&object)?);
        let answer = space.inside().await?.post(&endpoint, &short_completion("chat")).await?;
        ensure!(answer.status == 200, "the custom runtime answered {answer:?}");
        Ok(())
    });
}

#[test]
fn a_serving_model_outlives_an_edit_to_a_custom_runtime_that_completes_nothing() {
    test("custom-edit", Needs::Own, async |space| {
        let (_hub, _operator) = hub_and_operator(space).await?;
        space.apply(&tiny("chat", json!({}))?).await?;
        let before = ready(space, "chat").await?;
        let pods = space.api::<Pod>();
        let serving = until_all(&pods, PODS, "one pod", READY, |pods| pods.len() == 1)
            .await?
            .remove(0);

        space
            .merge::<ModelDeployment>("chat", json!({"spec": {"engine": broken(space)?}}))
            .await?;
        let object = because(space, "chat", "Ready", "False", "ProofFailed").await?;
        ensure!(
            is(&object, "Available", "True"),
            "the good revision does not serve any more"
        );
        let object = expire(space).await?;
        ensure!(
            last_good(&object).is_some() && last_good(&object) == last_good(&before),
            "the last good revision changed: {:?}",
            object.status
        );
        space.capture("failed-rolled-back", &object)?;
        let left = until_all(&pods, PODS, "the broken pod to go", READY, |pods| pods.len() == 1).await?;
        ensure!(left[0].uid() == serving.uid(), "the pod that served was replaced");
        let object = space.api::<ModelDeployment>().get("chat").await?;
        ensure!(
            is(&object, "Available", "True"),
            "the good revision does not serve any more"
        );
        Ok(())
    });
}

/// Lets the time of the rollout be over.
async fn expire(space: &Space) -> Result<ModelDeployment> {
    let models = space.api::<ModelDeployment>();
    // 10 s is the shortest deadline, and the rollout's clock began with the pods.
    space
        .merge::<ModelDeployment>("chat", json!({"spec": {"rollout": {"progressDeadline": "10s"}}}))
        .await?;
    let expired = |object: &ModelDeployment| {
        ensure_never_ready(object);
        is_because(object, "Stalled", "True", "ProgressDeadlineExceeded")
    };
    until_is(
        &models,
        "chat",
        "Stalled because ProgressDeadlineExceeded",
        READY,
        expired,
    )
    .await
}

fn ensure_never_ready(object: &ModelDeployment) {
    assert!(
        !is(object, "Ready", "True"),
        "ready without a completion: {:?}",
        object.status
    );
}

fn says_what_came_back(object: &ModelDeployment) -> Result<()> {
    let message = &condition(object, "Ready").context("no condition Ready")?.message;
    ensure!(
        message.contains("POST /v1/completions answered 500") && message.contains("engine's log"),
        "Ready says {message:?}"
    );
    Ok(())
}

fn last_good(object: &ModelDeployment) -> Option<&str> {
    object.status.as_ref()?.revision.as_ref()?.last_good.as_deref()
}

fn broken(space: &Space) -> Result<Value> {
    Ok(
        json!({"runtime": "Custom", "custom": {"image": space.env.image("client")?,
        "command": ["sh", "-c", SERVE, "sh", BROKEN]}}),
    )
}

/// Our own server, told only what a Custom runtime is told; `null` removes what `broken` set.
fn windlass_as_custom(space: &Space) -> Result<Value> {
    Ok(
        json!({"runtime": "Custom", "custom": {"image": space.env.image("server")?, "command": null, "port": 9000,
        "probePath": "/health/ready", "args": ["--model=$(WINDLASS_MODEL_PATH)",
            "--served-name=$(WINDLASS_SERVED_NAME)", "--listen=0.0.0.0:9000"]}}),
    )
}
