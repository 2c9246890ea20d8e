//! Which tests may run at the same time. Tests of one process share one cluster: some need the installed
//! operator, some need it away because they start their own, and some need the cluster for themselves.
//! First come, first served: a test that waits for the cluster alone is not overtaken for ever.
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What a test needs of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// The operator that the chart installed, running.
    Installed,
    /// The installed operator stopped: the test starts operators of its own, each for its namespace.
    Own,
    /// The installed operator, and nobody else: the test takes nodes or the chart away.
    InstalledAlone,
    /// Operators of its own, and nobody else.
    OwnAlone,
}

impl Needs {
    /// True where the installed operator has to run.
    pub fn installed(self) -> bool {
        matches!(self, Self::Installed | Self::InstalledAlone)
    }

    fn alone(self) -> bool {
        matches!(self, Self::InstalledAlone | Self::OwnAlone)
    }
}

/// Lets tests pass according to what they need.
pub struct Turnstile {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next_ticket: u64,
    waiting: VecDeque<u64>,
    inside: Vec<Needs>,
}

/// Permission to run; given back on drop.
pub struct Pass<'a> {
    turnstile: &'a Turnstile,
    needs: Needs,
}

impl Turnstile {
    /// Nobody inside.
    pub const fn new() -> Self {
        let state = State {
            next_ticket: 0,
            waiting: VecDeque::new(),
            inside: Vec::new(),
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Blocks until everybody inside can bear a test with these needs.
    pub fn enter(&self, needs: Needs) -> Pass<'_> {
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push_back(ticket);
        while state.waiting.front() != Some(&ticket) || !state.admits(needs) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting.pop_front();
        state.inside.push(needs);
        self.changed.notify_all();
        Pass { turnstile: self, needs }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Turnstile {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn admits(&self, needs: Needs) -> bool {
        let same = self
            .inside
            .iter()
            .all(|other| other.installed() == needs.installed() && !other.alone());
        same && (!needs.alone() || self.inside.is_empty())
    }
}

impl Pass<'_> {
    /// True while no other test is inside.
    pub fn is_last(&self) -> bool {
        self.turnstile.lock().inside.len() == 1
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut state = self.turnstile.lock();
        if let Some(at) = state.inside.iter().position(|other| *other == self.needs) {
            state.inside.swap_remove(at);
        }
        self.turnstile.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(needs: &[Needs]) -> State {
        State {
            inside: needs.to_vec(),
            ..State::default()
        }
    }

    #[test]
    fn tests_with_the_same_needs_run_together() {
        assert!(inside(&[Needs::Own, Needs::Own]).admits(Needs::Own));
        assert!(inside(&[Needs::Installed]).admits(Needs::Installed));
    }

    #[test]
    fn the_installed_operator_and_own_ones_never_meet() {
        assert!(!inside(&[Needs::Own]).admits(Needs::Installed));
        assert!(!inside(&[Needs::Installed]).admits(Needs::Own));
    }

    #[test]
    fn a_test_that_needs_the_cluster_alone_gets_it() {
        assert!(inside(&[]).admits(Needs::OwnAlone));
        assert!(!inside(&[Needs::Own]).admits(Needs::OwnAlone));
        assert!(!inside(&[Needs::OwnAlone]).admits(Needs::Own));
    }

    #[test]
    fn a_waiting_test_is_not_overtaken() {
        static GATE: Turnstile = Turnstile::new();
        let first = GATE.enter(Needs::Own);
        let (sender, order) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let alone = sender.clone();
            scope.spawn(move || {
                let pass = GATE.enter(Needs::OwnAlone);
                alone.send("alone").unwrap();
                drop(pass);
            });
            // The second one comes when the first one waits for certain.
            while GATE.lock().waiting.is_empty() {
                std::thread::yield_now();
            }
            scope.spawn(move || {
                let pass = GATE.enter(Needs::Own);
                sender.send("together").unwrap();
                drop(pass);
            });
            while GATE.lock().waiting.len() < 2 {
                std::thread::yield_now();
            }
            drop(first);
        });
        assert_eq!(order.iter().collect::<Vec<_>>(), ["alone", "together"]);
    }
}
