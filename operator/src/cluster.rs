//! The way to the cluster: one writer, one cache of what is there, the watches that fill it, the lease.
//! Nothing here knows a kind.
pub mod apply;
pub mod cache;
pub mod claim;
pub mod cover;
pub mod leader;
#[cfg(test)]
pub mod memory_api;
pub mod progress;
pub mod schema_skew;
pub mod warnings;
pub mod watch;
