//! Tests that need the cluster for themselves, or the installed operator. Their module comes first by name: they run one
//! after the other before the many that share the cluster, which then need not make way for them.
mod installed;
mod nodes;
mod rollout;
mod serve;
mod skew;
