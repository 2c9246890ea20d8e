//! Fetches of clusters whose way out is a proxy and whose hub has a certificate of the company's own.
#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use windlass_registry::client::install_cryptography;

use support::model;
use support::origin::{Origin, Reply};

/// No resolver knows it: whoever reaches it has gone through the proxy.
const HUB: &str = "hub.test";

/// A hub with a certificate of a private CA, and the CA's own in a file.
struct Hub {
    address: SocketAddr,
    ca: PathBuf,
    _folder: tempfile::TempDir,
}

impl Hub {
    fn start() -> Hub {
        install_cryptography();
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = Issuer::new(ca, ca_key);
        let certificate = CertificateParams::new(vec![HUB.to_owned()]).unwrap();
        let certificate = certificate.signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder().with_no_client_auth();
        let config = Arc::new(config.with_single_cert(vec![certificate.der().clone()], key).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        fs::write(&path, ca_pem).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let connection = ServerConnection::new(config.clone()).unwrap();
                let stream = stream.unwrap();
                thread::spawn(move || serve(StreamOwned::new(connection, stream)));
            }
        });
        Hub {
            address,
            ca: path,
            _folder: folder,
        }
    }
}

/// Answers one request: the model, or nothing for HEAD and the API.
fn serve(mut stream: StreamOwned<ServerConnection, TcpStream>) {
    let Some(head) = head(&mut stream) else { return };
    let content = model();
    let answer = match head.starts_with("GET /org/repo/resolve/main/model.gguf ") {
        true => format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            content.len()
        ),
        false => "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_owned(),
    };
    // A caller that does not trust the certificate closes the connection.
    if stream.write_all(answer.as_bytes()).is_ok() && answer.starts_with("HTTP/1.1 200") {
        drop(stream.write_all(&content));
    }
    stream.conn.send_close_notify();
    drop(stream.flush());
}

/// The lines up to the empty one; `None` if the other side ends before.
fn head(stream: &mut impl Read) -> Option<String> {
    let (mut bytes, mut byte) = (Vec::new(), [0]);
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).ok()
}

/// A forward proxy that knows the way to the hub, and keeps what it was asked.
fn proxy(hub: SocketAddr) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut near, seen) = (stream.unwrap(), seen.clone());
            thread::spawn(move || {
                let Some(head) = head(&mut near) else { return };
                seen.lock().unwrap().push(head.lines().next().unwrap().to_owned());
                let far = TcpStream::connect(hub).unwrap();
                near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
                let (to_far, to_near) = ((near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near));
                thread::spawn(move || copy(to_far));
                copy(to_near);
            });
        }
    });
    (url, asked)
}

/// Passes bytes on until one side ends, and ends the other.
fn copy((mut from, mut to): (TcpStream, TcpStream)) {
    drop(std::io::copy(&mut from, &mut to));
    drop(to.shutdown(std::net::Shutdown::Write));
}

fn fetch(dest: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_windlass-registry"))
        .args(["fetch", "--source", "hf://org/repo/model.gguf", "--attempts", "1"])
        .arg("--dest")
        .arg(dest)
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn a_hub_behind_a_proxy_with_a_private_ca_is_fetched_from() {
    let hub = Hub::start();
    let (proxy, asked) = proxy(hub.address);
    let (folder, url) = (tempfile::tempdir().unwrap(), format!("https://{HUB}"));
    let (dest, ca) = (folder.path().join("m.gguf"), hub.ca.to_str().unwrap());
    let hub_url = ["--hub-url", url.as_str()];
    let proxied = ("HTTPS_PROXY", proxy.as_str());
    for (variables, arguments) in [
        (vec![proxied], vec!["--ca-bundle", ca]),
        (vec![proxied, ("WINDLASS_CA_BUNDLE", ca)], vec![]),
        (vec![proxied, ("SSL_CERT_FILE", ca)], vec![]),
    ] {
        let output = fetch(&dest, &variables, &[&hub_url[..], &arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(fs::read(&dest).unwrap(), model());
        fs::remove_file(&dest).unwrap();
    }
    let asked = asked.lock().unwrap();
    assert!(
        !asked.is_empty() && asked.iter().all(|line| *line == format!("CONNECT {HUB}:443 HTTP/1.1")),
        "{asked:?}"
    );
}

#[test]
fn a_certificate_that_nobody_trusts_is_refused_and_says_so() {
    let hub = Hub::start();
    let (proxy, _) = proxy(hub.address);
    let (folder, url) = (tempfile::tempdir().unwrap(), format!("https://{HUB}"));
    let output = fetch(
        &folder.path().join("m"),
        &[("HTTPS_PROXY", &proxy)],
        &["--hub-url", &url],
    );
    assert_eq!(output.status.code(), Some(1));
    let logged = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        logged.contains("UnknownIssuer") && logged.contains("--ca-bundle"),
        "{logged}"
    );
}

#[test]
fn a_host_of_no_proxy_is_reached_without_it() {
    let hub = Hub::start();
    let (proxy, asked) = proxy(hub.address);
    let (folder, url) = (tempfile::tempdir().unwrap(), format!("https://{HUB}"));
    let variables = [("HTTPS_PROXY", proxy.as_str()), ("NO_PROXY", "other.test,hub.test")];
    let output = fetch(&folder.path().join("m"), &variables, &["--hub-url", &url]);
    assert_eq!(output.status.code(), Some(1), "nobody resolves the name of the hub");
    assert!(asked.lock().unwrap().is_empty());
}

#[test]
fn a_hub_without_tls_is_asked_through_the_proxy_for_http() {
    let proxy = Origin::start(|_, _| Reply::whole(&model(), &[]));
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("m");
    let output = fetch(
        &dest,
        &[("HTTP_PROXY", &proxy.url())],
        &["--hub-url", "http://hub.test:8080"],
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = "GET http://hub.test:8080/org/repo/resolve/main/model.gguf HTTP/1.1";
    assert!(proxy.seen().iter().any(|seen| seen.line == line), "{:?}", proxy.seen());
}
