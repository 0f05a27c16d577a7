//! Tables that are made once and then only asked: words, paths and patterns by segment, and lists by a pair of numbers. Asking allocates
//! nothing, and takes as long with ten entries as with ten thousand.
//!
//! The hash is a fast one, without a secret: what is in a table is the policy's, and strangers only ask.

use std::collections::HashMap;

use super::operation::{MAX_WORD, decode_into};

/// No entry.
pub(super) const NONE: u32 = u32::MAX;

/// As an index. Never truncates where this compiles for.
fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// As a number of an entry; [`NONE`] beyond four thousand million, which the bounds of a policy keep out of reach.
pub(super) fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(NONE)
}

const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

fn hash_word(salt: u32, word: &[u8]) -> u32 {
    let mut hash = u64::from(salt).wrapping_mul(MIX) ^ u64::try_from(word.len()).unwrap_or(0);
    let (chunks, rest) = word.as_chunks::<8>();
    for chunk in chunks {
        hash = (hash.rotate_left(23) ^ u64::from_le_bytes(*chunk)).wrapping_mul(MIX);
    }
    let mut last = 0;
    for byte in rest {
        last = (last << 8) | u64::from(*byte);
    }
    fold((hash.rotate_left(23) ^ last).wrapping_mul(MIX))
}

fn hash_pair(a: u32, b: u32) -> u32 {
    fold(((u64::from(a) << 32) | u64::from(b)).wrapping_mul(MIX))
}

fn fold(hash: u64) -> u32 {
    let mixed = (hash ^ (hash >> 29)).wrapping_mul(MIX);
    u32::try_from(mixed >> 32).unwrap_or(0)
}

/// The size of a table at most half full.
fn slots(entries: usize) -> usize {
    (entries * 2).next_power_of_two().max(2)
}

/// Where to look, one place after the other.
fn places(hash: u32, slots: usize) -> impl Iterator<Item = usize> {
    let mask = slots - 1;
    let first = index(hash) & mask;
    (0..slots).map(move |step| (first + step) & mask)
}

/// Words with a number each, told apart by a salt.
#[derive(Debug, Default)]
pub(super) struct Words {
    slots: Box<[WordSlot]>,
    text: Box<[u8]>,
}

#[derive(Clone, Copy, Debug)]
struct WordSlot {
    salt: u32,
    hash: u32,
    start: u32,
    length: u32,
    value: u32,
}

impl Words {
    pub(super) fn new<'w>(words: impl ExactSizeIterator<Item = (u32, &'w str, u32)>) -> Self {
        let empty = WordSlot { salt: 0, hash: 0, start: 0, length: 0, value: NONE };
        let mut table = vec![empty; slots(words.len())];
        let mut text = Vec::new();
        for (salt, word, value) in words {
            let hash = hash_word(salt, word.as_bytes());
            let start = number(text.len());
            text.extend_from_slice(word.as_bytes());
            let size = table.len();
            let free = places(hash, size).find(|place| table.get(*place).is_some_and(|slot| slot.value == NONE));
            if let Some(slot) = free.and_then(|place| table.get_mut(place)) {
                *slot = WordSlot { salt, hash, start, length: number(word.len()), value };
            }
        }
        Self { slots: table.into(), text: text.into() }
    }

    pub(super) fn get(&self, salt: u32, word: &[u8]) -> Option<u32> {
        let hash = hash_word(salt, word);
        for place in places(hash, self.slots.len()) {
            let slot = self.slots.get(place)?;
            if slot.value == NONE {
                return None;
            }
            if slot.hash == hash && slot.salt == salt {
                let start = index(slot.start);
                if self.text.get(start..start + index(slot.length)) == Some(word) {
                    return Some(slot.value);
                }
            }
        }
        None
    }
}

/// Lists of entries by a pair of numbers.
#[derive(Debug)]
pub(super) struct Lists<E> {
    slots: Box<[ListSlot]>,
    entries: Box<[E]>,
}

