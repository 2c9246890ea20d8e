//! The scheduler against a model that is a function of the tokens so far: what it computes may depend on
//! nothing else, and its books must balance after every step.
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn limits(context: usize, sequences: usize, batch_tokens: usize) -> Limits {
    Limits {
        context,
        sequences,
        batch_tokens,
        block_tokens: 4,
        step_time: None,
        speculate: 0,
    }
}

fn request(id: u64, prompt: Vec<u32>, max_tokens: usize) -> Request {
    Request {
        ignore_eos: true,
        ..Request::new(RequestId(id), prompt, max_tokens)
    }
}

fn paced(step_millis: u64, limits: Limits) -> Limits {
    let step_time = Some(Duration::from_millis(step_millis));
    Limits { step_time, ..limits }
}

/// A machine that takes 1 ms a token and nothing else.
fn millisecond_a_token() -> Pace {
    let mut pace = Pace::default();
    for tokens in [1, 8, 64].into_iter().cycle().take(600) {
        let load = Load { tokens, pairs: 0 };
        pace.learn(load, Duration::from_millis(tokens as u64));
    }
    pace
}

/// The next token of a sequence, whatever else runs.
fn next_token(tokens: &[u32]) -> u32 {
    tokens.iter().fold(7, |state, token| (state * 31 + token) % 50)
}

/// Plans and commits one step; finished sequences go to `done`.
fn step(scheduler: &mut Scheduler, plan: &mut Vec<Work>, done: &mut Vec<(u64, Vec<u32>)>) {
    paced_step(scheduler, &Pace::default(), plan, done);
}

