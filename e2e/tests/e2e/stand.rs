//! What most tests start with: a hub of the test's own with the tiny model on it, an operator of its own that
//! fetches from there, and the ways in which tests wait for a ModelDeployment.
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use windlass_crds::ModelDeployment;
use windlass_e2e::Space;
use windlass_e2e::hub::{Hub, Manner};
use windlass_e2e::model::{TINY, is_because, is_ready};
use windlass_e2e::operator::{Operator, Settings};
use windlass_e2e::until::until_is;

/// From an applied object to `Ready`, with images and weights at hand, on a machine that does other things too.
pub const READY: Duration = Duration::from_secs(90);

/// A hub with the tiny model.
pub async fn hub(space: &Space) -> Result<Hub> {
    let hub = Hub::start(&space.client).await?;
    hub.put(TINY, windlass_e2e::tiny::gguf(1), Manner::Honest);
    Ok(hub)
}

/// A hub with the tiny model and a running operator that fetches from it.
pub async fn hub_and_operator(space: &Space) -> Result<(Hub, Operator)> {
    let hub = hub(space).await?;
    let operator = Operator::start(space, Settings::new(space, hub.url())?).await?;
    Ok((hub, operator))
}

/// Waits until the present spec of an object is served and verified.
pub async fn ready(space: &Space, name: &str) -> Result<ModelDeployment> {
    until_is(&space.api::<ModelDeployment>(), name, "Ready=True", READY, is_ready).await
}

/// Waits until a condition of the present spec has this status and reason.
pub async fn because(space: &Space, name: &str, kind: &str, status: &str, reason: &str) -> Result<ModelDeployment> {
    let what = format!("{kind}={status} because {reason}");
    let holds = |object: &ModelDeployment| is_because(object, kind, status, reason);
    until_is(&space.api::<ModelDeployment>(), name, &what, READY, holds).await
}

/// A completion of a few tokens.
pub fn short_completion(model: &str) -> Value {
    json!({"model": model, "prompt": "The sea is", "max_tokens": 4, "temperature": 0})
}
