//! The fault proxy against a little HTTP server: it must do what it says before a test may believe it.
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use kube::client::Body;
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;
use windlass_e2e::fault::{Proxy, WriteFault};

const CHAT: &str = "/apis/apps/v1/namespaces/a/deployments/chat";
const LIST: &str = "/apis/apps/v1/namespaces/a/deployments?limit=500";

/// A server that counts what reaches it, lists that count, and watches with three events.
async fn server() -> (Client, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let counter = seen.clone();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.expect("a connection");
            let counter = counter.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let count = counter.fetch_add(1, Ordering::SeqCst) + 1;
                async move { Ok::<_, Infallible>(answer(&request, count)) }
            });
            tokio::spawn(async move {
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service)
                    .await
                    .ok();
            });
        }
    });
    (client(&url), seen)
}

fn answer(request: &Request<Incoming>, count: usize) -> Response<BoxBody<Bytes, Infallible>> {
    let user = request
        .headers()
        .get("impersonate-user")
        .map(|user| user.to_str().expect("a name in ASCII").to_owned());
    if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
        let events = (1..=3).map(|number| Ok(Frame::data(Bytes::from(format!("{}\n", json!({"number": number}))))));
        let open = futures::stream::iter(events).chain(futures::stream::pending());
        return Response::new(BodyExt::boxed(StreamBody::new(open)));
    }
    Response::new(Full::new(Bytes::from(json!({"count": count, "user": user}).to_string())).boxed())
}

fn client(url: &str) -> Client {
    let mut config = Config::new(url.parse().expect("a URL"));
    config.default_retry = false;
    Client::try_from(config).expect("a client")
}

async fn send(client: &Client, method: &str, path: &str) -> Result<(u16, Value), kube::Error> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .body(Body::empty())
        .expect("a request");
    let response = client.send(request).await?;
    let status = response.status().as_u16();
    let bytes = response.into_body().collect_bytes().await?;
    Ok((status, serde_json::from_slice(&bytes).expect("JSON")))
}

async fn proxied(user: Option<&str>) -> (Proxy, Client, Arc<AtomicUsize>) {
    let (upstream, seen) = server().await;
    let proxy = Proxy::start(upstream, user.map(str::to_owned)).await.expect("a proxy");
    let operator = client(&proxy.url());
    (proxy, operator, seen)
}

/// Events of a watch as they come.
async fn watch(operator: &Client) -> impl futures::Stream<Item = Value> + Unpin {
    let request = Request::get("/apis/apps/v1/deployments?watch=true")
        .body(Body::empty())
        .expect("a request");
    let body = operator
        .send(request)
        .await
        .expect("an answer")
        .into_body()
        .into_data_stream();
    Box::pin(body.map(|bytes| serde_json::from_slice(&bytes.expect("bytes")).expect("JSON")))
}

#[tokio::test]
async fn requests_without_a_fault_pass_and_act_as_the_operators_user() {
    let (proxy, operator, _) = proxied(Some("operator-a")).await;
    let (status, body) = send(&operator, "PATCH", CHAT).await.unwrap();
    assert_eq!((status, &body["user"]), (200, &json!("operator-a")));
    let writes = proxy.writes();
    assert_eq!((writes.len(), writes[0].path.as_str()), (1, CHAT));
    assert_eq!(writes[0].status.unwrap().as_u16(), 200);
}

#[tokio::test]
async fn a_kill_before_the_write_keeps_it_from_the_server() {
    let (proxy, operator, seen) = proxied(None).await;
    let kills = Arc::new(AtomicUsize::new(0));
    let counter = kills.clone();
    proxy.set_kill(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    proxy.on_write(2, WriteFault::KillBefore);
    send(&operator, "PATCH", CHAT).await.unwrap();
    assert!(send(&operator, "PATCH", CHAT).await.is_err());
    assert_eq!((seen.load(Ordering::SeqCst), kills.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn a_kill_after_the_write_lets_the_server_apply_it() {
    let (proxy, operator, seen) = proxied(None).await;
    let kills = Arc::new(AtomicUsize::new(0));
    let counter = kills.clone();
    proxy.set_kill(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    proxy.on_write(1, WriteFault::KillAfter);
    assert!(send(&operator, "PATCH", CHAT).await.is_err());
    assert_eq!((seen.load(Ordering::SeqCst), kills.load(Ordering::SeqCst)), (1, 1));
    assert_eq!(proxy.writes()[0].status.unwrap().as_u16(), 200);
}

#[tokio::test]
async fn a_refused_write_never_arrives_and_has_its_status() {
    let (proxy, operator, seen) = proxied(None).await;
    for (number, status) in [409, 422, 403, 429, 500].into_iter().enumerate() {
        proxy.on_write(number + 1, WriteFault::Refuse(status));
        let (answered, body) = send(&operator, "PATCH", CHAT).await.unwrap();
        assert_eq!((answered, &body["code"]), (status, &json!(status)));
    }
    assert_eq!(seen.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_silent_answer_never_comes_although_the_server_applied_the_write() {
    let (proxy, operator, seen) = proxied(None).await;
    proxy.on_write(1, WriteFault::SilentAfter);
    let request = tokio::spawn(async move { send(&operator, "PATCH", CHAT).await });
    while proxy.writes().first().is_none_or(|write| write.status.is_none()) {
        tokio::task::yield_now().await;
    }
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    assert!(!request.is_finished());
}

#[tokio::test]
async fn dropped_events_are_missing_and_the_others_come_unchanged() {
    let (proxy, operator, _) = proxied(None).await;
    proxy.drop_events(Some(Arc::new(|event: &Value| event["number"] == 2)));
    let events: Vec<Value> = watch(&operator).await.take(2).collect().await;
    assert_eq!(events, [json!({"number": 1}), json!({"number": 3})]);
}

#[tokio::test]
async fn held_events_come_once_they_are_let_go() {
    let (proxy, operator, _) = proxied(None).await;
    proxy.hold_events(true);
    let mut events = watch(&operator).await;
    // Only that nothing has come yet can be seen; that the first one comes afterwards shows it.
    assert!(timeout(Duration::from_millis(50), events.next()).await.is_err());
    proxy.hold_events(false);
    assert_eq!(events.next().await.unwrap(), json!({"number": 1}));
}

#[tokio::test]
async fn a_journey_back_ends_the_watch_and_repeats_the_old_list_once() {
    let (proxy, operator, _) = proxied(None).await;
    let first = send(&operator, "GET", LIST).await.unwrap().1;
    proxy.remember_lists().unwrap();
    let second = send(&operator, "GET", LIST).await.unwrap().1;
    assert_ne!(first, second);
    let mut events = watch(&operator).await;
    assert_eq!(events.next().await.unwrap(), json!({"number": 1}));
    proxy.travel_back();
    let last = events
        .by_ref()
        .skip_while(|event| std::future::ready(event["type"] != "ERROR"))
        .next()
        .await
        .unwrap();
    assert_eq!(last["object"]["code"], 410);
    assert_eq!(send(&operator, "GET", LIST).await.unwrap().1, first);
    assert!(proxy.has_travelled());
    assert_ne!(send(&operator, "GET", LIST).await.unwrap().1, first);
}
