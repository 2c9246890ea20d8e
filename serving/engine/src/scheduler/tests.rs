//! The scheduler against a model that is a function of the tokens so far: what it computes may depend on
//! nothing else, and its books must balance after every step.
use proptest::prelude::*;

use super::*;
use crate::request::Sampling;

fn limits(context: usize, sequences: usize, batch_tokens: usize) -> Limits {
    Limits {
        context,
        sequences,
        batch_tokens,
        block_tokens: 4,
    }
}

fn request(id: u64, prompt: Vec<u32>, max_tokens: usize) -> Request {
    Request {
        id: RequestId(id),
        prompt,
        max_tokens,
        sampling: Sampling::default(),
        ignore_eos: true,
        cache_salt: 0,
    }
}

/// The next token of a sequence, whatever else runs.
fn next_token(tokens: &[u32]) -> u32 {
    tokens.iter().fold(7, |state, token| (state * 31 + token) % 50)
}

/// Plans and commits one step; finished sequences go to `done`.
fn step(scheduler: &mut Scheduler, plan: &mut Vec<Work>, done: &mut Vec<(u64, Vec<u32>)>) {
    scheduler.plan(plan);
    let tokens: usize = plan.iter().map(|work| work.count).sum();
    assert!(tokens <= scheduler.limits.batch_tokens, "over budget");
    assert!(!plan.is_empty(), "a step without work, and {} live", scheduler.len());
    let planned: Vec<usize> = plan.iter().map(|work| work.index).collect();
    assert_eq!(
        planned,
        (0..scheduler.running.len()).collect::<Vec<_>>(),
        "a runner stands still"
    );
    let mut finished = Vec::new();
    for work in plan.iter() {
        let sequence = scheduler.running_mut(work.index);
        assert!(sequence.table.blocks().len() * 4 >= sequence.computed + work.count);
        sequence.started = true;
        sequence.advance(work.count);
        if sequence.need() == 0 {
            let token = next_token(&sequence.tokens);
            sequence.push(token);
            if sequence.tokens.len() >= sequence.limit {
                done.push((sequence.request.id.0, sequence.tokens.clone()));
                finished.push(work.index);
            }
        }
    }
    scheduler.remove(&finished);
    let held: usize = scheduler.running.iter().map(|s| s.table.blocks().len()).sum();
    assert_eq!(
        scheduler.pool.borrow().checked_holders(),
        held,
        "blocks and tables disagree"
    );
    assert!(scheduler.waiting.iter().all(|s| s.table.blocks().is_empty()));
}

fn run_all(mut scheduler: Scheduler, requests: &[(Vec<u32>, usize)]) -> (Vec<(u64, Vec<u32>)>, u64) {
    for (id, (prompt, max_tokens)) in requests.iter().enumerate() {
        scheduler.add(request(id as u64, prompt.clone(), *max_tokens));
    }
    let (mut plan, mut done) = (Vec::new(), Vec::new());
    while scheduler.len() > 0 {
        step(&mut scheduler, &mut plan, &mut done);
    }
    assert_eq!(scheduler.blocks().0, 0, "blocks leaked");
    done.sort();
    (done, scheduler.counters().0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_request_gets_its_own_tokens_whatever_else_runs(
        requests in prop::collection::vec((prop::collection::vec(0u32..3, 1..20), 1usize..12), 1..12),
        sequences in 1usize..5,
        extra in 0usize..9,
        blocks in 8u32..20,
    ) {
        let scheduler = Scheduler::new(limits(32, sequences, sequences + extra), blocks);
        let (done, _) = run_all(scheduler, &requests);
        let alone: Vec<(u64, Vec<u32>)> = requests.iter().enumerate().map(|(id, (prompt, max_tokens))| {
            let mut tokens = prompt.clone();
            while tokens.len() < (prompt.len() + max_tokens).min(32) {
                tokens.push(next_token(&tokens));
            }
            (id as u64, tokens)
        }).collect();
        prop_assert_eq!(done, alone);
    }
}

#[test]
fn without_blocks_the_newest_is_computed_again_and_still_gets_the_same_tokens() {
    let requests: Vec<_> = (0..4).map(|i| (vec![i; 5], 20)).collect();
    let (tight, preemptions) = run_all(Scheduler::new(limits(32, 4, 16), 8), &requests);
    let (roomy, none) = run_all(Scheduler::new(limits(32, 4, 16), 64), &requests);
    assert_eq!(tight, roomy);
    assert!(preemptions > 0);
    assert_eq!(none, 0);
}

#[test]
fn a_prefix_that_somebody_computes_is_waited_for_and_then_shared() {
    let mut scheduler = Scheduler::new(limits(64, 4, 16), 32);
    let prompt: Vec<u32> = (0..17).collect();
    scheduler.add(request(0, prompt.clone(), 8));
    scheduler.add(request(1, prompt, 8));
    let (mut plan, mut done) = (Vec::new(), Vec::new());
    step(&mut scheduler, &mut plan, &mut done);
    assert_eq!(plan, [Work { index: 0, count: 16 }]);
    step(&mut scheduler, &mut plan, &mut done);
    assert_eq!(plan, [Work { index: 0, count: 1 }, Work { index: 1, count: 1 }]);
    assert_eq!(scheduler.running()[1].cached, 16);
    assert_eq!(scheduler.counters(), (0, 34, 16));
}

#[test]
fn another_salt_shares_nothing() {
    let mut scheduler = Scheduler::new(limits(64, 4, 64), 32);
    let prompt: Vec<u32> = (0..17).collect();
    scheduler.add(request(0, prompt.clone(), 8));
    let mut stranger = request(1, prompt, 8);
    stranger.cache_salt = 1;
    scheduler.add(stranger);
    let (mut plan, mut done) = (Vec::new(), Vec::new());
    step(&mut scheduler, &mut plan, &mut done);
    assert_eq!(plan, [Work { index: 0, count: 17 }, Work { index: 1, count: 17 }]);
}

#[test]
fn a_cancelled_request_frees_its_blocks_in_either_queue() {
    let mut scheduler = Scheduler::new(limits(32, 1, 16), 8);
    scheduler.add(request(0, vec![1; 9], 8));
    scheduler.add(request(1, vec![2; 9], 8));
    step(&mut scheduler, &mut Vec::new(), &mut Vec::new());
    assert!(scheduler.blocks().0 > 0);
    assert!(scheduler.cancel(RequestId(1)) && scheduler.cancel(RequestId(0)) && !scheduler.cancel(RequestId(0)));
    assert_eq!((scheduler.len(), scheduler.blocks().0), (0, 0));
}
