//! What the containers of a pod request and may use: the object's own resources, or else the operator's defaults.
use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity};
use windlass_crds::{model_deployment::source::Source, quantity::Amount};

use crate::{context::Settings, model_deployment::validate::ValidatedModelDeployment};

type Amounts = BTreeMap<String, Quantity>;

/// A processor of which a container of ours never needs more.
const SMALL_CPU_LIMIT: &str = "1";

/// Those of the engine. Memory is reserved and limited alike; a processor is limited only on demand, because a
/// throttled engine answers late; extended resources are always both.
pub fn engine(owner: &ValidatedModelDeployment, settings: &Settings) -> ResourceRequirements {
    let (own, defaults) = (&owner.resources, &settings.defaults);
    let mut requests = Amounts::new();
    let mut limits = Amounts::new();
    if let Some(cpu) = own.cpu.as_ref().or(defaults.cpu.as_ref()) {
        requests.insert("cpu".to_owned(), cpu.to_quantity());
    }
    if let Some(cpu) = cpu_limit(owner, settings) {
        limits.insert("cpu".to_owned(), cpu.to_quantity());
    }
    if let Some(memory) = own.memory.as_ref().or(defaults.memory.as_ref()) {
        requests.insert("memory".to_owned(), memory.to_quantity());
        limits.insert("memory".to_owned(), memory.to_quantity());
    }
    if let Some(storage) = ephemeral_storage(owner, settings) {
        requests.insert("ephemeral-storage".to_owned(), storage);
    }
    if let Some(accelerator) = &owner.accelerator {
        let count = Quantity(accelerator.count.to_string());
        requests.insert(accelerator.resource.clone(), count.clone());
        limits.insert(accelerator.resource.clone(), count);
    }
    requirements(requests, limits)
}

/// Those of a container of ours next to the engine.
pub fn helper(
    owner: &ValidatedModelDeployment,
    settings: &Settings,
    cpu: &str,
    memory: &str,
    memory_limit: &str,
) -> ResourceRequirements {
    let amount = |name: &str, amount: &str| (name.to_owned(), Quantity(amount.to_owned()));
    let requests = Amounts::from([amount("cpu", cpu), amount("memory", memory)]);
    let mut limits = Amounts::from([amount("memory", memory_limit)]);
    // A cluster that demands limits demands them of every container.
    if cpu_limit(owner, settings).is_some() {
        limits.extend([amount("cpu", SMALL_CPU_LIMIT)]);
    }
    requirements(requests, limits)
}

/// Whole cores of the engine's request, at least one: its number of threads.
pub fn threads(owner: &ValidatedModelDeployment, settings: &Settings) -> Option<u128> {
    let cpu = owner.resources.cpu.as_ref().or(settings.defaults.cpu.as_ref())?;
    // Amounts that cannot be read were refused before.
    let milli = cpu.milli().ok()?;
    Some(u128::try_from(milli / 1000).unwrap_or(0).max(1))
}

/// What a fetched model may take of the node's disk; a model on a claim takes nothing.
pub fn ephemeral_storage(owner: &ValidatedModelDeployment, settings: &Settings) -> Option<Quantity> {
    let is_fetched = !matches!(owner.source, Source::Claim { .. });
    let own = owner.resources.ephemeral_storage.as_ref();
    let storage = own.or(settings.defaults.ephemeral_storage.as_ref().filter(|_| is_fetched));
    storage.map(Amount::to_quantity)
}

fn cpu_limit<'a>(owner: &'a ValidatedModelDeployment, settings: &'a Settings) -> Option<&'a Amount> {
    let own = owner.resources.cpu_limit.as_ref();
    own.or(settings.defaults.cpu_limit.as_ref())
}

fn requirements(requests: Amounts, limits: Amounts) -> ResourceRequirements {
    let non_empty = |amounts: Amounts| (!amounts.is_empty()).then_some(amounts);
    ResourceRequirements {
        requests: non_empty(requests),
        limits: non_empty(limits),
        ..ResourceRequirements::default()
    }
}
