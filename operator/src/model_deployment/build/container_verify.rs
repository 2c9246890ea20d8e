//! The sidecar `verify` of a Custom runtime: it sends the verification request within the pod and is ready once the
//! runtime has answered it, so that no request reaches a pod that does not work, with or without the operator.
use k8s_openapi::{
    api::core::v1::{Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, Probe, SecretKeySelector},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{pod_template::restricted, resources};
use crate::{
    context::Settings,
    model_deployment::validate::{ValidatedModelDeployment, Verification, VerificationRequest},
    names,
};

/// Wrong answers in a row after which the container ends with its report, and the revision counts as failed.
const REFUSALS: u32 = 5;

/// Builds the container; `health_path` is the runtime's own probe.
pub fn build(
    owner: &ValidatedModelDeployment,
    settings: &Settings,
    verification: &Verification,
    health_path: &str,
) -> Container {
    let mut args = vec!["verify-runtime".to_owned()];
    let mut flag = |name: &str, value: String| args.extend([format!("--{name}"), value]);
    flag("runtime-url", format!("http://127.0.0.1:{}", owner.port()));
    flag("health-path", health_path.to_owned());
    flag("model", owner.served_name.clone());
    match &verification.request {
        VerificationRequest::Task(task) => flag("task", (*task).to_owned()),
        VerificationRequest::Own {
            path,
            body,
            expect_status,
        } => {
            flag("path", path.clone());
            if let Some(body) = body {
                flag("body", body.clone());
            }
            flag("expect-status", expect_status.to_string());
        }
    }
    flag("timeout", format!("{}s", verification.timeout.as_secs()));
    flag("failure-threshold", REFUSALS.to_string());
    flag("listen", format!("[::]:{}", names::PORT_VERIFY));
    flag("report", "/dev/termination-log".to_owned());
    let key = verification.key_secret.as_ref().map(|secret| EnvVar {
        name: "WINDLASS_RUNTIME_KEY".to_owned(),
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: secret.clone(),
                key: names::RUNTIME_KEY.to_owned(),
                optional: None,
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    });
    Container {
        name: names::CONTAINER_VERIFY.to_owned(),
        image: Some(settings.registry_image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        args: Some(args),
        env: key.map(|key| vec![key]),
        ports: Some(vec![ContainerPort {
            name: Some("verify".to_owned()),
            container_port: names::PORT_VERIFY,
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        readiness_probe: Some(Probe {
            http_get: Some(HTTPGetAction {
                path: Some("/ready".to_owned()),
                port: IntOrString::String("verify".to_owned()),
                ..HTTPGetAction::default()
            }),
            period_seconds: Some(2),
            timeout_seconds: Some(5),
            failure_threshold: Some(2),
            ..Probe::default()
        }),
        // The only container with this restart policy among the init containers: a native sidecar.
        restart_policy: settings.native_sidecars.then(|| "Always".to_owned()),
        resources: Some(resources::helper(owner, settings, "10m", "16Mi", "64Mi")),
        security_context: Some(restricted()),
        termination_message_path: Some("/dev/termination-log".to_owned()),
        termination_message_policy: Some("File".to_owned()),
        ..Container::default()
    }
}
