//! Prompts of common words. Each request's own words differ from those of all others, so that a prefix cache
//! helps only where words are shared on purpose.
use crate::random::Random;

const WORDS: &str = include_str!("words.txt");

/// Stream of the words that all prompts of a seed begin with; requests have the streams from 0.
const SHARED: u64 = u64::MAX;

/// The prompt of request `number`: `shared` words that are the same for all requests of the seed, then `own` words.
pub fn prompt(seed: u64, number: u64, shared: usize, own: usize) -> String {
    let list: Vec<&str> = WORDS.split_whitespace().collect();
    let take = |stream: u64, count: usize| {
        let (list, mut random) = (&list, Random::new(seed, stream));
        (0..count).map(move |_| list[random.below(list.len() as u64) as usize])
    };
    let words: Vec<&str> = take(SHARED, shared).chain(take(number, own)).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_have_the_words_asked_for_and_share_exactly_the_shared_ones() {
        let (a, b) = (prompt(3, 0, 40, 9), prompt(3, 1, 40, 9));
        let (a, b): (Vec<&str>, Vec<&str>) = (a.split(' ').collect(), b.split(' ').collect());
        assert_eq!((a.len(), b.len()), (49, 49));
        assert_eq!(a[..40], b[..40]);
        assert_ne!(a[40..], b[40..]);
    }

    #[test]
    fn a_prompt_depends_on_seed_and_number_alone() {
        assert_eq!(prompt(3, 5, 2, 90), prompt(3, 5, 2, 90));
        assert_ne!(prompt(3, 5, 2, 90), prompt(4, 5, 2, 90));
    }

    #[test]
    fn no_two_prompts_of_a_large_run_begin_alike() {
        let starts: std::collections::HashSet<String> = (0..1000).map(|number| prompt(1, number, 0, 8)).collect();
        assert_eq!(starts.len(), 1000);
    }
}
