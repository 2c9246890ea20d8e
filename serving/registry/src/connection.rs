//! One question to the source: a GET that follows redirects by hand, so that the token stays at home.
//!
//! The token goes to the origin of the source's own address and nowhere else; once a redirect has left that origin it
//! is not sent again. A redirect from https to http is refused. No address but host names ends in a message.
use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime};

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Client, Method, Response, StatusCode, Url};

use crate::commit::Commit;
use crate::digest::Digest;
use crate::failure::FetchFailed;
use crate::patience::retry_after;
use crate::source::Source;

const MOST_REDIRECTS: usize = 10;

/// A bearer token; it has no `Debug`, so that it cannot slip into a log.
pub struct Token(HeaderValue);

impl Token {
    /// Takes the text of a Secret; the newline that files often end with is dropped, and an empty one is none.
    pub fn parse(text: &str) -> Result<Option<Token>, FetchFailed> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| FetchFailed::UnusableToken)?;
        value.set_sensitive(true);
        Ok(Some(Token(value)))
    }
}

/// Asks one source.
pub struct Connection<'a> {
    client: Client,
    source: &'a Source,
    token: Option<&'a Token>,
    stall: Duration,
}

/// What the source's own origin says about the file, also where the bytes come from elsewhere.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// From `X-Linked-Size`.
    pub size: Option<u64>,
    /// From `X-Linked-Etag`, where it is a SHA-256.
    pub digest: Option<Digest>,
    /// From `X-Repo-Commit`.
    pub commit: Option<Commit>,
}

/// The answer at the end of the redirects; its status has been judged and is 200, 206 or 416.
#[derive(Debug)]
pub struct Answer {
    /// Status, headers and the stream of bytes.
    pub response: Response,
    /// What the source's origin announced on the way.
    pub announced: Announced,
    /// Who answered in the end.
    pub host: String,
}

/// A document of the hub's API.
#[derive(Debug)]
pub struct Document {
    /// Where it was in the end.
    pub url: Url,
    /// Who answered.
    pub host: String,
    /// JSON, if the hub does as it should.
    pub body: Vec<u8>,
    /// The `Link` header, which names the next page.
    pub link: Option<String>,
}

/// Why an attempt ended early; another may do better.
#[derive(Debug)]
pub struct Interruption {
    /// Who failed.
    pub host: String,
    /// What happened, for people.
    pub what: String,
    /// What the server wishes.
    pub retry_after: Option<Duration>,
    /// The connection ended cleanly before all announced bytes were there.
    pub cut: bool,
}

/// An attempt brought no bytes.
#[derive(Debug)]
pub enum NoAnswer {
    /// Worth another attempt.
    Interrupted(Interruption),
    /// Final.
    Failed(FetchFailed),
}

