//! The two questions that the operator asks a pod itself: how far the download is, and one token of
//! a real completion. Both bounded in time and size; an answer is data, never trusted further.
use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use windlass_api::fetch::FetchReport;

/// A progress report is small and at hand.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(2);
/// One token of a short prompt: seconds on a slow processor, and well within a reconcile's limit.
const PROOF_TIMEOUT: Duration = Duration::from_secs(12);
const MAX_BODY: usize = 64 * 1024;

/// A client for pods: plain HTTP inside the cluster, no proxy, no redirects.
pub type PodClient = Client<HttpConnector, Full<Bytes>>;

/// The outcome of asking for a completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A completion came back.
    Answered {
        /// Digest of the model that answered, as its pod reported it.
        digest: Option<String>,
    },
    /// Something else did; what, and what to do.
    Refused(String),
}

/// A client for pods.
pub fn pod_client() -> PodClient {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(PROGRESS_TIMEOUT));
    Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build(connector)
}

/// How far the download in a pod is; `None` when it does not say, which is no failure.
pub async fn progress(client: &PodClient, address: &str, port: i32) -> Option<FetchReport> {
    let request = Request::get(url(address, port, "/progress")?)
        .body(Full::default())
        .ok()?;
    let (status, body) = tokio::time::timeout(PROGRESS_TIMEOUT, exchange(client, request))
        .await
        .ok()?
        .ok()?;
    if status != StatusCode::OK {
        return None;
    }
    serde_json::from_slice(&body).ok()
}

/// Asks a pod for one token.
pub async fn complete(client: &PodClient, address: &str, port: i32, model: &str, digest: Option<String>) -> Proof {
    let refused = |what: String| {
        Proof::Refused(format!(
            "the pod says that it is ready, but POST /v1/completions {what}. See the engine's log; the request names the model `{model}`"
        ))
    };
    let body = json!({"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}).to_string();
    let request = url(address, port, "/v1/completions").and_then(|url| {
        let request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header("content-type", "application/json");
        request.body(Full::from(body)).ok()
    });
    let Some(request) = request else {
        return refused("cannot be sent to its address".to_owned());
    };
    match tokio::time::timeout(PROOF_TIMEOUT, exchange(client, request)).await {
        Err(_) => refused(format!("did not answer within {} s", PROOF_TIMEOUT.as_secs())),
        Ok(Err(error)) => refused(error),
        Ok(Ok((status, _))) if status != StatusCode::OK => refused(format!("answered {status}")),
        Ok(Ok((_, body))) if is_completion(&body) => Proof::Answered { digest },
        Ok(Ok(_)) => refused("answered 200 without a completion".to_owned()),
    }
}

/// A completion has a choice with a text; the text of one token may be empty.
fn is_completion(body: &[u8]) -> bool {
    let Ok(answer) = serde_json::from_slice::<Value>(body) else {
        return false;
    };
    answer.pointer("/choices/0/text").is_some_and(Value::is_string)
}

async fn exchange(client: &PodClient, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String> {
    let response = client
        .request(request)
        .await
        .map_err(|_| "could not be reached".to_owned())?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
    let body = body.map_err(|_| "broke off its answer or sent too much".to_owned())?;
    Ok((status, body.to_bytes()))
}

/// The address must be an IP: the name of a host is nothing that a pod's status may contain.
fn url(address: &str, port: i32, path: &str) -> Option<String> {
    match address.parse().ok()? {
        IpAddr::V4(address) => Some(format!("http://{address}:{port}{path}")),
        IpAddr::V6(address) => Some(format!("http://[{address}]:{port}{path}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, http, routing::post};

    async fn serve(router: Router) -> (i32, tokio::task::JoinHandle<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = i32::from(listener.local_addr().expect("address").port());
        (
            port,
            tokio::spawn(async move { axum::serve(listener, router).await.expect("serve") }),
        )
    }

    async fn ask(status: u16, body: &'static str) -> Proof {
        let answer = move || async move { (http::StatusCode::from_u16(status).expect("status"), body) };
        let (port, server) = serve(Router::new().route("/v1/completions", post(answer))).await;
        let proof = complete(&pod_client(), "127.0.0.1", port, "chat", Some("sha256:x".into())).await;
        server.abort();
        proof
    }

    #[tokio::test]
    async fn a_completion_is_a_proof_even_with_empty_text() {
        let proof = ask(200, r#"{"choices":[{"text":""}]}"#).await;
        assert_eq!(
            proof,
            Proof::Answered {
                digest: Some("sha256:x".into())
            }
        );
    }

    #[tokio::test]
    async fn everything_else_is_refused_with_what_came_back() {
        for (status, body, what) in [
            (500, r#"{"choices":[{"text":""}]}"#, "500"),
            (404, "", "404"),
            (200, "OK", "without a completion"),
            (200, r#"{"choices":[]}"#, "without a completion"),
        ] {
            let Proof::Refused(message) = ask(status, body).await else {
                panic!("{status} {body} was a proof")
            };
            assert!(message.contains(what) && message.contains("`chat`"), "{message}");
        }
    }

    #[tokio::test]
    async fn a_closed_port_and_an_endless_body_are_refused() {
        let endless = || async { "x".repeat(MAX_BODY + 1) };
        let (port, server) = serve(Router::new().route("/v1/completions", post(endless))).await;
        let client = pod_client();
        let Proof::Refused(message) = complete(&client, "127.0.0.1", port, "chat", None).await else {
            panic!("proof")
        };
        assert!(message.contains("too much"), "{message}");
        server.abort();
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = i32::from(closed.local_addr().expect("address").port());
        drop(closed);
        let Proof::Refused(message) = complete(&client, "127.0.0.1", port, "chat", None).await else {
            panic!("proof")
        };
        assert!(message.contains("could not be reached"), "{message}");
    }

    #[test]
    fn only_addresses_are_asked() {
        for address in ["", "metadata.internal", "10.0.0.1@evil", "10.0.0.1/..", "::1%eth0"] {
            assert_eq!(url(address, 80, "/"), None, "{address}");
        }
        assert_eq!(url("fd00::1", 80, "/x").as_deref(), Some("http://[fd00::1]:80/x"));
    }
}
