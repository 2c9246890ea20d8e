//! Runs one test: waits for its turn, gives it a namespace, and turns its end into evidence or into nothing.
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::FutureExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::runtime::Builder;

use crate::env::Env;
use crate::space::{MANAGER, Space, client};
use crate::turnstile::{Needs, Turnstile};
use crate::until::{until_all, until_is};
use crate::{evidence, operator};

/// One for all tests of the process.
static TURNSTILE: Turnstile = Turnstile::new();

/// Selects the operator's Deployment and pods in the cluster.
pub const OPERATOR_LABELS: &str = "app.kubernetes.io/name=windlass-operator";

/// Runs the body of a test named `name` (short: a DNS label) once the cluster is as it needs it.
///
/// # Panics
/// When the test fails; that is how a test says so.
pub fn test(name: &str, needs: Needs, body: impl AsyncFnOnce(&Space) -> Result<()>) {
    let env = Env::read().unwrap_or_else(|error| panic!("{error:#}"));
    let pass = TURNSTILE.enter(needs);
    let started = Instant::now();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
    runtime.block_on(async {
        let space = async {
            prepare(&client(&env).await?, needs).await?;
            Space::new(env, name).await
        };
        let space = space.await.unwrap_or_else(|error| panic!("{name}: {error:#}"));
        let outcome = AssertUnwindSafe(body(&space)).catch_unwind().await;
        let failed = !matches!(outcome, Ok(Ok(())));
        if failed
            && needs.installed()
            && let Ok(found) = installed(&space.client).await
        {
            let namespace = found.namespace().unwrap_or_default();
            evidence::dump_installed_operator(&space.client, &namespace, &space.folder).await;
        }
        space.close(failed).await;
        if let Err(error) = operator::revoke(&space).await {
            eprintln!("--- rights of {} were not taken back: {error:#}", space.namespace);
        }
        if !needs.installed()
            && pass.is_last()
            && let Err(error) = scale(&space.client, 1).await
        {
            eprintln!("--- the installed operator was not started again: {error:#}");
        }
        eprintln!("--- {name}: {:.1} s", started.elapsed().as_secs_f32());
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("{name}: {error:#}"),
            Err(panic) => resume_unwind(panic),
        }
    });
}

/// Brings the installed operator into the state that the test needs.
async fn prepare(client: &Client, needs: Needs) -> Result<()> {
    let replicas = i32::from(needs.installed());
    let operator = match installed(client).await {
        Ok(operator) => operator,
        // A cluster without the chart is fine for tests that bring their own operator.
        Err(_) if !needs.installed() => return Ok(()),
        Err(error) => return Err(error),
    };
    let (namespace, name) = (operator.namespace().unwrap_or_default(), operator.name_any());
    scale(client, replicas).await?;
    if needs.installed() {
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
        until_is(
            &deployments,
            &name,
            "the installed operator to run",
            // It does not lead while the lease of an operator that a test killed has not run out: 60 s.
            Duration::from_secs(150),
            |deployment| {
                deployment
                    .status
                    .as_ref()
                    .and_then(|status| status.available_replicas)
                    .unwrap_or(0)
                    >= 1
            },
        )
        .await?;
    } else {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        until_all(
            &pods,
            OPERATOR_LABELS,
            "the installed operator to end",
            Duration::from_secs(60),
            |pods| pods.is_empty(),
        )
        .await?;
    }
    Ok(())
}

/// The operator's Deployment, wherever the chart was installed.
pub async fn installed(client: &Client) -> Result<Deployment> {
    let deployments: Api<Deployment> = Api::all(client.clone());
    let list = deployments.list(&ListParams::default().labels(OPERATOR_LABELS)).await?;
    let ours = |deployment: &Deployment| !deployment.namespace().is_some_and(|name| name.starts_with("e2e-"));
    list.items
        .into_iter()
        .find(ours)
        .context("the chart windlass is not installed: `make test` does that")
}

async fn scale(client: &Client, replicas: i32) -> Result<()> {
    let Ok(operator) = installed(client).await else {
        return Ok(());
    };
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &operator.namespace().unwrap_or_default());
    let params = PatchParams {
        field_manager: Some(MANAGER.into()),
        ..PatchParams::default()
    };
    let change = json!({"spec": {"replicas": replicas}});
    deployments
        .patch_scale(&operator.name_any(), &params, &Patch::Merge(change))
        .await?;
    Ok(())
}
