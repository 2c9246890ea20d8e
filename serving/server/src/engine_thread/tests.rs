//! The thread and its handle, over an engine that does what a test needs: waits, refuses, breaks.
use super::*;
use std::collections::VecDeque;
use windlass_engine::request::Sampling;

/// Repeats a sequence's last prompt token; each step waits for the test when there is a gate.
#[derive(Default)]
struct Echo {
    queue: VecDeque<(Request, usize)>,
    gate: Option<Receiver<()>>,
    steps: u64,
}

impl Backend for Echo {
    fn submit(&mut self, request: Request) -> Result<(), AdmitError> {
        if request.prompt.is_empty() {
            return Err(AdmitError::EmptyPrompt);
        }
        self.queue.push_back((request, 0));
        Ok(())
    }
    fn cancel(&mut self, id: RequestId) {
        self.queue.retain(|(request, _)| request.id != id);
    }
    fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }
    fn learn(&mut self, _: Duration) {}

    fn step(&mut self, events: &mut Vec<Event>) {
        if let Some(gate) = &self.gate {
            match gate.recv() {
                // A closed gate lets everything through.
                Ok(()) | Err(_) => {}
            }
        }
        self.steps += 1;
        for (request, done) in &mut self.queue {
            if *done == 0 {
                events.push(Event::Started {
                    id: request.id,
                    cached_tokens: 0,
                });
            }
            *done += 1;
            events.push(Event::Token {
                id: request.id,
                token: request.prompt[request.prompt.len() - 1],
                logprobs: None,
            });
            if *done == request.max_tokens {
                let usage = Usage {
                    prompt_tokens: request.prompt.len(),
                    cached_tokens: 0,
                    completion_tokens: *done,
                };
                events.push(Event::Finished {
                    id: request.id,
                    reason: FinishReason::Length,
                    usage,
                });
            }
        }
        self.queue.retain(|(request, done)| *done < request.max_tokens);
    }
    fn stats(&self) -> Stats {
        Stats {
            running: 1,
            steps: self.steps,
            ..Stats::default()
        }
    }
}

async fn engine(capacity: usize, gate: Option<Receiver<()>>) -> (EngineHandle, oneshot::Receiver<()>) {
    let load = move || {
        Ok::<_, String>((
            Echo {
                gate,
                ..Echo::default()
            },
            (),
        ))
    };
    let EngineThread { loaded, ended } = start(capacity, load).unwrap();
    (loaded.await.unwrap().unwrap().0, ended)
}

fn submit(engine: &EngineHandle, prompt: &[u32], max_tokens: usize) -> Ticket {
    let prompt = prompt.to_vec();
    let id = engine.next_id();
    let request = Request {
        id,
        prompt,
        max_tokens,
        sampling: Sampling::default(),
        ignore_eos: false,
        cache_salt: 0,
        priority: 0,
        constraint: None,
        prompt_logprobs: None,
    };
    engine.submit(request, engine.reserve(1).expect("a free place"))
}

/// Waits for a state that only the engine's thread can bring about.
async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "the state did not come");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_sequence_gets_its_tokens_and_its_end() {
    let (engine, ended) = engine(1, None).await;
    let mut ticket = submit(&engine, &[7, 9], 2);
    assert_eq!(ticket.next().await, Some(Update::Admitted));
    assert!(matches!(
        ticket.next().await,
        Some(Update::Started { cached_tokens: 0, .. })
    ));
    for _ in 0..2 {
        assert!(matches!(ticket.next().await, Some(Update::Token { token: 9, .. })));
    }
    assert!(matches!(
        ticket.next().await,
        Some(Update::Finished {
            reason: FinishReason::Length,
            ..
        })
    ));
    until(|| engine.in_flight() == 0 && engine.stats().running == 0).await;
    drop((ticket, engine));
    assert!(ended.await.is_err(), "the thread ends with its last handle");
}

#[tokio::test]
async fn a_refusal_reaches_the_caller_and_frees_the_place() {
    let (engine, _thread) = engine(1, None).await;
    let mut ticket = submit(&engine, &[], 2);
    assert_eq!(ticket.next().await, Some(Update::Refused(AdmitError::EmptyPrompt)));
    assert_eq!(ticket.next().await, None);
    until(|| engine.reserve(1).is_some()).await;
}

#[tokio::test]
async fn a_full_queue_gives_no_place_and_a_dropped_ticket_frees_one() {
    let (open, gate) = channel();
    let (engine, _thread) = engine(2, Some(gate)).await;
    assert!(engine.reserve(3).is_none());
    let first = submit(&engine, &[1], 1000);
    let _second = submit(&engine, &[1], 1000);
    assert!(engine.reserve(1).is_none());
    drop(first);
    open.send(()).unwrap(); // the step under way ends; the cancellation is seen before the next
    until(|| engine.reserve(1).is_some()).await;
    assert_eq!(engine.in_flight(), 1);
}

#[tokio::test]
async fn work_without_a_step_counts_as_a_stall_and_idleness_does_not() {
    let (open, gate) = channel();
    let (engine, _thread) = engine(1, Some(gate)).await;
    assert_eq!(engine.stalled_for(), None);
    let mut ticket = submit(&engine, &[1], 1);
    until(|| engine.stalled_for() > Some(Duration::from_millis(20))).await;
    open.send(()).unwrap();
    while ticket.next().await.is_some() {}
    assert_eq!(engine.stalled_for(), None);
}

#[tokio::test]
async fn an_engine_that_panics_closes_every_ticket() {
    struct Broken;
    impl Backend for Broken {
        fn submit(&mut self, _: Request) -> Result<(), AdmitError> {
            panic!("broken on purpose")
        }
        fn cancel(&mut self, _: RequestId) {}
        fn has_work(&self) -> bool {
            false
        }
        fn step(&mut self, _: &mut Vec<Event>) {}
        fn learn(&mut self, _: Duration) {}
        fn stats(&self) -> Stats {
            Stats::default()
        }
    }
    let EngineThread { loaded, ended } = start(1, || Ok::<_, String>((Broken, ()))).unwrap();
    let (engine, ()) = loaded.await.unwrap().unwrap();
    let mut ticket = submit(&engine, &[1], 1);
    assert_eq!(ticket.next().await, None);
    assert!(ended.await.is_err());
}

#[tokio::test]
async fn a_failure_to_load_is_reported() {
    let EngineThread { loaded, ended } = start(1, || Err::<(Echo, ()), _>("no such file")).unwrap();
    assert_eq!(loaded.await.unwrap().err(), Some("no such file"));
    assert!(ended.await.is_err());
}
