//! The values that were asked for last, by key: few, so a list is searched.
use std::collections::VecDeque;

/// Names a grammar; equal only for equal ones.
pub type Key = [u8; 32];

/// At most `capacity` values; the one that was not used for longest goes first.
#[derive(Debug)]
pub struct Cache<V> {
    capacity: usize,
    /// The newest use in front.
    entries: VecDeque<(Key, V)>,
}

impl<V> Cache<V> {
    /// An empty one. `capacity` is at least 1.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            entries: VecDeque::with_capacity(capacity),
        }
    }

    /// Finds a value, which counts as a use.
    pub fn get(&mut self, key: &Key) -> Option<&V> {
        let at = self.entries.iter().position(|(known, _)| known == key)?;
        let entry = self.entries.remove(at)?;
        self.entries.push_front(entry);
        self.entries.front().map(|(_, value)| value)
    }

    /// Adds a value; what two threads computed at once is kept once.
    pub fn insert(&mut self, key: Key, value: V) {
        self.entries.retain(|(known, _)| *known != key);
        self.entries.truncate(self.capacity - 1);
        self.entries.push_front((key, value));
    }

    /// Values that are kept.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let mut cache = Cache::new(2);
        cache.insert([1; 32], 'a');
        cache.insert([2; 32], 'b');
        assert_eq!(cache.get(&[1; 32]), Some(&'a'));
        cache.insert([3; 32], 'c');
        assert_eq!(cache.get(&[2; 32]), None);
        assert_eq!(cache.get(&[1; 32]), Some(&'a'));
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn a_key_is_kept_once() {
        let mut cache = Cache::new(2);
        cache.insert([1; 32], 'a');
        cache.insert([1; 32], 'b');
        assert_eq!(cache.get(&[1; 32]), Some(&'b'));
        assert_eq!(cache.len(), 1);
    }
}
