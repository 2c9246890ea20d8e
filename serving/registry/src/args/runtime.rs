//! The flags of `verify-runtime`.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, ValueEnum};
use reqwest::{Method, StatusCode, Url};
use windlass_registry::patience::parse_duration;
use windlass_registry::runtime::request::{
    Expect, Request, Task, parse_base, parse_body, parse_method, parse_path, parse_status,
};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["task", "path"]).required(true))]
pub struct VerifyRuntimeArgs {
    /// Where the runtime listens in this pod
    #[arg(long, env = "WINDLASS_RUNTIME_URL", value_name = "URL", default_value = "http://127.0.0.1:8000",
          value_parser = parse_base)]
    pub runtime_url: Url,
    /// The runtime's own health path; the request is sent once it answers 200
    #[arg(long, env = "WINDLASS_HEALTH_PATH", value_name = "PATH", default_value = "/health", value_parser = parse_path)]
    pub health_path: String,
    /// Where GET /ready and GET /progress are answered
    #[arg(long, env = "WINDLASS_LISTEN", value_name = "ADDR", default_value = "[::]:8082")]
    pub listen: SocketAddr,
    /// What the runtime is for: a smallest request of this task is sent, and the shape of the answer is checked
    #[arg(long, env = "WINDLASS_TASK", value_enum, requires = "model")]
    pub task: Option<TaskArg>,
    /// The name under which the runtime serves its model
    #[arg(long, env = "WINDLASS_MODEL", value_name = "NAME")]
    pub model: Option<String>,
    /// Instead of a task: the path of a request of your own
    #[arg(long, env = "WINDLASS_PATH", value_name = "PATH", value_parser = parse_path)]
    pub path: Option<String>,
    /// The request's body
    #[arg(long, env = "WINDLASS_BODY", value_name = "JSON", value_parser = parse_body, conflicts_with = "task")]
    pub body: Option<String>,
    /// GET, POST or PUT; by default GET without a body, else POST
    #[arg(long, env = "WINDLASS_METHOD", value_name = "METHOD", value_parser = parse_method, conflicts_with = "task")]
    pub method: Option<Method>,
    /// The status of a right answer
    #[arg(long, env = "WINDLASS_EXPECT_STATUS", value_name = "STATUS", default_value = "200",
          value_parser = parse_status)]
    pub expect_status: StatusCode,
    /// How long one answer may take; a first request may compile for minutes
    #[arg(long, env = "WINDLASS_TIMEOUT", default_value = "120s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Between attempts, and between health checks once the runtime is verified
    #[arg(long, env = "WINDLASS_PERIOD", default_value = "2s", value_parser = parse_duration)]
    pub period: Duration,
    /// Refusals in a row after which the command fails
    #[arg(long, env = "WINDLASS_FAILURE_THRESHOLD", value_name = "COUNT", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub failure_threshold: u32,
    /// Write the report here as JSON when the runtime is refused, at most 4096 bytes (a pod's /dev/termination-log)
    #[arg(long, env = "WINDLASS_REPORT", value_name = "FILE")]
    pub report: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TaskArg {
    Completion,
    Chat,
    Embed,
    Rerank,
}

impl VerifyRuntimeArgs {
    /// The request that these flags mean.
    pub fn request(&self) -> Request {
        let model = self.model.as_deref().unwrap_or_default();
        match self.task {
            Some(TaskArg::Completion) => Request::of_task(Task::Completion, model),
            Some(TaskArg::Chat) => Request::of_task(Task::Chat, model),
            Some(TaskArg::Embed) => Request::of_task(Task::Embed, model),
            Some(TaskArg::Rerank) => Request::of_task(Task::Rerank, model),
            None => {
                let implied = if self.body.is_some() { Method::POST } else { Method::GET };
                Request {
                    method: self.method.clone().unwrap_or(implied),
                    path: self.path.clone().unwrap_or_default(),
                    body: self.body.clone(),
                    expect: Expect::Status(self.expect_status),
                }
            }
        }
    }
}
