//! The cluster tests, one module an area, in one program: they share a cluster and take turns (`turnstile`).
//! `make test` and `make e2e` start them with a cluster, images and a built operator at hand.
mod alone;
mod custom;
mod deletion;
mod faults;
mod leader;
mod placement;
mod quiet;
mod refusals;
mod scaling;
mod scarce;
mod scope;
mod sources;
mod stand;