#[derive(Clone, Copy, Debug)]
struct ListSlot {
    a: u32,
    b: u32,
    start: u32,
    length: u32,
}

impl<E> Lists<E> {
    /// From (a, b, number of the entry), in any order. In a list the numbers rise.
    pub(super) fn new(mut triples: Vec<(u32, u32, u32)>, entry: impl Fn(u32) -> E) -> Self {
        triples.sort_unstable();
        triples.dedup();
        let groups = triples.chunk_by(|x, y| (x.0, x.1) == (y.0, y.1));
        let mut table = vec![ListSlot { a: NONE, b: NONE, start: 0, length: 0 }; slots(groups.clone().count())];
        let mut start = 0;
        for group in groups {
            let Some(&(a, b, _)) = group.first() else { continue };
            let size = table.len();
            let free =
                places(hash_pair(a, b), size).find(|place| table.get(*place).is_some_and(|slot| slot.length == 0));
            if let Some(slot) = free.and_then(|place| table.get_mut(place)) {
                *slot = ListSlot { a, b, start: number(start), length: number(group.len()) };
            }
            start += group.len();
        }
        Self { slots: table.into(), entries: triples.into_iter().map(|(_, _, number)| entry(number)).collect() }
    }

    pub(super) fn get(&self, a: u32, b: u32) -> &[E] {
        for place in places(hash_pair(a, b), self.slots.len()) {
            let Some(slot) = self.slots.get(place) else { break };
            if slot.length == 0 {
                break;
            }
            if slot.a == a && slot.b == b {
                let start = index(slot.start);
                return self.entries.get(start..start + index(slot.length)).unwrap_or_default();
            }
        }
        &[]
    }
}

/// Texts of segments with slashes between, some of them wild. Every leaf has a number.
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Box<[Node]>,
    literals: Words,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    /// The node of whatever one segment.
    one: u32,
    /// The leaf of whatever more segments.
    rest: u32,
    /// The leaf of what ends here.
    here: u32,
    has_literals: bool,
}

/// A place in a trie: below a literal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Below(u32);

/// The first segment, and the rest. Segments are short: to look at each byte is quicker than what is made for long texts.
fn split(text: &str) -> (&str, &str) {
    let slash = text.bytes().position(|byte| byte == b'/');
    let parts = slash.and_then(|at| Some((text.get(..at)?, text.get(at + 1..)?)));
    parts.unwrap_or((text, ""))
}

/// A segment of what a trie holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part<'a> {
    Literal(&'a str),
    One,
    Rest,
}

/// A trie while it is made.
#[derive(Debug)]
pub(super) struct TrieBuilder {
    nodes: Vec<Node>,
    literals: HashMap<(u32, String), u32>,
    leaves: u32,
}

const EMPTY: Node = Node { one: NONE, rest: NONE, here: NONE, has_literals: false };

impl TrieBuilder {
    pub(super) fn new() -> Self {
        Self { nodes: vec![EMPTY], literals: HashMap::new(), leaves: 0 }
    }

    /// The leaf of these parts, made if it is not there.
    pub(super) fn leaf<'a>(&mut self, parts: impl IntoIterator<Item = Part<'a>>) -> u32 {
        let mut at = 0;
        for part in parts {
            at = match part {
                Part::Literal(text) => {
                    let fresh = number(self.nodes.len());
                    let child = *self.literals.entry((at, text.to_owned())).or_insert(fresh);
                    if child == fresh {
                        self.nodes.push(EMPTY);
                        if let Some(node) = self.nodes.get_mut(index(at)) {
                            node.has_literals = true;
                        }
                    }
                    child
                }
                Part::One => {
                    let fresh = number(self.nodes.len());
                    let Some(node) = self.nodes.get_mut(index(at)) else { return NONE };
                    if node.one == NONE {
                        node.one = fresh;
                        self.nodes.push(EMPTY);
                        fresh
                    } else {
                        node.one
                    }
                }
                Part::Rest => {
                    let Some(node) = self.nodes.get_mut(index(at)) else { return NONE };
                    return take(&mut node.rest, &mut self.leaves);
                }
            };
        }
        let Some(node) = self.nodes.get_mut(index(at)) else { return NONE };
        take(&mut node.here, &mut self.leaves)
    }

    pub(super) fn build(self) -> Trie {
        let words: Vec<_> = self.literals.iter().map(|((node, text), child)| (*node, text.as_str(), *child)).collect();
        Trie { nodes: self.nodes.into(), literals: Words::new(words.into_iter()) }
    }
}