fn paced_step(scheduler: &mut Scheduler, pace: &Pace, plan: &mut Vec<Work>, done: &mut Vec<(u64, Vec<u32>)>) {
    scheduler.plan(plan, pace);
    let tokens: usize = plan.iter().map(|work| work.count).sum();
    assert!(tokens <= scheduler.limits.batch_tokens, "over budget");
    assert!(!plan.is_empty(), "a step without work, and {} live", scheduler.len());
    let planned: Vec<usize> = plan.iter().map(|work| work.index).collect();
    assert_eq!(
        planned,
        (0..scheduler.running.len()).collect::<Vec<_>>(),
        "a runner stands still"
    );
    let outputs = plan
        .iter()
        .map(|work| scheduler.running[work.index].outputs(work.count));
    assert!(
        outputs.sum::<usize>() <= scheduler.limits.outputs(),
        "more outputs than there is room for"
    );
    let mut finished = Vec::new();
    for work in plan.iter() {
        let sequence = scheduler.running_mut(work.index);
        if sequence.scores() {
            assert!(sequence.computed <= sequence.scored, "tokens without logits");
            let scored = (sequence.computed + work.count).min(sequence.prompt_tokens - 1);
            sequence.scored = scored.max(sequence.scored);
        }
        assert!(sequence.table.blocks().len() * 4 >= sequence.computed + work.count);
        sequence.started = true;
        sequence.advance(work.count);
        if sequence.need() == 0 {
            assert!(!sequence.scores(), "an answer before its prompt's probabilities");
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

fn run_all(scheduler: Scheduler, requests: &[(Vec<u32>, usize)]) -> (Vec<(u64, Vec<u32>)>, u64) {
    let requests = requests.iter().enumerate();
    let requests = requests.map(|(id, (prompt, max_tokens))| request(id as u64, prompt.clone(), *max_tokens));
    run_paced(scheduler, &Pace::default(), requests)
}

fn run_paced(
    mut scheduler: Scheduler,
    pace: &Pace,
    requests: impl Iterator<Item = Request>,
) -> (Vec<(u64, Vec<u32>)>, u64) {
    requests.for_each(|request| scheduler.add(request));
    let (mut plan, mut done) = (Vec::new(), Vec::new());
    while scheduler.len() > 0 {
        paced_step(&mut scheduler, pace, &mut plan, &mut done);
    }
    assert_eq!(scheduler.blocks().0, 0, "blocks leaked");
    done.sort();
    (done, scheduler.counters().0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_request_gets_its_own_tokens_whatever_else_runs(
        requests in prop::collection::vec((prop::collection::vec(0u32..3, 1..28), 1usize..12, 0i32..3), 1..12),
        scored in prop::collection::vec(any::<bool>(), 12),
        sequences in 1usize..5,
        extra in 0usize..9,
        blocks in 8u32..20,
        step_millis in 0u64..20,
    ) {
        let limits = paced(step_millis, limits(32, sequences, sequences + extra));
        let all = (0..).zip(&requests).map(|(id, (prompt, max_tokens, priority))| Request {
            priority: *priority,
            prompt_logprobs: scored[id as usize].then_some(1),
            ..request(id, prompt.clone(), *max_tokens)
        });
        let (done, _) = run_paced(Scheduler::new(limits, blocks), &millisecond_a_token(), all);
        let alone: Vec<(u64, Vec<u32>)> = requests.iter().enumerate().map(|(id, (prompt, max_tokens, _))| {
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
fn a_prompt_of_which_all_logits_are_wanted_takes_nothing_from_the_cache_and_few_rows_a_step() {
    let mut scheduler = Scheduler::new(limits(64, 4, 64), 32);
    let prompt: Vec<u32> = (0..33).collect();
    let (mut plan, mut done) = (Vec::new(), Vec::new());
    scheduler.add(request(0, prompt.clone(), 8));
    step(&mut scheduler, &mut plan, &mut done);
    for id in [1, 2] {
        scheduler.add(Request {
            prompt_logprobs: Some(1),
            ..request(id, prompt.clone(), 8)
        });
    }
    let mut steps = Vec::new();
    while scheduler.running().len() < 3 || scheduler.running()[2].scores() {
        step(&mut scheduler, &mut plan, &mut done);
        steps.push(plan.iter().map(|work| work.count).collect::<Vec<_>>());
    }
    assert_eq!(steps, [[1, 16, 1], [1, 16, 1], [1, 1, 16], [1, 1, 15]]);
    assert_eq!(scheduler.running()[2].cached, 0);
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

#[test]
fn a_prompt_beside_answers_is_read_in_parts_that_fit_into_the_time_of_a_step() {
    let limits = paced(20, limits(128, 4, 64));
    let (mut scheduler, pace) = (Scheduler::new(limits, 64), millisecond_a_token());
    let (mut plan, mut done) = (Vec::new(), Vec::new());
    scheduler.add(request(0, (0..60).collect(), 30));
    paced_step(&mut scheduler, &pace, &mut plan, &mut done);
    assert_eq!(plan, [Work { index: 0, count: 60 }], "nobody waits for a token yet");
    scheduler.add(request(1, (100..160).collect(), 30));
    let mut read = 0;
    while read < 60 {
        paced_step(&mut scheduler, &pace, &mut plan, &mut done);
        let parts: Vec<usize> = plan.iter().map(|work| work.count).collect();
        assert!(
            matches!(parts[..], [1, chunk] if chunk <= 19 && (chunk >= 16 || read + chunk == 60)),
            "{parts:?}"
        );
        read += parts[1];
    }
}

#[test]
fn answers_that_fill_the_time_alone_leave_a_prompt_twice_as_much() {
    let limits = paced(1, limits(128, 9, 64));
    let (mut scheduler, pace) = (Scheduler::new(limits, 256), millisecond_a_token());
    let (mut plan, mut done) = (Vec::new(), Vec::new());
    (0..8).for_each(|id| scheduler.add(request(id, vec![id as u32; 4], 60)));
    paced_step(&mut scheduler, &pace, &mut plan, &mut done);
    scheduler.add(request(8, (100..160).collect(), 30));
    paced_step(&mut scheduler, &pace, &mut plan, &mut done);
    assert!((12..=16).contains(&plan[8].count), "{plan:?}");
}

#[test]
fn steps_stay_short_however_much_waits_to_be_read() {
    let (mut scheduler, pace) = (
        Scheduler::new(paced(20, limits(128, 8, 64)), 256),
        millisecond_a_token(),
    );
    let (mut plan, mut done) = (Vec::new(), Vec::new());
    scheduler.add(request(0, vec![99; 8], 100));
    paced_step(&mut scheduler, &pace, &mut plan, &mut done);
    (1..=100).for_each(|id| scheduler.add(request(id, vec![id as u32; 48], 30)));
    for _ in 0..20 {
        paced_step(&mut scheduler, &pace, &mut plan, &mut done);
        let tokens: usize = plan.iter().map(|work| work.count).sum();
        assert!((16..=24).contains(&tokens), "{plan:?}");
    }
}

#[test]
fn the_more_urgent_is_admitted_first_and_keeps_its_blocks() {
    // Room for one sequence and a half.
    let mut scheduler = Scheduler::new(limits(32, 2, 16), 12);
    let (mut plan, mut done) = (Vec::new(), Vec::new());
    let urgent = |id, priority| Request {
        priority,
        ..request(id, vec![id as u32; 9], 20)
    };
    scheduler.add(urgent(0, 5));
    scheduler.add(urgent(1, 5));
    scheduler.add(urgent(2, -1));
    while scheduler.len() > 0 {
        step(&mut scheduler, &mut plan, &mut done);
    }
    let order: Vec<u64> = done.iter().map(|(id, _)| *id).collect();
    assert_eq!(order, [2, 0, 1]);
    assert!(scheduler.counters().0 > 0, "somebody gave way");
}

#[test]
fn one_who_lost_its_blocks_goes_before_those_who_never_ran() {
    let mut scheduler = Scheduler::new(limits(32, 2, 16), 8);
    (0..3).for_each(|id| scheduler.add(request(id, vec![id as u32; 9], 20)));
    let (mut plan, mut done) = (Vec::new(), Vec::new());
    while scheduler.len() > 0 {
        step(&mut scheduler, &mut plan, &mut done);
    }
    let order: Vec<u64> = done.iter().map(|(id, _)| *id).collect();
    assert_eq!(order, [0, 1, 2]);
    assert!(scheduler.counters().0 > 0, "somebody gave way");
}
