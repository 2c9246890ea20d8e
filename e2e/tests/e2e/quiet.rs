//! An operator with nothing to do writes nothing, whatever state its objects are in, and also after it was
//! started anew. The API server's audit log is the witness.
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use windlass_crds::ModelDeployment;
use windlass_e2e::audit::{AuditLog, Entry};
use windlass_e2e::model::tiny;
use windlass_e2e::operator::Operator;
use windlass_e2e::until::{never, until_is, until_some};
use windlass_e2e::{Needs, Space, test};

use crate::stand::{because, hub_and_operator, ready};

/// A digest that no file has.
const NO_FILE: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
const AT_REST: Duration = Duration::from_secs(60);
const AFTER_RESTART: Duration = Duration::from_secs(30);

#[test]
fn an_operator_at_rest_writes_nothing_also_after_a_restart_and_an_edit_is_seen_in_the_same_log() {
    test("quiet", Needs::Own, async |space| {
        let (_hub, operator) = hub_and_operator(space).await?;
        space.apply(&tiny("ready", json!({}))?).await?;
        let nowhere = json!({"placement": {"nodeSelector": {"e2e.windlass.dev/node": "none"}}});
        space.apply(&tiny("nowhere", nowhere)?).await?;
        let wrong = json!({"model": {"digest": NO_FILE}});
        space.apply(&tiny("wrong", wrong)?).await?;
        ready(space, "ready").await?;
        let object = because(space, "nowhere", "Scheduled", "False", "Unschedulable").await?;
        space.capture("inprogress-unschedulable", &object)?;
        because(space, "wrong", "ModelVerified", "False", "DigestMismatch").await?;
        settled(&operator).await?;

        let log = AuditLog::from_now(&space.env.audit_log)?;
        stays_ready(space, AT_REST).await?;
        is_silent(&log, &operator, "at rest")?;

        operator.stop().await?;
        operator.launch()?;
        reads(&log, &operator).await?;
        stays_ready(space, AFTER_RESTART).await?;
        is_silent(&log, &operator, "after a restart")?;

        // The log does show writes where there are some.
        let edited = space
            .merge::<ModelDeployment>("ready", json!({"spec": {"suspend": true}}))
            .await?;
        let models = space.api::<ModelDeployment>();
        let what = "the edit to be observed";
        until_is(&models, "ready", what, Duration::from_secs(30), |object| {
            let status = object.status.as_ref();
            status.and_then(|status| status.observed_generation) == edited.metadata.generation
        })
        .await?;
        until_some("the edit's writes in the audit log", AFTER_RESTART, async || {
            let lines = writes(&log, &operator)?;
            let shows = |what: &str| lines.iter().any(|line| line.contains(what));
            Ok((shows("deployments/ready") && shows("modeldeployments/status/ready")).then_some(()))
        })
        .await
    });
}

/// Returns once the operator has not written for some seconds: the last pod's last change is answered.
async fn settled(operator: &Operator) -> Result<()> {
    until_some("the operator to come to rest", Duration::from_secs(60), async || {
        let before = operator.proxy.writes().len();
        let more = operator.proxy.await_writes(before + 1);
        Ok(tokio::time::timeout(Duration::from_secs(5), more)
            .await
            .is_err()
            .then_some(()))
    })
    .await
}

/// Lets time pass, in which the object does not change.
async fn stays_ready(space: &Space, during: Duration) -> Result<()> {
    let models = space.api::<ModelDeployment>();
    let before = models.get("ready").await?.metadata.resource_version;
    never(&models, "ready", during, |object| {
        (object.metadata.resource_version != before).then(|| "an object at rest was changed".to_owned())
    })
    .await
}

/// Returns once the restarted operator has read every object again.
async fn reads(log: &AuditLog, operator: &Operator) -> Result<()> {
    let starts = operator.log()?.matches("\"leading\"").count();
    ensure!(starts > 0, "the operator has not logged that it leads");
    until_some(
        "the restarted operator to read its objects",
        Duration::from_secs(30),
        async || {
            let restarted = operator.log()?.matches("\"leading\"").count() > 1;
            let reads = log.entries(|entry| entry.actor() == operator.user && entry.verb == "get")?;
            let read = |name: &str| {
                reads
                    .iter()
                    .any(|entry| entry.line().contains(&format!("modeldeployments/{name} ")))
            };
            Ok((restarted && read("ready") && read("nowhere") && read("wrong")).then_some(()))
        },
    )
    .await
}

fn is_silent(log: &AuditLog, operator: &Operator, when: &str) -> Result<()> {
    let lines = writes(log, operator)?;
    ensure!(lines.is_empty(), "the operator wrote {when}:\n{}", lines.join("\n"));
    Ok(())
}

/// The operator's writes, of status and of events among them; leases do not count.
fn writes(log: &AuditLog, operator: &Operator) -> Result<Vec<String>> {
    let entries = log.entries(|entry| entry.is_write() && entry.actor() == operator.user)?;
    Ok(entries.iter().map(Entry::line).collect())
}