impl<'a> Connection<'a> {
    /// Asks this source by a client of `crate::client`.
    pub fn new(client: &Client, source: &'a Source, token: Option<&'a Token>, stall: Duration) -> Connection<'a> {
        Connection {
            client: client.clone(),
            source,
            token,
            stall,
        }
    }

    /// GETs the file, from an offset with a validator where `range` has them.
    pub async fn get(&self, range: &HeaderMap) -> Result<Answer, NoAnswer> {
        let mut url = self.source.url().clone();
        let home = url.origin();
        let mut at_home = true;
        let mut announced = Announced::default();
        for _ in 0..=MOST_REDIRECTS {
            let host = host_of(&url);
            let response = self.send(Method::GET, &url, at_home, range).await?;
            if at_home {
                announced.learn(response.headers());
            }
            let Some(location) = redirect_of(&response) else {
                judge(&response, &host, self.source, at_home, self.token.is_some())?;
                return Ok(Answer {
                    response,
                    announced,
                    host,
                });
            };
            url = self.step(&url, &location).map_err(NoAnswer::Failed)?;
            at_home = at_home && url.origin() == home;
        }
        Err(NoAnswer::Failed(
            self.unusable(&url, format!("more than {MOST_REDIRECTS} redirects")),
        ))
    }

    /// What the source's origin announces, without the bytes; nothing where it does not say or cannot be asked.
    pub async fn announced(&self) -> Announced {
        let mut announced = Announced::default();
        let mut url = self.source.url().clone();
        for _ in 0..=MOST_REDIRECTS {
            let Ok(response) = self.send(Method::HEAD, &url, true, &HeaderMap::new()).await else {
                // Not an error: the GET that follows meets the same trouble, and retries and reports it.
                tracing::debug!("the source does not announce the file before it is asked for it");
                break;
            };
            announced.learn(response.headers());
            // A renamed repository redirects on its own origin; other redirects lead to the bytes.
            let next = redirect_of(&response).and_then(|location| url.join(&location).ok());
            match next.filter(|next| next.origin() == url.origin()) {
                Some(next) => url = next,
                None => break,
            }
        }
        announced
    }

    /// GETs a JSON document of the source's own origin, of at most `most` bytes; redirects are followed only there.
    pub async fn document(&self, url: &Url, most: usize) -> Result<Document, NoAnswer> {
        let mut url = url.clone();
        // Each request carries the token; a page may name any address as the next one.
        if url.origin() != self.source.url().origin() {
            let last = format!("a page of its API that leads to {}", host_of(&url));
            return Err(NoAnswer::Failed(self.unusable(self.source.url(), last)));
        }
        for _ in 0..=MOST_REDIRECTS {
            let host = host_of(&url);
            let mut response = self.send(Method::GET, &url, true, &HeaderMap::new()).await?;
            if let Some(location) = redirect_of(&response) {
                let next = self.step(&url, &location).map_err(NoAnswer::Failed)?;
                if next.origin() != url.origin() {
                    let last = format!("a redirect of its API to {}", host_of(&next));
                    return Err(NoAnswer::Failed(self.unusable(&url, last)));
                }
                url = next;
                continue;
            }
            judge(&response, &host, self.source, true, self.token.is_some())?;
            let mut body = Vec::new();
            loop {
                match tokio::time::timeout(self.stall, response.chunk()).await {
                    Ok(Ok(Some(bytes))) if body.len() + bytes.len() <= most => body.extend_from_slice(&bytes),
                    Ok(Ok(Some(_))) => {
                        let last = format!("a document of its API with more than {most} bytes");
                        return Err(NoAnswer::Failed(self.unusable(&url, last)));
                    }
                    Ok(Ok(None)) => break,
                    Ok(Err(error)) => return Err(NoAnswer::Interrupted(Interruption::of(host, error))),
                    Err(_) => return Err(NoAnswer::Interrupted(Interruption::stalled(host, self.stall))),
                }
            }
            let link = response
                .headers()
                .get(header::LINK)
                .and_then(|value| value.to_str().ok());
            let link = link.map(str::to_owned);
            return Ok(Document { url, host, body, link });
        }
        let last = format!("more than {MOST_REDIRECTS} redirects");
        Err(NoAnswer::Failed(self.unusable(&url, last)))
    }

    async fn send(&self, method: Method, url: &Url, at_home: bool, range: &HeaderMap) -> Result<Response, NoAnswer> {
        let mut request = self
            .client
            .request(method, url.clone())
            // The digest is that of the file, not of a compressed form of it.
            .header(header::ACCEPT_ENCODING, "identity")
            .headers(range.clone());
        if let (true, Some(Token(value))) = (at_home, self.token) {
            request = request.header(header::AUTHORIZATION, value.clone());
        }
        match tokio::time::timeout(self.stall, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(NoAnswer::Interrupted(Interruption::of(host_of(url), error))),
            Err(_) => Err(NoAnswer::Interrupted(Interruption::stalled(host_of(url), self.stall))),
        }
    }

    fn step(&self, from: &Url, location: &str) -> Result<Url, FetchFailed> {
        let to = from
            .join(location)
            .map_err(|_| self.unusable(from, "a redirect to an unreadable address".into()))?;
        match (from.scheme(), to.scheme()) {
            (_, "https") | ("http", "http") => Ok(to),
            _ => Err(self.unusable(
                from,
                format!("a redirect to {}, which is not protected by TLS", host_of(&to)),
            )),
        }
    }

    fn unusable(&self, url: &Url, last: String) -> FetchFailed {
        FetchFailed::SourceUnavailable {
            host: host_of(url),
            attempts: 1,
            last,
        }
    }
}

impl Announced {
    fn learn(&mut self, headers: &HeaderMap) {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let size = text("x-linked-size").and_then(|value| value.trim().parse().ok());
        let digest = text("x-linked-etag").and_then(|value| Digest::from_hex(value.trim().trim_matches('"')));
        let commit = text("x-repo-commit").and_then(|value| Commit::from_hex(value.trim()));
        *self = Announced {
            size: self.size.or(size),
            digest: self.digest.or(digest),
            commit: self.commit.or(commit),
        };
    }
}

impl Interruption {
    /// A failed request or a failed read of its body.
    pub fn of(host: String, error: reqwest::Error) -> Interruption {
        let error = error.without_url(); // a redirect's address is often a signed link
        let mut what = error.to_string();
        let (mut cut, mut cause) = (false, error.source());
        while let Some(inner) = cause {
            cut |= inner
                .downcast_ref::<io::Error>()
                .is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof);
            what = format!("{what}: {inner}");
            cause = inner.source();
        }
        if what.contains("UnknownIssuer") {
            what.push_str("; if the certificate is of a CA of your own, name it with --ca-bundle");
        }
        Interruption {
            host,
            what,
            retry_after: None,
            cut,
        }
    }

    /// No byte for too long.
    pub fn stalled(host: String, stall: Duration) -> Interruption {
        Interruption {
            host,
            what: format!("not a byte for {stall:?}"),
            retry_after: None,
            cut: false,
        }
    }
}

