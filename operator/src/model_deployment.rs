//! The kind ModelDeployment: what is its own in a reconcile, every function pure.
use std::collections::BTreeSet;

use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, Deployment},
        core::v1::{ConfigMap, Pod, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::Condition,
    jiff::Timestamp,
};
use kube::ResourceExt;
use windlass_crds::{ModelDeployment, ModelDeploymentStatus, model_deployment::CONDITIONS};

use crate::{
    context::Settings,
    kind::{
        Kind, Problems, Report, Situation, Status,
        children::{ChildKind, Intent, Observed},
        owner::Owner,
        rollout::{self, Evidence, Plan, Wanted},
    },
};

pub mod build;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod pins;
pub mod pod;
pub mod report;
#[cfg(test)]
mod tests;
pub mod validate;

use pins::Pins;
use validate::ValidatedModelDeployment;

/// The selector of the pods, alone; its value is the object's name.
pub const LABEL: &str = "windlass.dev/model-deployment";

/// The kind.
pub struct ModelDeployments;

/// What shall be.
#[derive(Debug, Clone)]
pub struct Decision {
    pub plan: Plan,
    /// What unpinned sources were resolved to.
    pub pins: Pins,
}

impl Status for ModelDeploymentStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    fn observe(&mut self, generation: Option<i64>, conditions: Vec<Condition>) {
        self.observed_generation = generation;
        self.conditions = conditions;
    }
}

impl Kind for ModelDeployments {
    type Object = ModelDeployment;
    type Valid = ValidatedModelDeployment;
    type Decision = Decision;
    type Status = ModelDeploymentStatus;

    const SUFFIX: &'static str = "model";
    const LABEL: &'static str = LABEL;
    const CONDITIONS: &'static [&'static str] = CONDITIONS;

    fn children_kinds() -> Vec<ChildKind> {
        vec![
            ChildKind::of::<ServiceAccount>(),
            ChildKind::of::<ConfigMap>(),
            ChildKind::of::<NetworkPolicy>(),
            ChildKind::of::<Service>(),
            ChildKind::of::<PodDisruptionBudget>(),
            ChildKind::of::<ControllerRevision>(),
            ChildKind::of::<Deployment>(),
        ]
    }

    fn validate(object: &ModelDeployment, owner: Owner) -> Result<ValidatedModelDeployment, Problems> {
        validate::validate(object, owner)
    }

    /// Only the Deployment's ReplicaSets make pods that count.
    fn made(owner: &Owner, pod: &Pod) -> bool {
        let deployment = owner.child();
        let is_its_replica_set = |name: &str| {
            name.strip_prefix(&deployment)
                .is_some_and(|rest| rest.starts_with('-') && !rest[1..].contains('-'))
        };
        pod.owner_references().iter().any(|owner| {
            owner.controller == Some(true) && owner.kind == "ReplicaSet" && is_its_replica_set(&owner.name)
        })
    }

    fn decide(
        valid: &ValidatedModelDeployment,
        observed: &Observed,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<Decision, serde_json::Error> {
        let wanted = Wanted {
            id: valid.revision().to_owned(),
            inputs: valid.inputs.clone(),
            template: build::pod_template::build(valid, settings)?,
            pin_key: valid.pin_key.clone(),
            needs: valid.needs(),
            deadline: valid.progress_deadline,
            suspended: is_idle(valid, observed),
            strategy: valid.strategy,
        };
        let evidence = evidence(valid, observed);
        let plan = rollout::decide(&wanted, &observed.all::<ControllerRevision>(), &evidence, now);
        let pins = pins::decide(valid, &plan, observed);
        Ok(Decision { plan, pins })
    }

    fn children(
        valid: &ValidatedModelDeployment,
        decision: &Decision,
        settings: &Settings,
    ) -> Result<Vec<Intent>, serde_json::Error> {
        build::build(valid, settings, decision)
    }

    fn report(situation: &Situation<Self>) -> Report<ModelDeploymentStatus> {
        report::report(situation)
    }

    fn reporters(_: &ValidatedModelDeployment, decision: &Decision, observed: &Observed) -> BTreeSet<String> {
        // One pod stands for all: they do the same.
        let of_wanted = observed
            .pods
            .iter()
            .filter(|pod| pod::runs(pod, &decision.plan.wanted.id));
        of_wanted.filter_map(|pod| pod::report_address(pod)).take(1).collect()
    }

    fn stuck<'a>(valid: &ValidatedModelDeployment, observed: &'a Observed, now: Timestamp) -> Option<&'a Pod> {
        let of_wanted = observed.pods.iter().filter(|pod| pod::runs(pod, valid.revision()));
        of_wanted.map(AsRef::as_ref).find(|pod| pod::is_stuck(pod, now))
    }
}

/// Whether no pods shall run: nothing can be verified then.
fn is_idle(valid: &ValidatedModelDeployment, observed: &Observed) -> bool {
    let deployment: Option<Deployment> = observed.get(&valid.owner.child());
    report::desired(valid, deployment.as_ref()) == 0
}

/// What the pods of the desired revision show about it.
fn evidence(valid: &ValidatedModelDeployment, observed: &Observed) -> Evidence {
    let id = valid.revision();
    let of_wanted = || observed.pods.iter().filter(|pod| pod::runs(pod, id));
    let has_others = observed
        .pods
        .iter()
        .any(|pod| pod::is_active(pod) && !pod::runs(pod, id));
    let verified = of_wanted().find(|pod| pod::is_ready(pod));
    let failure = of_wanted().find_map(|pod| pod::failure(pod, observed));
    let no_room = of_wanted().find_map(|pod| pod::no_room(pod, observed));
    let no_room = no_room.or_else(|| report::quota_refusal(valid, observed));
    Evidence {
        verified: verified.map(|pod| pod::model_facts(pod).map(|facts| facts.digest)),
        failure: failure.map(|finding| format!("{}: {}", finding.reason, finding.message)),
        last_words: pod::worst(observed, id).map(|finding| finding.message),
        makes_progress: of_wanted()
            .any(|pod| pod::fetch_report(pod, observed).is_some_and(|report| report.error.is_none())),
        no_room: no_room.filter(|_| has_others),
    }
}
