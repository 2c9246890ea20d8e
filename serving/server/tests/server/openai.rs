//! OpenAI's own Python client against the server. The client is installed by name, once for each version and each
//! Python, into the cache beside the models; nothing of the system's Python changes.
use crate::cache::cache;
use crate::process::Server;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const VERSION: &str = "3.57.0";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/openai_client.py");

#[test]
fn openais_own_client_can_use_every_endpoint_and_parameter() {
    check(&Server::start(&["--context-length", "2048"]), &[]);
}

#[test]
fn openais_own_client_lets_a_model_that_can_fill_the_middle_of_a_text_and_call_functions() {
    let model = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf";
    check(
        &Server::start_with(model, &["--context-length", "1024"]),
        &["fill", "functions"],
    );
}

/// Runs the script's checks of these names, or those for every model.
fn check(server: &Server, names: &[&str]) {
    let mut python = Command::new("python3");
    python
        .arg(SCRIPT)
        .arg(format!("http://{}/v1", server.address))
        .args(names)
        .env("PYTHONPATH", client())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1");
    let said = run(&mut python, "the client's checks fail");
    assert!(said.starts_with(&format!("openai {VERSION}")), "{said}");
}

/// The folder with the client, filled if it is not there.
fn client() -> PathBuf {
    let version = "import sys; print('%s-%d.%d' % ((sys.implementation.name,) + sys.version_info[:2]))";
    let python = run(Command::new("python3").args(["-c", version]), "python3 does not run");
    let tools = cache().join("tools");
    let folder = tools.join(format!("openai-{VERSION}-{}", python.trim()));
    if !folder.exists() {
        install(&tools, &folder);
    }
    folder
}

/// Fills a folder of its own and gives it the name at the end, so that no other test sees half of it.
fn install(tools: &Path, folder: &Path) {
    std::fs::create_dir_all(tools).expect("the cache can be written");
    let new = tempfile::tempdir_in(tools).expect("the cache can be written");
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--target",
    ])
    .arg(new.path())
    .arg(format!("openai=={VERSION}"));
    run(
        &mut pip,
        "the client cannot be installed: this test needs python3 with pip, and PyPI or a mirror",
    );
    let new = new.keep();
    if std::fs::rename(&new, folder).is_err() {
        // Another run was faster, and its folder is as good.
        std::fs::remove_dir_all(&new).expect("the cache can be written");
        assert!(folder.exists(), "{} cannot be made", folder.display());
    }
}

/// What a command that must succeed says.
fn run(command: &mut Command, otherwise: &str) -> String {
    let Output { status, stdout, stderr } = match command.output() {
        Ok(output) => output,
        Err(error) => panic!("{otherwise}: {command:?}: {error}"),
    };
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{otherwise}: {command:?}: {status}\n{stderr}");
    String::from_utf8(stdout).expect("UTF-8")
}
