//! A client inside the cluster: a pod with curl and a shell in the test's namespace, driven by `kubectl exec`.
//! What it reaches, another pod would reach: cluster DNS, Service addresses, the node's network rules.
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::space::Space;
use crate::until::until_is;

const POD: &str = "client";

/// The running client pod.
pub struct Inside {
    kubeconfig: std::path::PathBuf,
    namespace: String,
}

/// An HTTP answer as curl saw it.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code; 0 when there was no answer.
    pub status: u16,
    /// The whole body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("status {}, body {:?}", self.status, self.body))
    }

    /// The text of a streamed answer, its parts joined. Fails unless the stream ends as the OpenAI API says.
    pub fn streamed_text(&self) -> Result<String> {
        ensure!(self.status == 200, "status {}: {}", self.status, self.body);
        let events: Vec<&str> = self
            .body
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .collect();
        let Some((last, events)) = events.split_last() else {
            anyhow::bail!("no events in {:?}", self.body)
        };
        ensure!(*last == "[DONE]", "the stream ended with {last:?}");
        let mut text = String::new();
        for event in events {
            let event: Value = serde_json::from_str(event).with_context(|| format!("event {event:?}"))?;
            for pointer in ["/choices/0/delta/content", "/choices/0/text"] {
                text.push_str(event.pointer(pointer).and_then(Value::as_str).unwrap_or_default());
            }
        }
        Ok(text)
    }
}

impl Inside {
    /// Starts the pod unless it is there, and waits until it runs.
    pub(crate) async fn start(space: &Space) -> Result<Self> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": POD},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
                "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": POD,
                    "image": space.env.image("client")?,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["tail", "-f", "/dev/null"],
                    "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "work", "mountPath": "/work"}],
                }],
                "volumes": [{"name": "work", "emptyDir": {}}],
            },
        }))?;
        space.apply(&pod).await?;
        until_is(
            &space.api::<Pod>(),
            POD,
            "the client pod to run",
            Duration::from_secs(60),
            |pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running"),
        )
        .await?;
        Ok(Self {
            kubeconfig: space.env.kubeconfig.clone(),
            namespace: space.namespace.clone(),
        })
    }

    /// `GET` of a URL.
    pub async fn get(&self, url: &str) -> Result<Answer> {
        self.curl(&[url]).await
    }

    /// `POST` of JSON to a URL.
    pub async fn post(&self, url: &str, body: &Value) -> Result<Answer> {
        self.curl(&[
            "-H",
            "Content-Type: application/json",
            "--data-binary",
            &body.to_string(),
            url,
        ])
        .await
    }

    async fn curl(&self, arguments: &[&str]) -> Result<Answer> {
        let mut command = self.exec(&["curl", "-sS", "-N", "--max-time", "120", "-w", "\n%{http_code}"]);
        let output = command.args(arguments).output().await?;
        let text = String::from_utf8(output.stdout)?;
        let (body, status) = text.rsplit_once('\n').with_context(|| {
            format!(
                "curl {arguments:?} printed nothing: {}",
                String::from_utf8_lossy(&output.stderr)
            )
        })?;
        let status = status.parse().with_context(|| format!("curl's status {status:?}"))?;
        ensure!(
            status != 0,
            "curl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(Answer {
            status,
            body: body.to_owned(),
        })
    }

    /// Copies an executable into the pod, to `/work/<name>`.
    pub async fn install(&self, name: &str, executable: &std::path::Path) -> Result<()> {
        let file = std::fs::File::open(executable).with_context(|| {
            format!(
                "opening {}: `cargo build -p windlass-e2e` makes it",
                executable.display()
            )
        })?;
        let script = format!("cat > /work/{name} && chmod +x /work/{name}");
        let output = self
            .exec_with(true, &["sh", "-c", &script])
            .stdin(file)
            .output()
            .await?;
        ensure!(
            output.status.success(),
            "copying {name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Starts a program in the pod with its stdin and stdout at hand.
    pub fn spawn(&self, command: &[&str]) -> Result<Child> {
        let mut command = self.exec_with(true, command);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        command.spawn().context("starting kubectl exec")
    }

    fn exec(&self, command: &[&str]) -> Command {
        self.exec_with(false, command)
    }

    fn exec_with(&self, stdin: bool, command: &[&str]) -> Command {
        let mut kubectl = Command::new("kubectl");
        kubectl
            .env("KUBECONFIG", &self.kubeconfig)
            .args(["--namespace", &self.namespace, "exec"]);
        if stdin {
            kubectl.arg("--stdin");
        }
        kubectl.args([POD, "--"]).args(command).kill_on_drop(true);
        kubectl
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_without_its_end_is_no_answer() {
        let whole =
            "data: {\"choices\":[{\"text\":\"a\"}]}\n\ndata: {\"choices\":[{\"text\":\"b\"}]}\n\ndata: [DONE]\n";
        let answer = Answer {
            status: 200,
            body: whole.into(),
        };
        assert_eq!(answer.streamed_text().unwrap(), "ab");
        let cut = Answer {
            status: 200,
            body: whole.replace("data: [DONE]\n", ""),
        };
        assert!(cut.streamed_text().is_err());
    }
}
