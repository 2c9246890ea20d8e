//! Reads a request's body into a typed value, within limits of size, memory and time. JSON depth is
//! bounded by the parser (128). Says which field is at fault when a type is wrong.
use crate::error::ApiError;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use windlass_engine::shortened;

/// The largest body; a text of this size is far beyond any context that fits into memory.
pub const MAX_BODY_BYTES: usize = 4 << 20;
/// Bodies up to this size need no place among the large ones.
const SMALL_BODY_BYTES: usize = 64 << 10;
/// Large bodies that are in memory at once; with `MAX_BODY_BYTES` this bounds them to 32 MiB.
const LARGE_BODIES: usize = 8;
/// From the first to the last byte of a body, waiting for a place included.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of the parser's words that are repeated to the caller.
const MAX_QUOTED_BYTES: usize = 200;

/// Reads bodies; one for the whole process.
#[derive(Debug)]
pub struct BodyReader {
    large: Semaphore,
}

impl BodyReader {
    /// With all places free.
    pub fn new() -> Self {
        Self {
            large: Semaphore::new(LARGE_BODIES),
        }
    }

    /// The request's body as a `T`.
    pub async fn json<T: DeserializeOwned>(&self, request: Request) -> Result<T, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::UnsupportedMediaType);
        }
        let reading = tokio::time::timeout(BODY_TIMEOUT, self.bytes(request));
        let (bytes, _place) = reading.await.map_err(|_| ApiError::BodyTimeout {
            seconds: BODY_TIMEOUT.as_secs(),
        })??;
        parse(&bytes)
    }

    /// The bytes, and the place that a large body holds while it is in memory.
    async fn bytes(&self, request: Request) -> Result<(Bytes, Option<SemaphorePermit<'_>>), ApiError> {
        let announced = announced_length(request.headers());
        if announced.is_some_and(|length| length > MAX_BODY_BYTES as u64) {
            return Err(ApiError::BodyTooLarge { limit: MAX_BODY_BYTES });
        }
        let place = match announced {
            Some(length) if length <= SMALL_BODY_BYTES as u64 => None,
            _ => Some(self.large.acquire().await.map_err(|error| ApiError::Internal {
                detail: error.to_string(),
            })?),
        };
        Ok((collect(request.into_body()).await?, place))
    }
}

async fn collect(body: Body) -> Result<Bytes, ApiError> {
    let mut body = Limited::new(body, MAX_BODY_BYTES);
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            if error.is::<LengthLimitError>() {
                ApiError::BodyTooLarge { limit: MAX_BODY_BYTES }
            } else {
                ApiError::BodyUnreadable
            }
        })?;
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A body that has arrived as a `T`.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut parser).map_err(|error| {
        let path = error.path().to_string();
        unparsable((path != ".").then_some(path), error.inner())
    })?;
    parser.end().map_err(|error| unparsable(None, &error))?;
    Ok(value)
}

fn unparsable(param: Option<String>, error: &serde_json::Error) -> ApiError {
    let words = error
        .to_string()
        .replace("expected u64", "expected an integer that is not negative")
        .replace("expected i64", "expected an integer")
        .replace("expected u32", "expected a token id")
        .replace("expected f64", "expected a number");
    ApiError::Unparsable {
        param: param.map(|param| shortened(&param, MAX_QUOTED_BYTES)),
        message: shortened(&words, MAX_QUOTED_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_api::openai::GenerateRequest;

    fn request(content_type: &str, body: impl Into<Body>) -> Request {
        Request::builder()
            .header(header::CONTENT_TYPE, content_type)
            .body(body.into())
            .unwrap()
    }

    async fn read(request: Request) -> Result<GenerateRequest, ApiError> {
        BodyReader::new().json(request).await
    }

    #[tokio::test]
    async fn json_with_a_charset_is_read() {
        assert!(
            read(request("Application/JSON; charset=utf-8", r#"{"n":1}"#))
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn another_media_type_is_refused() {
        for kind in [
            "",
            "text/plain",
            "application/jsonp",
            "application/x-www-form-urlencoded",
        ] {
            assert_eq!(
                read(request(kind, "{}")).await,
                Err(ApiError::UnsupportedMediaType),
                "{kind}"
            );
        }
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_is_cut_at_the_limit() {
        let chunk = Bytes::from(vec![b' '; 1 << 20]);
        let chunks = futures::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
        let body = Body::from_stream(chunks);
        assert_eq!(
            read(request("application/json", body)).await,
            Err(ApiError::BodyTooLarge { limit: MAX_BODY_BYTES })
        );
    }

    #[tokio::test]
    async fn an_announced_length_beyond_the_limit_is_refused_unread() {
        let mut request = request(
            "application/json",
            Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>()),
        );
        request
            .headers_mut()
            .insert(header::CONTENT_LENGTH, "4194305".parse().unwrap());
        assert_eq!(
            read(request).await,
            Err(ApiError::BodyTooLarge { limit: MAX_BODY_BYTES })
        );
    }

    #[test]
    fn the_field_at_fault_is_named() {
        for (json, param) in [
            (r#"{"max_tokens":-1}"#, "max_tokens"),
            (r#"{"max_tokens":1.5}"#, "max_tokens"),
            (r#"{"max_tokens":"5"}"#, "max_tokens"),
            (r#"{"max_tokens":18446744073709551616}"#, "max_tokens"),
            (r#"{"max_tokens":1e309}"#, "max_tokens"),
            (r#"{"temperature":1e309}"#, "temperature"),
            (r#"{"temperature":-1e309}"#, "temperature"),
            (r#"{"temperature":NaN}"#, "temperature"),
            (r#"{"temperature":Infinity}"#, "temperature"),
            (r#"{"temperature":[]}"#, "temperature"),
            (r#"{"seed":9223372036854775808}"#, "seed"),
            (r#"{"n":1e9}"#, "n"),
            (r#"{"n":true}"#, "n"),
            (r#"{"stop":5}"#, "stop"),
            (r#"{"stop":[5]}"#, "stop"),
            (r#"{"stream":"yes"}"#, "stream"),
            (r#"{"prompt":{}}"#, "prompt"),
            (r#"{"messages":[{"role":"user","content":5}]}"#, "messages[0].content"),
            (r#"{"messages":[{"content":"a"}]}"#, "messages[0]"),
            (r#"{"messages":{}}"#, "messages"),
            (
                r#"{"stream_options":{"include_usage":1}}"#,
                "stream_options.include_usage",
            ),
            (r#"{"model":5}"#, "model"),
        ] {
            let error = parse::<GenerateRequest>(json.as_bytes()).unwrap_err();
            assert_eq!(error.body().error.param.as_deref(), Some(param), "{json}: {error}");
        }
    }

    #[test]
    fn broken_json_is_refused_whatever_breaks_it() {
        let deep = format!(r#"{{"x":{}"#, "[".repeat(100_000));
        let broken: [&[u8]; 8] = [
            b"",
            b"{",
            b"[]",
            b"null",
            b"{} {}",
            b"{\"model\":\"\xFF\"}",
            b"{\"model\":\"\\ud800\"}",
            deep.as_bytes(),
        ];
        for bytes in broken {
            let error = parse::<GenerateRequest>(bytes).unwrap_err();
            assert!(matches!(error, ApiError::Unparsable { .. }), "{error}");
        }
    }

    #[test]
    fn a_long_value_is_not_repeated_in_full() {
        let json = serde_json::json!({"max_tokens": "x".repeat(100_000)}).to_string();
        let error = parse::<GenerateRequest>(json.as_bytes()).unwrap_err();
        assert!(error.to_string().len() < 300);
    }
}
