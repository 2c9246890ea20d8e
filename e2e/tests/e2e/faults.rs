//! Whatever goes wrong between the operator and the API server, the end is the same: an undisturbed run shows
//! it, and each disturbed one, in a namespace of its own, must come to it.
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::{StreamExt, stream};
use hyper::StatusCode;
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};
use windlass_crds::ModelDeployment;
use windlass_e2e::fault::{EventFilter, Write, WriteFault};
use windlass_e2e::hub::Hub;
use windlass_e2e::inventory::Inventory;
use windlass_e2e::model::{is, tiny};
use windlass_e2e::operator::{Operator, Settings};
use windlass_e2e::snapshot::Snapshot;
use windlass_e2e::until::{until_is, until_some};
use windlass_e2e::{Needs, Space, test};

use crate::stand::{READY, hub};

/// Runs at the same time; each has an operator process, some have pods.
const AT_ONCE: usize = 10;
/// A write that has not come this long after the end does not come.
const TAIL: Duration = Duration::from_secs(2);

#[test]
fn an_operator_that_dies_at_any_write_leaves_a_model_that_becomes_ready_all_the_same() {
    test("kill", Needs::Own, async |space| {
        let undisturbed = Undisturbed::run(space, json!({})).await?;
        let kills = undisturbed.at_each_write(&[WriteFault::KillBefore, WriteFault::KillAfter]);
        undisturbed.compare_with(space, &kills).await
    });
}

#[test]
fn a_write_that_is_refused_or_whose_answer_is_lost_is_made_good() {
    test("refuse", Needs::Own, async |space| {
        let undisturbed = Undisturbed::run(space, json!({"suspend": true})).await?;
        let mut faults =
            undisturbed.at_each_write(&[WriteFault::Refuse(500), WriteFault::Refuse(409), WriteFault::CutAfter]);
        for fault in [
            WriteFault::Refuse(403),
            WriteFault::Refuse(429),
            WriteFault::Refuse(503),
        ] {
            faults.extend([(1, fault), (undisturbed.writes, fault)]);
        }
        // Each takes as long as the operator waits for an answer.
        faults.push((2, WriteFault::SilentAfter));
        undisturbed.compare_with(space, &faults).await
    });
}

#[test]
fn watch_events_that_are_lost_do_not_change_the_end() {
    test("lost-events", Needs::Own, async |space| {
        let undisturbed = Undisturbed::run(space, json!({})).await?;
        for (name, owner) in [
            ("lost-pods", Some("ReplicaSet")),
            ("lost-children", Some("ModelDeployment")),
        ] {
            let lost: EventFilter = Arc::new(move |event| kind_of_owner(event) == owner);
            space
                .in_another(name, async |space| {
                    // What a watch lost is found by the next list; that of production comes after twelve minutes.
                    let mut settings = Settings::new(space, undisturbed.hub.url())?;
                    settings.arguments = vec!["--recheck-seconds".into(), "5".into()];
                    let operator = Operator::prepare(space, settings).await?;
                    operator.proxy.drop_events(Some(lost));
                    operator.launch()?;
                    undisturbed.apply(space).await?;
                    undisturbed.comes_about_in(space).await
                })
                .await?;
        }
        Ok(())
    });
}

#[test]
fn an_operator_that_is_shown_the_past_undoes_nothing() {
    test("stale", Needs::Own, async |space| {
        let hub = hub(space).await?;
        let settings = Settings::new(space, hub.url())?;
        let models = space.api::<ModelDeployment>();
        for name in ["chat", "gone"] {
            space.apply(&tiny(name, json!({"suspend": true}))?).await?;
        }
        let operator = Operator::start(space, settings).await?;
        for name in ["chat", "gone"] {
            until_is(&models, name, "the suspended object to settle", READY, settled).await?;
        }
        // The lists of its start: both objects, suspended, and no children.
        operator.proxy.remember_lists()?;
        space.delete::<ModelDeployment>("gone").await?;
        let serve = json!({"spec": {"suspend": false}});
        space.merge::<ModelDeployment>("chat", serve).await?;
        until_is(&models, "chat", "Ready=True", READY, |object| {
            is(object, "Ready", "True") && settled(object)
        })
        .await?;
        let inventory = Inventory::discover(space.client.clone()).await?;
        until_some("the deleted object's children to go", READY, async || {
            let end = Snapshot::take(&inventory, &space.namespace).await?;
            Ok(end.names().iter().all(|name| !name.contains("gone")).then_some(()))
        })
        .await?;
        at_rest(space).await?;
        quiet(&operator).await?;
        let (end, writes) = (
            Snapshot::take(&inventory, &space.namespace).await?,
            operator.proxy.writes().len(),
        );

        operator.proxy.travel_back();
        until_some("the operator to list again", READY, async || {
            Ok(operator.proxy.has_travelled().then_some(()))
        })
        .await?;
        quiet(&operator).await?;
        let more = operator.proxy.writes().split_off(writes);
        ensure!(more.is_empty(), "shown the past, the operator wrote {more:?}");
        let now = Snapshot::take(&inventory, &space.namespace).await?;
        ensure!(end.differences(&now).is_empty(), "{}", end.differences(&now).join("\n"));

        // It still follows what is new.
        space
            .merge::<ModelDeployment>("chat", json!({"spec": {"suspend": true}}))
            .await?;
        until_is(&models, "chat", "the edit to be observed", READY, settled).await?;
        ensure!(operator.proxy.writes().len() > writes, "the edit led to no write");
        Ok(())
    });
}

