//! The thread with an embedder that is slow on purpose.
use super::*;

/// A vector is its input's tokens; the token 666 has none. Batches are told, and wait to be let through.
fn start_slow(limits: Limits) -> (EmbedHandle, Sender<()>, Receiver<Vec<Vec<u32>>>) {
    let (gate, open) = channel::<()>();
    let (tell, told) = channel();
    let embed = move |inputs: &[&[u32]]| -> Vectors {
        drop(tell.send(inputs.iter().map(|input| input.to_vec()).collect::<Vec<_>>()));
        open.recv().ok(); // a gate that is gone is open
        let vector = |input: &&[u32]| match input.contains(&666) {
            true => Err(EmbedError::NotFinite),
            false => Ok(input.iter().map(|&token| token as f32).collect()),
        };
        inputs.iter().map(vector).collect()
    };
    let thread = start(move || Ok::<_, ()>((embed, limits, ()))).unwrap();
    let (handle, ()) = thread.loaded.blocking_recv().unwrap().unwrap();
    (handle, gate, told)
}

const LIMITS: Limits = Limits {
    queue_tokens: 20,
    batch_tokens: 4,
};

#[test]
fn a_small_request_does_not_wait_for_a_large_one() {
    let (handle, gate, told) = start_slow(LIMITS);
    let large = handle.submit((0..8).map(|i| vec![i, i]).collect()).unwrap();
    assert_eq!(told.recv(), Ok(vec![vec![0, 0], vec![1, 1]]));
    let small = handle.submit(vec![vec![9]]).unwrap();
    gate.send(()).unwrap();
    let second = told.recv().unwrap();
    assert!(second.contains(&vec![9]), "{second:?}");
    (0..4).for_each(|_| gate.send(()).unwrap());
    assert_eq!(small.blocking_recv().unwrap(), Ok(vec![vec![9.0]]));
    let want: Vec<Vec<f32>> = (0..8).map(|i| vec![i as f32; 2]).collect();
    assert_eq!(large.blocking_recv().unwrap(), Ok(want));
    assert_eq!((handle.stalled_for(), handle.stats().prompt_tokens), (None, 17));
}

#[test]
fn the_queue_is_bounded_and_frees_what_was_computed() {
    let (handle, gate, told) = start_slow(LIMITS);
    let first = handle.submit(vec![vec![1; 4], vec![2; 4], vec![3; 12]]).unwrap();
    assert!(handle.is_full() && handle.submit(vec![vec![4]]).is_none());
    told.recv().unwrap();
    gate.send(()).unwrap();
    told.recv().unwrap();
    let second = handle.submit(vec![vec![4; 3]]).unwrap();
    // Larger than the whole queue: when that is empty, and only then.
    assert!(handle.submit(vec![vec![5; 50]]).is_none());
    drop(gate);
    assert!(first.blocking_recv().unwrap().is_ok() && second.blocking_recv().unwrap().is_ok());
    let third = handle.submit(vec![vec![5; 50]]).unwrap();
    assert!(third.blocking_recv().unwrap().is_ok());
}

#[test]
fn an_input_without_a_vector_fails_its_own_request_alone() {
    let (handle, gate, _told) = start_slow(LIMITS);
    drop(gate);
    let bad = handle.submit(vec![vec![1], vec![666], vec![2]]).unwrap();
    let good = handle.submit(vec![vec![3]]).unwrap();
    assert_eq!(bad.blocking_recv().unwrap(), Err((1, EmbedError::NotFinite)));
    assert_eq!(good.blocking_recv().unwrap(), Ok(vec![vec![3.0]]));
}

#[test]
fn a_request_whose_caller_is_gone_is_not_computed() {
    let (handle, gate, told) = start_slow(LIMITS);
    let first = handle.submit(vec![vec![1]]).unwrap();
    told.recv().unwrap();
    drop(handle.submit(vec![vec![2]]).unwrap());
    let third = handle.submit(vec![vec![3]]).unwrap();
    drop(gate);
    assert!(first.blocking_recv().unwrap().is_ok() && third.blocking_recv().unwrap().is_ok());
    assert_eq!(told.recv(), Ok(vec![vec![3]]));
}
