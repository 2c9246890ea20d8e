//! `/healthz` (the process works), `/readyz` (it can read the cluster; leading is not required, or a
//! second replica would never be ready) and `/metrics`.
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::task::JoinHandle;

use crate::metrics::Metrics;

/// Whether the process can read the cluster; clones share it.
#[derive(Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// The cluster was read.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// It may not work, until `set`.
    pub fn unset(&self) {
        self.0.store(false, Ordering::Release);
    }

    fn status(&self) -> StatusCode {
        if self.0.load(Ordering::Acquire) {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}

/// Serves the probes.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve_health(
    address: SocketAddr,
    readiness: Readiness,
) -> std::io::Result<JoinHandle<std::io::Result<()>>> {
    let router = Router::new()
        .route("/healthz", get(|| async { StatusCode::OK }))
        .route(
            "/readyz",
            get(|State(readiness): State<Readiness>| async move { readiness.status() }),
        )
        .with_state(readiness);
    serve(address, router).await
}

/// Serves the metrics.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve_metrics(address: SocketAddr, metrics: Metrics) -> std::io::Result<JoinHandle<std::io::Result<()>>> {
    serve(
        address,
        Router::new().route("/metrics", get(scrape)).with_state(metrics),
    )
    .await
}

async fn serve(address: SocketAddr, router: Router) -> std::io::Result<JoinHandle<std::io::Result<()>>> {
    let listener = windlass_listen::bind(address)?;
    Ok(tokio::spawn(async move { axum::serve(listener, router).await }))
}

async fn scrape(State(metrics): State<Metrics>) -> Response {
    match metrics.encode() {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
