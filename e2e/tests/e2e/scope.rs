//! How much an operator looks after: the namespaces that it was given and no others, and many objects at once.
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use windlass_crds::ModelDeployment;
use windlass_e2e::audit::{AuditLog, Entry};
use windlass_e2e::model::{is_because, tiny};
use windlass_e2e::operator::{Operator, Settings};
use windlass_e2e::until::{until_all, until_is, until_some};
use windlass_e2e::{Needs, Space, test};

const SETTLED: Duration = Duration::from_secs(120);
const MANY: usize = 50;

#[test]
fn an_operator_of_one_namespace_does_not_touch_another() {
    test("scope", Needs::Own, async |space| {
        let log = AuditLog::from_now(&space.env.audit_log)?;
        let operator = operator(space).await?;
        space
            .in_another("scope-other", async |other| {
                other.apply(&suspended("chat")?).await?;
                space.apply(&suspended("chat")?).await?;
                until_is(&space.api(), "chat", "its own object to settle", SETTLED, is_settled).await?;
                let requests = || log.entries(|entry| entry.actor() == operator.user);
                let about = |entry: &&Entry, namespace: &str| {
                    let object = entry.object_ref.as_ref();
                    object.is_some_and(|object| object.namespace == namespace)
                };
                until_some("its requests in the audit log", SETTLED, async || {
                    let requests = requests()?;
                    let mut own = requests.iter().filter(|entry| about(entry, &space.namespace));
                    Ok(own.any(Entry::is_write).then_some(()))
                })
                .await?;
                let requests = requests()?;
                let astray: Vec<String> = requests
                    .iter()
                    .filter(|entry| {
                        about(entry, &other.namespace)
                            || entry.response_status.as_ref().is_some_and(|status| status.code == 403)
                    })
                    .map(Entry::line)
                    .collect();
                ensure!(
                    astray.is_empty(),
                    "it asked about the other namespace:\n{}",
                    astray.join("\n")
                );
                let object = other.api::<ModelDeployment>().get("chat").await?;
                let observed = object.status.and_then(|status| status.observed_generation);
                ensure!(
                    observed == Some(-1),
                    "the object of the other namespace was observed: {observed:?}"
                );
                Ok(())
            })
            .await
    });
}

#[test]
fn a_second_release_for_the_same_namespace_does_not_lead_until_the_first_one_is_gone() {
    test("two-releases", Needs::Own, async |space| {
        let first = operator(space).await?;
        first.await_log("\"leading\"", SETTLED).await?;
        let mut settings = Settings::new(space, "http://127.0.0.1:9")?;
        settings.name = "second".into();
        settings.lease = "other-operator".into();
        let second = Operator::start(space, settings).await?;
        let says = format!(
            "not leading: the release with the Lease {0}/windlass-operator serves the namespaces {0}",
            space.namespace
        );
        second.await_log(&says, SETTLED).await?;
        space.apply(&suspended("chat")?).await?;
        until_is(&space.api(), "chat", "the first to settle it", SETTLED, is_settled).await?;
        ensure!(
            second.proxy.writes().is_empty() && !second.log()?.contains("\"leading\""),
            "the second release worked on the object of the first"
        );
        first.stop().await?;
        second.await_log("\"leading\"", SETTLED).await
    });
}

#[test]
fn fifty_objects_that_are_applied_together_all_settle() {
    test("fifty", Needs::Own, async |space| {
        let operator = operator(space).await?;
        let began = Instant::now();
        stream::iter(0..MANY)
            .map(|number| async move { space.apply(&suspended(&format!("chat-{number}"))?).await.map(drop) })
            .buffer_unordered(8)
            .try_collect::<Vec<()>>()
            .await?;
        let applied = began.elapsed();
        until_all(
            &space.api::<ModelDeployment>(),
            "",
            "all objects to settle",
            SETTLED,
            |objects| objects.len() == MANY && objects.iter().all(is_settled),
        )
        .await?;
        eprintln!(
            "--- fifty: applied after {:.1} s, settled after {:.1} s, with {} writes",
            applied.as_secs_f32(),
            began.elapsed().as_secs_f32(),
            operator.proxy.writes().len()
        );
        Ok(())
    });
}

/// Nothing is fetched in these tests.
async fn operator(space: &Space) -> Result<Operator> {
    Operator::start(space, Settings::new(space, "http://127.0.0.1:9")?).await
}

fn suspended(name: &str) -> Result<ModelDeployment> {
    tiny(name, json!({"suspend": true}))
}

fn is_settled(object: &ModelDeployment) -> bool {
    is_because(object, "Reconciling", "False", "Settled")
}