/// A run without faults: what it took, and its end.
struct Undisturbed {
    hub: Hub,
    spec: Value,
    inventory: Inventory,
    writes: usize,
    /// Those that come in every run. How often the status is written depends on how the kubelet's steps fall together; a
    /// write that is answered 409 is repeated, because a controller was faster.
    certain: usize,
    end: Snapshot,
}

impl Undisturbed {
    /// From an applied object to one that is settled.
    async fn run(space: &Space, spec: Value) -> Result<Self> {
        let hub = hub(space).await?;
        let inventory = Inventory::discover(space.client.clone()).await?;
        let operator = Operator::start(space, Settings::new(space, hub.url())?).await?;
        space.apply(&tiny("chat", spec.clone())?).await?;
        at_rest(space).await?;
        quiet(&operator).await?;
        let end = Snapshot::take(&inventory, &space.namespace).await?;
        let all = operator.proxy.writes();
        let writes = all.len();
        let is_certain =
            |write: &&Write| !write.path.ends_with("/status") && write.status != Some(StatusCode::CONFLICT);
        let certain = all.iter().filter(is_certain).count();
        eprintln!("--- {writes} writes without a fault, {certain} of them in every run");
        // It would only take processor time from the others.
        space.delete::<ModelDeployment>("chat").await?;
        Ok(Self {
            hub,
            spec,
            inventory,
            writes,
            certain,
            end,
        })
    }

    fn at_each_write(&self, faults: &[WriteFault]) -> Vec<(usize, WriteFault)> {
        let numbers = 1..=self.writes;
        numbers
            .flat_map(|number| faults.iter().map(move |fault| (number, *fault)))
            .collect()
    }

    /// One run for each fault; all must end as this one did.
    async fn compare_with(&self, space: &Space, faults: &[(usize, WriteFault)]) -> Result<()> {
        let runs = faults.iter().enumerate().map(|(index, (number, fault))| async move {
            let name = format!("fault-{index}-of-{}", self.writes);
            let outcome = space
                .in_another(&name, async |space| self.disturb(space, *number, *fault).await)
                .await;
            (*number, *fault, outcome)
        });
        let outcomes: Vec<_> = stream::iter(runs).buffer_unordered(AT_ONCE).collect().await;
        let (mut failures, mut missed) = (Vec::new(), Vec::new());
        for (number, fault, outcome) in outcomes {
            match outcome {
                Ok(true) => {}
                Ok(false) => missed.push(number),
                Err(error) => failures.push(format!("{fault:?} on write {number}: {error:#}")),
            }
        }
        ensure!(
            failures.is_empty(),
            "{} runs ended otherwise:\n{}",
            failures.len(),
            failures.join("\n")
        );
        eprintln!("--- {} runs, and no such write in {missed:?}", faults.len());
        ensure!(
            missed.iter().all(|number| *number > self.certain),
            "no such write: {missed:?}, though {} come in every run",
            self.certain
        );
        Ok(())
    }

    /// False where the run was done before the write came.
    async fn disturb(&self, space: &Space, number: usize, fault: WriteFault) -> Result<bool> {
        let operator = self.prepare(space).await?;
        operator.proxy.on_write(number, fault);
        operator.launch()?;
        self.apply(space).await?;
        let done = async {
            until_is(&space.api(), "chat", "the object to settle", READY, settled).await?;
            let came = tokio::time::timeout(TAIL, operator.proxy.await_writes(number)).await;
            anyhow::Ok(came.is_ok())
        };
        let hit = tokio::select! {
            came = operator.proxy.await_writes(number) => came.is_ok(),
            came = done => came?,
        };
        if hit && matches!(fault, WriteFault::KillBefore | WriteFault::KillAfter) {
            operator.await_end(READY).await?;
            operator.launch()?;
        }
        self.comes_about_in(space).await?;
        Ok(hit)
    }

    async fn prepare(&self, space: &Space) -> Result<Operator> {
        Operator::prepare(space, Settings::new(space, self.hub.url())?).await
    }

    async fn apply(&self, space: &Space) -> Result<()> {
        space.apply(&tiny("chat", self.spec.clone())?).await.map(drop)
    }

    /// Waits for the same end in another namespace.
    async fn comes_about_in(&self, space: &Space) -> Result<()> {
        at_rest(space).await?;
        until_some("the same end as without faults", READY, async || {
            let end = Snapshot::take(&self.inventory, &space.namespace).await?;
            let differences = self.end.differences(&end);
            ensure!(differences.is_empty(), "{}", differences.join("\n"));
            Ok(Some(()))
        })
        .await
    }
}

/// The present spec is in place and the operator has nothing more to do.
fn settled(object: &ModelDeployment) -> bool {
    is(object, "Reconciling", "False") && is(object, "Stalled", "False")
}

/// Waits until the object is settled, and the Deployment counts its pods as available: 5 s after they are ready.
async fn at_rest(space: &Space) -> Result<()> {
    until_is(&space.api(), "chat", "the object to settle", READY, settled).await?;
    until_is(
        &space.api::<Deployment>(),
        "chat-model",
        "the pods to be available",
        READY,
        |deployment| {
            let wanted = deployment.spec.replicas;
            let available = deployment.status.as_ref().and_then(|status| status.available_replicas);
            wanted == Some(available.unwrap_or(0))
        },
    )
    .await
    .map(drop)
}

/// Returns once the operator has not written for a while.
async fn quiet(operator: &Operator) -> Result<()> {
    until_some("the operator to come to rest", READY, async || {
        let more = operator.proxy.await_writes(operator.proxy.writes().len() + 1);
        Ok(tokio::time::timeout(TAIL, more).await.is_err().then_some(()))
    })
    .await
}

fn kind_of_owner(event: &Value) -> Option<&str> {
    event.pointer("/object/metadata/ownerReferences/0/kind")?.as_str()
}
