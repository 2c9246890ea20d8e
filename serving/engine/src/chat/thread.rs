//! Where templates run: on a stack that is large enough for what the limits of `depth` leave, and for a bounded time.
use std::io;
use std::panic::resume_unwind;
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread::{Builder, JoinHandle, scope};
use std::time::Duration;

/// Bytes of stack. The worst that the limits leave is a recursion of 150 levels that each wrap a value 512 times; a
/// level takes less than a kilobyte. Only what is used is ever backed by memory.
const STACK: usize = 128 << 20;

fn builder() -> Builder {
    Builder::new().name("template".into()).stack_size(STACK)
}

/// Runs `work`, which ends by itself.
///
/// # Errors
/// If the system starts no thread.
pub fn with_stack<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    scope(|scope| {
        let thread = builder().spawn_scoped(scope, work)?;
        Ok(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// Runs what may not end: fuel counts what a template does, but not how far an operation has to look (two lists that
/// hold a list a thousand times, which holds a list a thousand times, are compared in one step). A thread cannot be
/// ended from outside, so one that takes too long is left alone, and nothing runs beside it.
#[derive(Default)]
pub struct Limited {
    left: Mutex<Vec<JoinHandle<()>>>,
}

impl Limited {
    /// What `work` returns, or nothing if it takes longer than `limit` or an earlier one still does.
    ///
    /// # Errors
    /// If the system starts no thread.
    pub fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Option<T>> {
        if self.is_stuck() {
            return Ok(None);
        }
        let (done, result) = sync_channel(1);
        let thread = builder().spawn(move || {
            // If this fails, nobody waits for it any more.
            done.send(work()).ok();
        })?;
        match result.recv_timeout(limit) {
            Ok(result) => {
                // It has nothing left to do but to give its stack back.
                thread.join().unwrap_or_else(|panic| resume_unwind(panic));
                Ok(Some(result))
            }
            Err(RecvTimeoutError::Disconnected) => match thread.join() {
                Err(panic) => resume_unwind(panic),
                Ok(()) => Ok(None),
            },
            Err(RecvTimeoutError::Timeout) => {
                self.threads().push(thread);
                Ok(None)
            }
        }
    }

    fn is_stuck(&self) -> bool {
        let mut left = self.threads();
        left.retain(|thread| !thread.is_finished());
        !left.is_empty()
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.left.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
