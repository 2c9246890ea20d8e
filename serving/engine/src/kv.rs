//! The paged cache, without its bytes: which block belongs to whom, and which blocks hold which prefix.
//! Numbers only; keys and values lie in `windlass_kernels::KvCache` under the same numbers.
pub mod pool;
pub mod prefix;
pub mod table;
