//! The paged cache's bookkeeping: which block belongs to whom, which content is worth keeping. Numbers
//! only; the keys and values themselves lie in the kernels' `KvCache`.
mod block;
mod pool;
mod prefix;

pub use block::{BlockTable, SharedPool, lock};
pub use pool::BlockPool;
pub use prefix::{BlockHash, PrefixChain};
