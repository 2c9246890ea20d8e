//! The harness of the cluster tests (`tests/e2e/`): a namespace for each test, waiting on conditions, a client
//! inside the cluster, faults for a real operator process, and evidence when a test fails.
//! It knows the kinds of `windlass-crds` and speaks HTTP; it links nothing of the operator or the servers.
pub mod audit;
pub mod env;
pub mod evidence;
pub mod fault;
pub mod hub;
pub mod inside;
pub mod inventory;
pub mod model;
pub mod operator;
pub mod release;
mod run;
pub mod scale;
pub mod snapshot;
pub mod space;
pub mod tiny;
pub mod traffic;
pub mod turnstile;
pub mod until;

pub use run::{OPERATOR_LABELS, installed, test};
pub use space::Space;
pub use turnstile::Needs;
