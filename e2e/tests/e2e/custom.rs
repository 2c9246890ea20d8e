//! Runtimes of the user's own: a pod verifies itself before it is ready, so no request reaches one that does not
//! work, whatever the operator does meanwhile. Requests are counted by constant traffic on the Service.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use windlass_crds::ModelDeployment;
use windlass_e2e::model::{condition, is, is_because, tiny, url};
use windlass_e2e::traffic::{Order, Traffic};
use windlass_e2e::until::{never, until, until_all, until_is};
use windlass_e2e::{Needs, Space, test};

use crate::stand::{READY, because, hub_and_operator, ready, short_completion};

const PODS: &str = "windlass.dev/model-deployment=chat";
/// For so long a pod that must not become ready is observed.
const WATCHED: Duration = Duration::from_secs(15);

/// Runs its argument for each connection. (The first process of a container has to care for SIGTERM itself.)
const SERVE: &str = r#"trap exit TERM; nc -ll -p 8000 -e sh -c "$1" & wait"#;

/// Reads a request into $path; what it answers follows.
const READ: &str = r#"
cr=$(printf '\r'); length=0
read -r method path version
while read -r name value && [ "$name" != "$cr" ]; do
  case $name in [Cc]ontent-[Ll]ength:) length=${value%"$cr"} ;; esac
done
[ "$length" = 0 ] || head -c "$length" >/dev/null
answer() { printf 'HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %s\r\nConnection: close\r\n\r\n%s' "$1" "${#2}" "$2"; }
"#;
/// Answers 200 on /health and 500 on everything else.
const FAILS: &str =
    r#"[ "$path" = /health ] && answer '200 OK' '' || answer '500 Internal Server Error' '{"error":"no kernel"}'"#;
/// Answers 200 on /health and nothing on everything else.
const HANGS: &str = r#"[ "$path" = /health ] && answer '200 OK' '' || sleep 600"#;
/// Answers the first completion, which is the verification, and 500 from then on.
const TURNS: &str = r#"
if [ "$path" = /health ]; then answer '200 OK' ''
elif mkdir /tmp/answered 2>/dev/null; then answer '200 OK' '{"choices":[{"text":"!"}]}'
else answer '500 Internal Server Error' '{}'
fi"#;

#[test]
fn a_custom_runtime_that_is_healthy_but_completes_nothing_is_never_ready_until_an_edit_corrects_it() {
    test("custom", Needs::Own, async |space| {
        let (_hub, _operator) = hub_and_operator(space).await?;
        space
            .apply(&tiny("chat", json!({"engine": runtime(space, FAILS, "60s")?}))?)
            .await?;
        let object = because(space, "chat", "Ready", "False", "VerificationFailed").await?;
        let message = &condition(&object, "Ready").context("no condition Ready")?.message;
        ensure!(
            message.contains("POST /v1/completions") && message.contains("500") && message.contains("no kernel"),
            "Ready says {message:?}"
        );
        ensure!(is(&object, "Reconciling", "True"), "an unverified revision is at rest");
        ensure!(
            is(&object, "Available", "False"),
            "what never answered counts as available"
        );
        space.capture("inprogress-verification-failed", &object)?;

        // 10 s is the shortest deadline, and the rollout's clock began with the pods.
        let deadline = json!({"spec": {"rollout": {"progressDeadline": "10s"}}});
        space.merge::<ModelDeployment>("chat", deadline).await?;
        let expired = |object: &ModelDeployment| {
            assert!(
                !is(object, "Ready", "True"),
                "ready without a completion: {:?}",
                object.status
            );
            is_because(object, "Stalled", "True", "ProgressDeadlineExceeded")
        };
        let what = "Stalled because ProgressDeadlineExceeded";
        let object = until_is(&space.api(), "chat", what, READY, expired).await?;
        ensure!(
            last_verified(&object).is_none(),
            "it counts as verified: {:?}",
            object.status
        );
        space.capture("failed-progress-deadline", &object)?;

        let change = json!({"spec": {"engine": windlass_as_custom(space)?, "rollout": null}});
        space.merge::<ModelDeployment>("chat", change).await?;
        ready(space, "chat").await?;
        let object = because(space, "chat", "Reconciling", "False", "Settled").await?;
        space.capture("current-custom", &object)?;
        let endpoint = format!("{}/v1/completions", url(&object)?);
        let answer = space.inside().await?.post(&endpoint, &short_completion("chat")).await?;
        ensure!(answer.status == 200, "the custom runtime answered {answer:?}");
        Ok(())
    });
}

