//! A map that is cheap to copy and to change: the copy shares all but the changed shard.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::Arc,
};

/// A map in 256 shards. Cloning shares all of them; a change copies one.
#[derive(Clone, Debug)]
pub(super) struct CowMap<K, V> {
    shards: Arc<[Arc<HashMap<K, V>>]>,
    hasher: RandomState,
    len: usize,
}

impl<K: Clone + Eq + Hash, V: Clone> CowMap<K, V> {
    pub(super) fn new() -> Self {
        let shards = std::iter::repeat_with(Arc::default).take(SHARDS).collect();
        Self { shards, hasher: RandomState::new(), len: 0 }
    }

    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shards.get(self.shard(key))?.get(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let before = self.shard_mut(&key)?.insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    pub(super) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        // Not there: nothing to copy.
        self.get(key)?;
        let before = self.shard_mut(key)?.remove(key);
        self.len -= usize::from(before.is_some());
        before
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// In no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.shards.iter().flat_map(|shard| shard.values())
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0)
    }

    fn shard_mut<Q: Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut HashMap<K, V>> {
        let shard = self.shard(key);
        // The slice is copied when another snapshot shares it: 256 counters; its entries stay shared.
        Arc::make_mut(&mut self.shards).get_mut(shard).map(Arc::make_mut)
    }
}

const SHARDS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_does_not_see_later_changes() {
        let mut map = CowMap::new();
        for n in 0..1000 {
            map.insert(n, n);
        }
        let before = map.clone();
        map.insert(1, 100);
        map.remove(&2);
        map.remove(&2000);
        assert_eq!((map.get(&1), map.get(&2), map.len()), (Some(&100), None, 999));
        assert_eq!((before.get(&1), before.get(&2), before.len()), (Some(&1), Some(&2), 1000));
        assert_eq!(before.values().copied().sum::<i32>(), (0..1000).sum::<i32>());
    }
}
