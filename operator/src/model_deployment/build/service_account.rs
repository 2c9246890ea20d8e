//! The ServiceAccount of the pods: an identity without a token and without rights.
use k8s_openapi::api::core::v1::ServiceAccount;

use crate::{
    kind::rollout::Plan,
    model_deployment::validate::{NEEDS_SERVICE_ACCOUNT, ValidatedModelDeployment},
};

/// Builds the ServiceAccount; `None` when no revision that stays runs as it.
pub fn build(owner: &ValidatedModelDeployment, plan: &Plan) -> Option<ServiceAccount> {
    plan.needs(NEEDS_SERVICE_ACCOUNT).then(|| ServiceAccount {
        metadata: owner.owner.metadata(owner.owner.child()),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    })
}
