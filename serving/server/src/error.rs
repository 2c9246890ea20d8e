//! Every way in which a request fails, and the one place where each gets its status, its code, its
//! message for the caller and its words for the log. The log's words never carry what the caller sent.
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use windlass_api::openai::{ErrorBody, ErrorDetail};

/// Seconds after which a refused caller may try again: about one short answer.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Why a request fails. `Display` is the message for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The body is not JSON, or a field has the wrong type.
    #[error("The request body does not parse: {message}.")]
    Unparsable {
        /// The field, as far as it is known.
        param: Option<String>,
        /// The parser's words, shortened: they may quote the body.
        message: String,
    },
    /// A field has a value that is out of range or makes no sense.
    #[error("Invalid `{param}`: {message}.")]
    Invalid {
        /// The field.
        param: String,
        /// What is allowed.
        message: String,
    },
    /// A field that we know, with a value that we do not support.
    #[error("`{param}` is not supported by this server{reason}. Leave it out, or send its default.")]
    Unsupported {
        /// The field.
        param: String,
        /// Empty, or the reason with a leading separator.
        reason: &'static str,
    },
    /// The prompt leaves no room for an answer.
    #[error(
        "This model's maximum context length is {context} tokens, and at least one is needed for the answer. \
         Your input has {prompt} tokens. Please shorten it."
    )]
    ContextLengthExceeded {
        /// `messages`, `prompt` or `suffix`.
        param: &'static str,
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// Another model was asked for.
    #[error("The model `{asked}` does not exist. This server serves `{served}`.")]
    ModelNotFound {
        /// What was asked for, shortened.
        asked: String,
        /// What there is.
        served: String,
    },
    /// The model is for something else.
    #[error("The model `{served}` makes {makes}: ask {route}.")]
    WrongTask {
        /// What there is.
        served: String,
        /// What it makes.
        makes: &'static str,
        /// Where that is to be had.
        route: &'static str,
    },
    /// No such route.
    #[error(
        "Unknown request URL. See GET /v1/models, POST /v1/chat/completions, POST /v1/completions and \
         POST /v1/embeddings."
    )]
    UnknownRoute,
    /// The route exists, with another method.
    #[error("This method is not allowed here.")]
    MethodNotAllowed,
    /// The body is larger than allowed.
    #[error("The request body is larger than {limit} bytes.")]
    BodyTooLarge {
        /// The limit.
        limit: usize,
    },
    /// The body did not arrive in time.
    #[error("The request body did not arrive within {seconds} s.")]
    BodyTimeout {
        /// The limit.
        seconds: u64,
    },
    /// The connection broke, or its framing is wrong.
    #[error("The request body could not be read.")]
    BodyUnreadable,
    /// The body is not declared as JSON.
    #[error("Send the request body with `Content-Type: application/json`.")]
    UnsupportedMediaType,
    /// All sequences run and the queue is full.
    #[error("The server is at its limit of running and queued requests. Please try again.")]
    QueueFull,
    /// The model is still being loaded.
    #[error("The model is still being loaded. Please try again.")]
    Loading,
    /// The arithmetic of this request gave a value that is not finite.
    #[error("The model could not compute an answer to this request.")]
    NotFinite,
    /// What the grammar of an answer allows could not be computed within the limits.
    #[error("The form that was asked for is too complex. Please simplify the schema, expression or grammar.")]
    TooComplex,
    /// Something of ours broke.
    #[error("The server could not complete this request.")]
    Internal {
        /// For the log.
        detail: String,
    },
}

/// What an error answer tells the access log.
#[derive(Debug, Clone)]
pub struct LogNote(pub String);

/// Status, class, code.
type Kind = (StatusCode, &'static str, Option<&'static str>);

