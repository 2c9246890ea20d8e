//! The request that verifies a runtime: built from a task, or given whole.
use reqwest::{Method, StatusCode, Url};
use serde_json::{Value, json};

/// A path that is longer would not fit into reports.
const LONGEST_PATH: usize = 512;

/// What a runtime is for; each task has its request and the shape of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// `POST /v1/completions`, one token.
    Completion,
    /// `POST /v1/chat/completions`, one token.
    Chat,
    /// `POST /v1/embeddings`, one text.
    Embed,
    /// `POST /v1/rerank`, two documents.
    Rerank,
}

/// What a right answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Any answer with this status.
    Status(StatusCode),
    /// 200 and the shape of the task's answer.
    Shape(Task),
}

/// The request.
#[derive(Debug, Clone)]
pub struct Request {
    /// GET, POST or PUT.
    pub method: Method,
    /// Begins with `/`; may have a query.
    pub path: String,
    /// JSON, as it is sent.
    pub body: Option<String>,
    /// What a right answer is.
    pub expect: Expect,
}

/// An address or a path that cannot be used, and how to write it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Unusable(String);

impl Request {
    /// The smallest request of a task: one token at temperature 0, or one short text.
    pub fn of_task(task: Task, model: &str) -> Request {
        let (path, body) = match task {
            Task::Completion => (
                "/v1/completions",
                json!({"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}),
            ),
            Task::Chat => (
                "/v1/chat/completions",
                json!({"model": model, "messages": [{"role": "user", "content": "Hello"}],
                       "max_tokens": 1, "temperature": 0}),
            ),
            Task::Embed => ("/v1/embeddings", json!({"model": model, "input": "Hello"})),
            Task::Rerank => (
                "/v1/rerank",
                json!({"model": model, "query": "Hello", "documents": ["Hello", "World"]}),
            ),
        };
        Request {
            method: Method::POST,
            path: path.to_owned(),
            body: Some(body.to_string()),
            expect: Expect::Shape(task),
        }
    }

    /// Method and path, for people.
    pub fn shown(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        format!("{} {path}", self.method)
    }
}

/// Reads the address of a runtime: `http://host:port`, without a path.
pub fn parse_base(text: &str) -> Result<Url, Unusable> {
    let unusable = || {
        Unusable(format!(
            "`{text}` is not an address of a runtime; write http://127.0.0.1:8000"
        ))
    };
    let url = Url::parse(text).map_err(|_| unusable())?;
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    // Credentials would end in the log; the key comes by WINDLASS_RUNTIME_KEY.
    if url.scheme() != "http" || !bare || !url.username().is_empty() || url.password().is_some() {
        return Err(unusable());
    }
    Ok(url)
}

/// Checks a path, which may have a query.
pub fn parse_path(text: &str) -> Result<String, Unusable> {
    let visible = text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"\"\\#<>".contains(&byte));
    if !text.starts_with('/') || text.starts_with("//") || !visible || text.len() > LONGEST_PATH {
        return Err(Unusable(format!(
            "the path of a request begins with one `/` and has at most {LONGEST_PATH} visible ASCII characters, \
             none of them # \" \\ < >"
        )));
    }
    Ok(text.to_owned())
}

/// Checks that a body is JSON.
pub fn parse_body(text: &str) -> Result<String, Unusable> {
    match serde_json::from_str::<Value>(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(Unusable(format!("the body is not JSON: {error}"))),
    }
}

/// Reads a method that is safe to repeat against a runtime.
pub fn parse_method(text: &str) -> Result<Method, Unusable> {
    match text {
        "GET" => Ok(Method::GET),
        "POST" => Ok(Method::POST),
        "PUT" => Ok(Method::PUT),
        _ => Err(Unusable(format!("`{text}` is not one of GET, POST, PUT"))),
    }
}

/// Reads an HTTP status.
pub fn parse_status(text: &str) -> Result<StatusCode, Unusable> {
    StatusCode::from_bytes(text.as_bytes())
        .map_err(|_| Unusable(format!("`{text}` is not an HTTP status; write for example 200")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_has_its_path_and_asks_for_one_token_at_most() {
        for (task, path) in [
            (Task::Completion, "/v1/completions"),
            (Task::Chat, "/v1/chat/completions"),
            (Task::Embed, "/v1/embeddings"),
            (Task::Rerank, "/v1/rerank"),
        ] {
            let request = Request::of_task(task, "a \"model\"");
            assert_eq!(request.shown(), format!("POST {path}"));
            let body: Value = serde_json::from_str(&request.body.unwrap()).unwrap();
            assert_eq!(body["model"], "a \"model\"");
            assert!(matches!(task, Task::Embed | Task::Rerank) || body["max_tokens"] == 1);
        }
    }

    #[test]
    fn a_base_is_an_http_origin_without_credentials() {
        assert_eq!(parse_base("http://127.0.0.1:8000").unwrap().port(), Some(8000));
        assert!(parse_base("http://[::1]:8000/").is_ok());
        for text in [
            "",
            "127.0.0.1:8000",
            "https://127.0.0.1",
            "http://a:b@localhost",
            "http://localhost/v1",
            "http://localhost?x",
            "file:///etc/passwd",
        ] {
            assert!(parse_base(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths_bodies_methods_and_statuses_are_checked_before_anything_is_sent() {
        assert!(parse_path("/generate?x=1").is_ok());
        for text in [
            "",
            "generate",
            "//host/x",
            "/a b",
            "/a\nb",
            "/#x",
            "/é",
            &format!("/{}", "x".repeat(600)),
        ] {
            assert!(parse_path(text).is_err(), "{text}");
        }
        assert!(parse_body("{\"a\": 1}").is_ok() && parse_body("{a: 1}").is_err());
        assert!(parse_method("POST").is_ok() && parse_method("DELETE").is_err());
        assert!(parse_status("204").is_ok() && parse_status("2xx").is_err() && parse_status("20").is_err());
    }

    #[test]
    fn a_query_is_sent_but_not_shown() {
        let mut request = Request::of_task(Task::Completion, "m");
        request.path = "/generate?key=1".into();
        assert_eq!(request.shown(), "POST /generate");
    }
}
