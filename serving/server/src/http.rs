//! Routes, and what every answer gets: a request id of ours, a line in the log, a count, and
//! `Connection: close` while draining or after a chunked body.
use crate::app::{App, Loaded};
use crate::error::{ApiError, LogNote};
use crate::{embeddings, generate, metrics, tokenize};
use axum::extract::{MatchedPath, Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use std::sync::Arc;
use std::time::Instant;
use windlass_api::headers::REQUEST_ID;
use windlass_api::openai::{Model, ModelList};

/// The service.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(generate::chat))
        .route("/v1/completions", post(generate::completions))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/v1/models", get(models))
        .route("/v1/models/{id}", get(model))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(scrape))
        .fallback(async || ApiError::UnknownRoute)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(from_fn_with_state(app.clone(), every_answer))
        .with_state(app)
}

async fn models(State(app): State<Arc<App>>) -> Json<ModelList> {
    Json(ModelList {
        object: "list".to_owned(),
        data: vec![describe(&app)],
    })
}

async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Model>, ApiError> {
    generate::check_model(&app, Some(id))?;
    Ok(Json(describe(&app)))
}

fn describe(app: &App) -> Model {
    Model {
        id: app.served_name.clone(),
        object: "model".to_owned(),
        created: app.started,
        owned_by: "windlass".to_owned(),
        max_model_len: app.loaded().map(Loaded::context),
    }
}

/// Fails when there is work and no step: only a restart helps then.
async fn live(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    let stalled = app.loaded().and_then(Loaded::stalled_for);
    match stalled {
        Some(time) if time >= app.stall_timeout => {
            (StatusCode::SERVICE_UNAVAILABLE, "no step although there is work\n")
        }
        _ => (StatusCode::OK, "live\n"),
    }
}

/// Succeeds when the model has produced a token, or a vector, and new requests are welcome.
async fn ready(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    match app.loaded() {
        _ if app.is_draining() => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "loading the model\n"),
        Some(_) => (StatusCode::OK, "ready\n"),
    }
}

async fn scrape(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let text = app.metrics.encode().map_err(|error| ApiError::Internal {
        detail: error.to_string(),
    })?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn every_answer(
    State(app): State<Arc<App>>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let begin = Instant::now();
    let method = request.method().clone();
    let id = format!("req-{:016x}", app.random());
    // The matched pattern, never the path itself: it is the caller's text.
    let route = path.as_ref().map_or("other", MatchedPath::as_str);
    // Whoever stands between may have gone by another length than we: nothing behind such a body can be trusted to be
    // a request of the same caller (RFC 9112, 6.1).
    let ends = request.headers().contains_key(header::TRANSFER_ENCODING);
    let mut response = next.run(request).await;
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    if ends || app.is_draining() {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let status = response.status();
    app.metrics.response(route, status.as_u16());
    let seconds = begin.elapsed().as_secs_f64();
    let note = response
        .extensions_mut()
        .remove::<LogNote>()
        .map(|note| note.0)
        .unwrap_or_default();
    if status.is_server_error() && !note.is_empty() {
        tracing::error!(request = id, %method, route, status = status.as_u16(), seconds, detail = note, "answered");
    } else if !route.starts_with("/health/") && route != "/metrics" {
        tracing::info!(request = id, %method, route, status = status.as_u16(), seconds, detail = note, "answered");
    } else {
        tracing::debug!(request = id, %method, route, status = status.as_u16(), seconds, "answered");
    }
    response
}
