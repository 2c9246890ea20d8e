//! The cluster tests, one module an area, in one program: they share a cluster and take turns (`turnstile`).
//! `make test` and `make e2e` start them with a cluster, images and a built operator at hand.
mod custom;
mod deletion;
mod faults;
mod installed;
mod leader;
mod nodes;
mod placement;
mod quiet;
mod refusals;
mod rollout;
mod scaling;
mod scarce;
mod scope;
mod serve;
mod sources;
mod stand;
mod upgrade;
