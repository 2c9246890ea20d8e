//! A thread that loads a model and then serves it, as its owner sees it: what was loaded, and that the thread has ended.
use tokio::sync::oneshot;

/// The started thread.
#[derive(Debug)]
pub struct ModelThread<T, E> {
    /// The result of loading, once; an error of receiving when the thread panicked before.
    pub loaded: oneshot::Receiver<Result<T, E>>,
    /// Resolves, always to an error of receiving, when the thread has ended for whatever reason.
    pub ended: oneshot::Receiver<()>,
}

/// Starts the thread. `load` runs on it and gives what the owner needs, and what the thread then does until its end.
pub fn start<T, E, F>(
    name: &str,
    load: impl FnOnce() -> Result<(T, F), E> + Send + 'static,
) -> std::io::Result<ModelThread<T, E>>
where
    T: Send + 'static,
    E: Send + 'static,
    F: FnOnce(),
{
    let (report, loaded) = oneshot::channel();
    let (alive, ended) = oneshot::channel::<()>();
    let body = move || {
        let _alive = alive; // dropped at the end of the thread, also by a panic
        // When nobody waits for the result any more, the process is about to end.
        match load() {
            Ok((parts, serve)) => {
                drop(report.send(Ok(parts)));
                serve();
            }
            Err(error) => drop(report.send(Err(error))),
        }
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
    Ok(ModelThread { loaded, ended })
}
