//! The server's process. All of it is in the library, so that tests reach what needs no process.
fn main() -> std::process::ExitCode {
    windlass_server::main()
}
