//! Where templates run: on a stack that is large enough for what the limits of `depth` leave, and for a bounded time.
use std::io;
use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
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
pub struct Limited<T> {
    left: Mutex<Vec<JoinHandle<T>>>,
}

impl<T> Default for Limited<T> {
    fn default() -> Self {
        Self { left: Mutex::default() }
    }
}

impl<T: Send + 'static> Limited<T> {
    /// What `work` returns, or nothing if it takes longer than `limit` or an earlier one still does.
    ///
    /// # Errors
    /// If the system starts no thread.
    pub fn run(&self, limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> io::Result<Option<T>> {
        if self.is_stuck() {
            return Ok(None);
        }
        // Nothing is sent: the thread's end, a panic too, closes the channel.
        let (open, closed) = channel::<()>();
        let thread = builder().spawn(move || {
            let _open = open;
            work()
        })?;
        if closed.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            self.threads().push(thread);
            return Ok(None);
        }
        Ok(Some(thread.join().unwrap_or_else(|panic| resume_unwind(panic))))
    }

    fn is_stuck(&self) -> bool {
        let mut left = self.threads();
        left.retain(|thread| !thread.is_finished());
        !left.is_empty()
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<T>>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