fn take(leaf: &mut u32, leaves: &mut u32) -> u32 {
    if *leaf == NONE {
        *leaf = *leaves;
        *leaves += 1;
    }
    *leaf
}

impl Trie {
    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.len() < 2 && self.nodes.first().is_none_or(|root| root.rest == NONE && root.here == NONE)
    }

    /// Every leaf that matches, and whether it does so only when the text is decoded.
    pub(super) fn walk(&self, text: &str, visit: &mut impl FnMut(u32, bool)) {
        self.walk_from(0, text, false, visit);
    }

    /// The place below a literal that is no text of a request, such as the kind of an operation; the root has none above it.
    pub(super) fn below(&self, above: Option<Below>, literal: &str) -> Option<Below> {
        self.literals.get(above.map_or(0, |above| above.0), literal.as_bytes()).map(Below)
    }

    /// The same as [`Self::walk`] below such a literal.
    pub(super) fn walk_below(&self, place: Below, text: &str, visit: &mut impl FnMut(u32, bool)) {
        self.walk_from(place.0, text, false, visit);
    }

    /// The leaf of whatever one segment below such a literal.
    pub(super) fn walk_one(&self, place: Below, visit: &mut impl FnMut(u32, bool)) {
        let node = self.nodes.get(index(place.0));
        let leaf = node.and_then(|node| self.nodes.get(index(node.one))).map_or(NONE, |node| node.here);
        if leaf != NONE {
            visit(leaf, false);
        }
    }

    // As deep as the pattern with the most segments, which is bounded.
    fn walk_from(&self, mut at: u32, mut text: &str, decoded: bool, visit: &mut impl FnMut(u32, bool)) {
        loop {
            let Some(node) = self.nodes.get(index(at)) else { return };
            if text.is_empty() {
                if node.here != NONE {
                    visit(node.here, decoded);
                }
                return;
            }
            if node.rest != NONE {
                visit(node.rest, decoded);
            }
            let (segment, tail) = split(text);
            if node.has_literals {
                if let Some(child) = self.literals.get(at, segment.as_bytes()) {
                    if node.one == NONE {
                        (at, text) = (child, tail);
                        continue;
                    }
                    self.walk_from(child, tail, decoded, visit);
                } else if segment.contains('%') {
                    let mut buffer = [0; MAX_WORD];
                    let word = decode_into(segment, &mut buffer);
                    if let Some(child) = word.and_then(|word| self.literals.get(at, word)) {
                        self.walk_from(child, tail, true, visit);
                    }
                }
            }
            if node.one == NONE {
                return;
            }
            (at, text) = (node.one, tail);
        }
    }

    /// Every leaf that matches whatever these parts match: for finding rules that make another one needless.
    pub(super) fn covering(&self, parts: &[Part<'_>], visit: &mut impl FnMut(u32)) {
        self.covering_from(0, parts, visit);
    }

    fn covering_from(&self, at: u32, parts: &[Part<'_>], visit: &mut impl FnMut(u32)) {
        let Some(node) = self.nodes.get(index(at)) else { return };
        let Some((part, tail)) = parts.split_first() else {
            if node.here != NONE {
                visit(node.here);
            }
            return;
        };
        if node.rest != NONE {
            visit(node.rest);
        }
        if let Part::Literal(text) = part
            && let Some(child) = self.literals.get(at, text.as_bytes())
        {
            self.covering_from(child, tail, visit);
        }
        if node.one != NONE && !matches!(part, Part::Rest) {
            self.covering_from(node.one, tail, visit);
        }
    }
}
