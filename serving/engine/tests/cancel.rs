//! A cancelled request leaves nothing: no block, no sequence, no memory. Alone in its process, because it measures it.
mod support;

use std::io::Write as _;

use support::gguf::tiny_llama;
use windlass_engine::Engine;
use windlass_engine::request::{EngineOptions, Event, FinishReason, KvType, Request, RequestId, Sampling};

const REQUESTS: u64 = 10_000;
/// Bytes that the second half of them may add to the process: allocators round, and tables grow by doubling.
const GROWTH: u64 = 1 << 20;

/// Deterministic and good enough for choices (Knuth's MMIX generator).
struct Choices(u64);

impl Choices {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn engine() -> Engine {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(&tiny_llama().bytes()).expect("written");
    let options = EngineOptions {
        threads: 2,
        context_length: Some(64),
        max_sequences: 4,
        max_batch_tokens: 24,
        memory_limit: None,
        block_tokens: 8,
        kv_type: KvType::F16,
        speculate: 0,
        pacing: None,
    };
    Engine::load(file.path(), &options).expect("a good file")
}

fn request(id: u64, prompt: Vec<u32>, max_tokens: usize) -> Request {
    let sampling = Sampling {
        temperature: (id % 2) as f32,
        top_p: 0.9,
        top_k: 0,
        seed: id,
        ..Sampling::default()
    };
    Request {
        id: RequestId(id),
        prompt,
        max_tokens,
        sampling,
        ignore_eos: true,
        cache_salt: id % 3,
        priority: 0,
        constraint: None,
        prompt_logprobs: None,
    }
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    let kilobytes = line.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok());
    kilobytes.expect("a number") << 10
}

#[test]
fn ten_thousand_requests_cancelled_at_any_point_leave_nothing() {
    let mut engine = engine();
    let mut choices = Choices(1);
    let (mut live, mut events) = (Vec::new(), Vec::new());
    let (mut cancelled, mut finished, mut at_half) = (0, 0, 0);
    for id in 0..REQUESTS {
        // Few prompts with long common beginnings, so that prefixes are shared, waited for and evicted.
        let (kind, length) = (choices.below(4) as u32, 1 + choices.below(50) as usize);
        let prompt = (0..length as u32).map(|at| (at * 7 + kind) % 256).collect();
        engine
            .submit(request(id, prompt, 1 + choices.below(30) as usize))
            .expect("it fits");
        live.push(RequestId(id));
        while live.len() > choices.below(12) as usize {
            match choices.below(3) {
                0 => {
                    let victim = live.swap_remove(choices.below(live.len() as u64) as usize);
                    assert!(engine.cancel(victim), "{victim:?} was not there");
                    cancelled += 1;
                }
                _ => engine.step(&mut events),
            }
            for event in events.drain(..) {
                if let Event::Finished { id, reason, .. } = event {
                    assert_eq!(reason, FinishReason::Length);
                    live.retain(|known| *known != id);
                    finished += 1;
                }
            }
        }
        if id == REQUESTS / 2 {
            at_half = resident();
        }
    }
    let growth = resident().saturating_sub(at_half);
    assert!(growth <= GROWTH, "{growth} bytes more for the second half");
    for id in live.drain(..) {
        assert!(engine.cancel(id));
        cancelled += 1;
    }
    assert_eq!(cancelled + finished, REQUESTS);
    assert!(
        cancelled > 2000 && finished > 500,
        "{cancelled} cancelled, {finished} finished"
    );

    let stats = engine.stats();
    assert!(!engine.has_work());
    assert_eq!((stats.waiting, stats.blocks_used), (0, 0));
    assert!(
        stats.preemptions + stats.prefix_hits > 0,
        "the hard cases did not occur: {stats:?}"
    );
    // Free means free: as many sequences as there are places grow to the full context, and get every block.
    let prompts = (0..4).map(|kind| (0..4).map(|at| (at * 11 + kind) % 256).collect::<Vec<u32>>());
    for (id, prompt) in (REQUESTS..).zip(prompts) {
        engine.submit(request(id, prompt, 60)).expect("it fits");
    }
    let before = engine.stats().preemptions;
    let mut most = 0;
    while engine.has_work() {
        engine.step(&mut events);
        most = most.max(engine.stats().blocks_used);
    }
    assert_eq!((most, engine.stats().preemptions), (stats.blocks_total, before));
}
