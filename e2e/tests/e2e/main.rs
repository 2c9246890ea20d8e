//! The cluster tests, one module an area, in one program: they share a cluster and take turns (`turnstile`).
//! `make test` starts them with a cluster, images and a built operator at hand.
mod faults;
mod leader;
mod quiet;
mod refusals;
mod scope;
mod serve;
mod sources;
mod stand;