#[test]
fn an_edit_to_a_runtime_that_fails_is_rolled_back_and_no_request_reaches_it() {
    test("custom-fails", Needs::Own, async |space| {
        rolls_back(space, 1, FAILS, "60s").await
    });
}

#[test]
fn an_edit_of_three_replicas_to_a_runtime_that_hangs_is_rolled_back_and_no_request_reaches_it() {
    test("custom-hangs", Needs::Own, async |space| {
        rolls_back(space, 3, HANGS, "1s").await
    });
}

/// Edits a serving model to a runtime that does not work, under traffic.
async fn rolls_back(space: &Space, replicas: i32, runtime_of: &str, timeout: &str) -> Result<()> {
    let (_hub, _operator) = hub_and_operator(space).await?;
    space.apply(&tiny("chat", json!({"replicas": replicas}))?).await?;
    ready(space, "chat").await?;
    let before = because(space, "chat", "Reconciling", "False", "Settled").await?;
    let (serving, traffic) = (
        uids(space, usize::try_from(replicas)?).await?,
        traffic(space, &before).await?,
    );

    let change = json!({"spec": {"engine": runtime(space, runtime_of, timeout)?}});
    space.merge::<ModelDeployment>("chat", change).await?;
    let object = because(space, "chat", "Stalled", "True", "RevisionFailed").await?;
    ensure!(
        is(&object, "Available", "True"),
        "the verified revision does not serve any more"
    );
    ensure!(
        last_verified(&object).is_some() && last_verified(&object) == last_verified(&before),
        "the last verified revision changed: {:?}",
        object.status
    );
    if replicas == 1 {
        space.capture("failed-rolled-back", &object)?;
    }
    let left = uids(space, usize::try_from(replicas)?).await?;
    ensure!(left == serving, "pods that served were replaced");
    let report = traffic.stop(READY).await?;
    eprintln!("--- {}: {report:?}", space.namespace);
    ensure!(
        report.failed() == 0 && report.fresh.completed > 0,
        "requests were lost: {report:#?}"
    );
    Ok(())
}

#[test]
fn while_no_operator_runs_a_lost_pod_is_replaced_and_a_runtime_that_fails_gets_no_request() {
    test("custom-alone", Needs::Own, async |space| {
        let (_hub, operator) = hub_and_operator(space).await?;
        let engine = json!({"engine": windlass_as_custom(space)?});
        space.apply(&tiny("chat", engine)?).await?;
        ready(space, "chat").await?;
        let object = because(space, "chat", "Reconciling", "False", "Settled").await?;
        let pods = space.api::<Pod>();

        // The edit reaches the Deployment, then the operator is gone: the new pod must not become ready.
        let change = json!({"spec": {"engine": runtime(space, FAILS, "60s")?}});
        space.merge::<ModelDeployment>("chat", change).await?;
        let both = until_all(&pods, PODS, "a pod of each revision", READY, |pods| pods.len() == 2).await?;
        operator.stop().await?;
        let traffic = traffic(space, &object).await?;
        let new = both
            .iter()
            .max_by_key(|pod| pod.creation_timestamp())
            .context("no pod")?
            .name_any();
        never(&pods, &new, WATCHED, |pod| {
            is_ready(pod).then(|| "an unverified pod is ready".to_owned())
        })
        .await?;
        let report = traffic.stop(READY).await?;
        ensure!(
            report.failed() == 0 && report.fresh.completed > 0,
            "requests were lost: {report:#?}"
        );

        // What the good revision loses is replaced by Kubernetes, and verifies itself.
        operator.launch()?;
        because(space, "chat", "Stalled", "True", "RevisionFailed").await?;
        let left = until_all(&pods, PODS, "the failed pod to go", READY, |pods| pods.len() == 1).await?;
        operator.stop().await?;
        space.delete::<Pod>(&left[0].name_any()).await?;
        until_all(&pods, PODS, "another pod to be ready", READY, |pods| {
            pods.iter().any(|pod| pod.uid() != left[0].uid() && is_ready(pod))
        })
        .await
        .map(drop)
    });
}

