//! One operator writes at a time: one that waits for the lease is silent, one that lost it without noticing
//! writes nothing more, and one that ends gives it back at once.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use windlass_crds::ModelDeployment;
use windlass_e2e::audit::{AuditLog, Entry};
use windlass_e2e::fault::WriteFault;
use windlass_e2e::model::{is_because, tiny};
use windlass_e2e::operator::{Operator, Settings};
use windlass_e2e::until::until_is;
use windlass_e2e::{Needs, Space, test};

/// The shortest that the operator takes.
const SHORTEST_LEASE: u16 = 6;
/// Such a lease has run out unrenewed, and the next operator has taken it.
const TAKEN_OVER: Duration = Duration::from_secs(30);

#[test]
fn a_leader_that_was_stopped_past_its_lease_writes_nothing_after_its_successor_began() {
    test("leader", Needs::Own, async |space| {
        let log = AuditLog::from_now(&space.env.audit_log)?;
        let first = Operator::prepare(space, named(space, "first", SHORTEST_LEASE)?).await?;
        // Stopped with an answer under way: when it goes on, it is in the middle of a reconcile with writes to come.
        first.proxy.on_write(3, WriteFault::HoldAfter);
        first.launch()?;
        leads(&first).await?;
        let second = Operator::start(space, named(space, "second", SHORTEST_LEASE)?).await?;
        second.await_log("waiting for the lease", TAKEN_OVER).await?;
        space.apply(&tiny("chat", json!({"suspend": true}))?).await?;
        first.proxy.await_writes(3).await?;
        first.freeze()?;
        ensure!(second.proxy.writes().is_empty(), "an operator without the lease wrote");

        leads(&second).await?;
        suspended(space, "chat").await?;
        let edit = json!({"spec": {"model": {"servedName": "renamed"}}});
        space.merge::<ModelDeployment>("chat", edit).await?;
        let object = suspended(space, "chat").await?;
        space.capture("suspended-by-successor", &object)?;

        first.proxy.release_answers();
        first.thaw()?;
        first.await_end(TAKEN_OVER).await?;
        let began = writes(&log, &second)?
            .into_iter()
            .next()
            .context("the successor wrote nothing")?;
        let all = writes(&log, &first)?;
        ensure!(
            !all.is_empty(),
            "the first leader never wrote: the log does not show it"
        );
        let late: Vec<String> = all
            .iter()
            .filter(|entry| entry.request_received_timestamp > began.request_received_timestamp)
            .map(Entry::line)
            .collect();
        ensure!(
            late.is_empty(),
            "after {}, the old leader wrote\n{}",
            began.line(),
            late.join("\n")
        );
        ensure!(second.runs()?, "the successor ended");
        Ok(())
    });
}

#[test]
fn a_leader_that_is_asked_to_end_hands_over_long_before_its_lease_would_run_out() {
    test("handover", Needs::Own, async |space| {
        let first = Operator::start(space, named(space, "first", 60)?).await?;
        leads(&first).await?;
        let second = Operator::start(space, named(space, "second", 60)?).await?;
        second.await_log("waiting for the lease", TAKEN_OVER).await?;
        space.apply(&tiny("chat", json!({"suspend": true}))?).await?;
        suspended(space, "chat").await?;
        ensure!(second.proxy.writes().is_empty(), "an operator without the lease wrote");

        let asked = Instant::now();
        first.stop().await?;
        second.await_log("\"leading\"", Duration::from_secs(20)).await?;
        eprintln!(
            "--- handover: the next operator led after {:.1} s",
            asked.elapsed().as_secs_f32()
        );
        let edit = json!({"spec": {"model": {"servedName": "renamed"}}});
        space.merge::<ModelDeployment>("chat", edit).await?;
        suspended(space, "chat").await?;
        ensure!(
            !second.proxy.writes().is_empty(),
            "the successor did not answer the edit"
        );
        Ok(())
    });
}

/// Settings of an operator with a name; nothing is fetched in these tests.
fn named(space: &Space, name: &str, lease_seconds: u16) -> Result<Settings> {
    let settings = Settings::new(space, "http://127.0.0.1:9")?;
    Ok(Settings {
        name: name.into(),
        lease_seconds,
        ..settings
    })
}

async fn leads(operator: &Operator) -> Result<()> {
    operator.await_log("\"leading\"", TAKEN_OVER).await
}

/// Waits until the present spec is in place; its pods are not wanted, which makes that quick.
async fn suspended(space: &Space, name: &str) -> Result<ModelDeployment> {
    until_is(
        &space.api(),
        name,
        "Ready=False because Suspended",
        TAKEN_OVER,
        |object| {
            is_because(object, "Ready", "False", "Suspended") && is_because(object, "Reconciling", "False", "Settled")
        },
    )
    .await
}

fn writes(log: &AuditLog, operator: &Operator) -> Result<Vec<Entry>> {
    log.entries(|entry| entry.is_write() && entry.actor() == operator.user)
}