impl ApiError {
    /// Shorthand for an invalid field.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid {
            param: param.into(),
            message: message.into(),
        }
    }

    /// Shorthand for a field that is known and not supported.
    pub fn unsupported(param: impl Into<String>) -> Self {
        Self::Unsupported {
            param: param.into(),
            reason: "",
        }
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.kind().0
    }

    /// The mapping.
    fn kind(&self) -> Kind {
        const INVALID: &str = "invalid_request_error";
        match self {
            Self::Unparsable { .. } => (StatusCode::BAD_REQUEST, INVALID, Some("invalid_json")),
            Self::Invalid { .. } => (StatusCode::BAD_REQUEST, INVALID, Some("invalid_value")),
            Self::Unsupported { .. } => (StatusCode::BAD_REQUEST, INVALID, Some("unsupported_parameter")),
            Self::ContextLengthExceeded { .. } => (StatusCode::BAD_REQUEST, INVALID, Some("context_length_exceeded")),
            Self::ModelNotFound { .. } => (StatusCode::NOT_FOUND, INVALID, Some("model_not_found")),
            Self::WrongTask { .. } => (StatusCode::NOT_FOUND, INVALID, Some("model_not_supported")),
            Self::UnknownRoute => (StatusCode::NOT_FOUND, INVALID, Some("unknown_url")),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, INVALID, Some("method_not_allowed")),
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, INVALID, Some("body_too_large")),
            Self::BodyTimeout { .. } => (StatusCode::REQUEST_TIMEOUT, INVALID, Some("body_timeout")),
            Self::BodyUnreadable => (StatusCode::BAD_REQUEST, INVALID, Some("body_unreadable")),
            Self::UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                INVALID,
                Some("unsupported_media_type"),
            ),
            Self::QueueFull => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("queue_full")),
            Self::Loading => (StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("model_loading")),
            Self::TooComplex => (StatusCode::BAD_REQUEST, INVALID, Some("grammar_too_complex")),
            Self::NotFinite => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", Some("not_finite")),
            Self::Internal { .. } => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "server_error",
                Some("internal_error"),
            ),
        }
    }

    fn param(&self) -> Option<&str> {
        match self {
            Self::Unparsable { param, .. } => param.as_deref(),
            Self::Invalid { param, .. } | Self::Unsupported { param, .. } => Some(param),
            Self::ContextLengthExceeded { param, .. } => Some(param),
            Self::ModelNotFound { .. } | Self::WrongTask { .. } => Some("model"),
            _ => None,
        }
    }

    /// The message for the log: no text of the caller's.
    pub fn log_message(&self) -> String {
        match self {
            Self::Unparsable { .. } => "the body does not parse".to_owned(),
            Self::Invalid { param, .. } => format!("invalid {param}"),
            Self::Unsupported { param, .. } => format!("unsupported {param}"),
            Self::ContextLengthExceeded { prompt, context, .. } => {
                format!("a prompt of {prompt} tokens in a context of {context}")
            }
            Self::ModelNotFound { .. } => "another model was asked for".to_owned(),
            Self::Internal { detail } => detail.clone(),
            fixed => fixed.to_string(),
        }
    }

    /// The body of the answer; in a stream that has begun, the data of its last event.
    pub fn body(&self) -> ErrorBody {
        let (_, kind, code) = self.kind();
        ErrorBody {
            error: ErrorDetail {
                message: self.to_string(),
                kind: kind.to_owned(),
                param: self.param().map(str::to_owned),
                code: code.map(str::to_owned),
            },
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), axum::Json(self.body())).into_response();
        if matches!(self, Self::QueueFull | Self::Loading) {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response.extensions_mut().insert(LogNote(self.log_message()));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_says_when_to_come_back() {
        let response = ApiError::QueueFull.into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    }

    #[test]
    fn the_body_has_openais_shape_with_nulls_where_nothing_is_known() {
        let body = serde_json::to_value(ApiError::UnsupportedMediaType.body()).unwrap();
        assert_eq!(body["error"]["type"], "invalid_request_error");
        assert_eq!(body["error"]["code"], "unsupported_media_type");
        assert!(body["error"].as_object().unwrap()["param"].is_null());
        let body = ApiError::invalid("top_p", "it must be at most 1").body();
        assert_eq!(body.error.message, "Invalid `top_p`: it must be at most 1.");
        assert_eq!(body.error.param.as_deref(), Some("top_p"));
    }

    #[test]
    fn the_log_does_not_repeat_what_the_caller_sent() {
        let secret = "my secret";
        let errors = [
            ApiError::Unparsable {
                param: Some(secret.into()),
                message: secret.into(),
            },
            ApiError::invalid("stop", secret),
            ApiError::ModelNotFound {
                asked: secret.into(),
                served: "m".into(),
            },
        ];
        for error in errors {
            assert!(!error.log_message().contains(secret), "{error:?}");
        }
    }

    #[test]
    fn a_detail_for_the_log_does_not_reach_the_caller() {
        let error = ApiError::Internal {
            detail: "block 7 is lost".into(),
        };
        assert!(!serde_json::to_string(&error.body()).unwrap().contains("block 7"));
        assert_eq!(error.log_message(), "block 7 is lost");
    }
}
