//! The contract of the Windlass kinds: their types, the CRD that an API server enforces, the closed
//! list of conditions and reasons, and the pure rules that need no other object.
//!
//! Nothing here speaks to a cluster or knows how an object is made to run.
pub mod conditions;
pub mod duration;
pub mod model_deployment;
pub mod quantity;
pub mod schema;

pub use model_deployment::{ModelDeployment, ModelDeploymentSpec, status::ModelDeploymentStatus};