#[test]
fn a_runtime_that_answers_wrongly_after_it_was_verified_stays_ready() {
    test("custom-turns", Needs::Own, async |space| {
        let (_hub, _operator) = hub_and_operator(space).await?;
        space
            .apply(&tiny("chat", json!({"engine": runtime(space, TURNS, "60s")?}))?)
            .await?;
        let object = ready(space, "chat").await?;
        let endpoint = format!("{}/v1/completions", url(&object)?);
        let answer = space.inside().await?.post(&endpoint, &short_completion("chat")).await?;
        ensure!(answer.status == 500, "the runtime still answers: {answer:?}");
        // Whether it lives is its own probe's decision.
        never(&space.api::<ModelDeployment>(), "chat", WATCHED, |object| {
            (!is(object, "Ready", "True")).then(|| "it is not ready any more".to_owned())
        })
        .await?;
        // A runtime that starts anew is verified anew: this one fails then.
        let pod = until_all(&space.api::<Pod>(), PODS, "one pod", READY, |pods| pods.len() == 1)
            .await?
            .remove(0);
        let pods = space.api::<Pod>();
        // The container's end may end the exec first, whose status then says nothing.
        space
            .try_kubectl(&[
                "exec",
                &pod.name_any(),
                "--container",
                "engine",
                "--",
                "sh",
                "-c",
                "kill 1",
            ])
            .await?;
        until(
            &pods,
            &pod.name_any(),
            "the pod to be verified anew, in vain",
            READY,
            |pod| pod.is_some_and(|pod| !is_ready(pod)),
        )
        .await
        .map(drop)
    });
}

/// Constant requests to the model's Service.
async fn traffic(space: &Space, object: &ModelDeployment) -> Result<Traffic> {
    let authority = url(object)?
        .split('/')
        .nth(2)
        .context("a url without a host")?
        .to_owned();
    let order = Order {
        authority,
        fresh: 3,
        kept: 1,
        streams: 0,
        pause: 20,
        path: "/v1/completions".into(),
        short: short_completion("chat"),
        long: Value::Null,
    };
    let inside = space.inside().await?;
    Traffic::start(space, &inside, &order).await
}

async fn uids(space: &Space, count: usize) -> Result<Vec<Option<String>>> {
    let pods = space.api::<Pod>();
    let pods = until_all(&pods, PODS, "the replicas alone", READY, |pods| pods.len() == count).await?;
    let mut uids: Vec<Option<String>> = pods.iter().map(ResourceExt::uid).collect();
    uids.sort();
    Ok(uids)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn last_verified(object: &ModelDeployment) -> Option<&str> {
    object.status.as_ref()?.revision.as_ref()?.last_verified.as_deref()
}

/// A runtime that answers as the script says; one answer to the verification may take `timeout`. `null` removes what
/// `windlass_as_custom` set.
fn runtime(space: &Space, script: &str, timeout: &str) -> Result<Value> {
    Ok(
        json!({"runtime": "Custom", "custom": {"image": space.env.image("client")?,
        "command": ["sh", "-c", SERVE, "sh", format!("{READ}{script}")], "verify": {"timeout": timeout},
        "port": null, "probePath": null, "args": null}}),
    )
}

/// Our own server, given only what a Custom runtime is given; `null` removes what `runtime` set.
fn windlass_as_custom(space: &Space) -> Result<Value> {
    Ok(
        json!({"runtime": "Custom", "custom": {"image": space.env.image("server")?, "command": null, "port": 9000,
        "verify": null, "probePath": "/health/ready", "args": ["--model=$(WINDLASS_MODEL_PATH)",
            "--served-name=$(WINDLASS_SERVED_NAME)", "--listen=0.0.0.0:9000"]}}),
    )
}