fn redirect_of(response: &Response) -> Option<String> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    Some(response.headers().get(header::LOCATION)?.to_str().ok()?.to_owned())
}

/// Sorts the statuses: usable, worth another attempt, or final.
fn judge(response: &Response, host: &str, source: &Source, at_home: bool, has_token: bool) -> Result<(), NoAnswer> {
    let status = response.status();
    let detail = hub_error(response.headers());
    let host = host.to_owned();
    let failed = match status.as_u16() {
        200 | 206 | 416 => return Ok(()),
        // Elsewhere than at home the permission is in the link; a link that expired is renewed by asking again.
        401 | 403 if at_home && has_token => FetchFailed::CredentialsRejected {
            host,
            status: status.as_u16(),
            detail,
        },
        401 | 403 if at_home => FetchFailed::CredentialsRequired {
            host,
            status: status.as_u16(),
            detail,
        },
        404 | 410 => FetchFailed::NotFound {
            what: source.shown().to_owned(),
            detail,
        },
        401 | 403 | 408 | 425 | 429 | 500..=599 => {
            let wish = response
                .headers()
                .get(header::RETRY_AFTER)
                .and_then(|value| value.to_str().ok());
            let retry_after = wish.and_then(|wish| retry_after(wish, SystemTime::now()));
            let what = format!("status {}", named(status));
            return Err(NoAnswer::Interrupted(Interruption {
                host,
                what,
                retry_after,
                cut: false,
            }));
        }
        _ => FetchFailed::SourceUnavailable {
            host,
            attempts: 1,
            last: format!("status {}{detail}", named(status)),
        },
    };
    Err(NoAnswer::Failed(failed))
}

/// The hub's own word for what is missing (`RepoNotFound`, `GatedRepo`, …), if it is nothing but a word.
fn hub_error(headers: &HeaderMap) -> String {
    let code = headers
        .get("x-error-code")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if code.is_empty() || code.len() > 40 || !code.chars().all(|c| c.is_ascii_alphanumeric()) {
        return String::new();
    }
    format!(" ({code})")
}

fn named(status: StatusCode) -> String {
    status.to_string()
}

fn host_of(url: &Url) -> String {
    url.host_str().unwrap_or("the source").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_loses_the_newline_of_its_file_and_an_empty_one_is_none() {
        assert_eq!(Token::parse("abc\n").unwrap().unwrap().0.as_bytes(), b"Bearer abc");
        assert!(Token::parse(" \n").unwrap().is_none());
        assert!(matches!(Token::parse("a\nb"), Err(FetchFailed::UnusableToken)));
    }

    #[test]
    fn only_a_sha256_is_taken_from_the_linked_etag() {
        let mut headers = HeaderMap::new();
        headers.insert("x-linked-size", HeaderValue::from_static("12"));
        headers.insert(
            "x-linked-etag",
            HeaderValue::from_static("\"0123456789012345678901234567890123456789\""),
        );
        let mut announced = Announced::default();
        announced.learn(&headers);
        assert_eq!(
            announced,
            Announced {
                size: Some(12),
                digest: None,
                commit: None
            }
        );
        let hex = "ab".repeat(32);
        headers.insert("x-linked-etag", HeaderValue::from_str(&format!("\"{hex}\"")).unwrap());
        announced.learn(&headers);
        assert_eq!(announced.digest.unwrap().hex(), hex);
    }

    #[test]
    fn a_commit_is_taken_from_its_header_only_where_it_is_one() {
        let mut announced = Announced::default();
        for (value, found) in [("main", None), ("0123456789abcdef0123456789abcdef01234567", Some(()))] {
            announced.learn(&HeaderMap::from_iter([(
                header::HeaderName::from_static("x-repo-commit"),
                HeaderValue::from_static(value),
            )]));
            assert_eq!(announced.commit.map(|_| ()), found, "{value}");
        }
    }

    #[test]
    fn a_redirect_may_gain_tls_but_not_lose_it() {
        crate::client::install_cryptography();
        let stall = Duration::from_secs(1);
        let source = Source::parse("https://host/f", "main", "").unwrap();
        let client = crate::client::client(stall, None).unwrap();
        let connection = Connection::new(&client, &source, None, stall);
        let url = |text: &str| Url::parse(text).unwrap();
        assert!(connection.step(&url("https://host/f"), "https://cdn/f").is_ok());
        assert_eq!(
            connection.step(&url("https://host/a/f"), "../g").unwrap().as_str(),
            "https://host/g"
        );
        assert!(connection.step(&url("http://hub/f"), "https://cdn/f").is_ok());
        assert!(connection.step(&url("http://hub/f"), "http://cdn/f").is_ok());
        for location in ["http://cdn/f", "file:///etc/passwd", "data:,x"] {
            let message = connection
                .step(&url("https://host/f"), location)
                .unwrap_err()
                .to_string();
            assert!(message.contains("TLS"), "{message}");
        }
    }
}
