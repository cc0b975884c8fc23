//! The topic exchange's table: a trie of pattern words, `*` for one word and `#` for zero or more.
//!
//! Matching walks the routing key once with the set of trie nodes that are reachable so far. A node under a
//! `#` stays reachable for the rest of the key, and enters that set once; every other node has one way in.
//! So the work is at most nodes × words, and no pattern makes it explode; a message that needs more steps than its
//! [`MatchBudget`] has is given up. A run of `#` is stored as one.
//!
//! ```text
//!  bound: a.*  a.#.c         key a.b.c reaches, word by word
//!  root ─a→ ○ ─*→ (1)        root | a, a.# | a.*, a.# | a.#, a.#.c
//!           └─#→ ○ ─c→ (2)                              reported: 2
//! ```

use std::collections::HashSet;
use std::hash::Hash;
use std::ptr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::routing::RoutingError;
use crate::routing::budget::{MatchBudget, TooManySteps};
use crate::routing::targets::{Label, Targets};

/// The most words a binding key may have.
pub const WORDS_MAX: usize = 128;

/// Up to this many words below a node are searched one by one, which beats hashing and is far smaller.
const FEW_CHILDREN_MAX: usize = 8;
/// Up to this many nodes under a `#` are searched one by one before a set takes over.
const FEW_LOOPS_MAX: usize = 32;

const STAR: &[u8] = b"*";
const HASH: &[u8] = b"#";

/// Bindings of a topic exchange.
#[derive(Clone)]
pub struct Topic<T> {
    root: Node<T>,
    len: usize,
}

impl<T> Default for Topic<T> {
    fn default() -> Self {
        Self { root: Node::default(), len: 0 }
    }
}

impl<T: Clone + Eq + Hash> Topic<T> {
    /// Adds a binding; `false` when it was there already, or when [`check_key`] refuses its key.
    pub(crate) fn bind(&mut self, key: &str, arguments: &[u8], target: T) -> bool {
        if check_key(key).is_err() {
            return false;
        }
        let path = Path::new(key.as_bytes());
        let mut node = &mut self.root;
        for word in &path.words {
            node = node.child_or_insert(word);
        }
        let added = node.targets.insert(path.label(arguments), target);
        self.len += usize::from(added);
        added
    }

    /// Removes a binding and the nodes only it needed; `false` when it was not there.
    pub(crate) fn unbind(&mut self, key: &str, arguments: &[u8], target: &T) -> bool {
        if check_key(key).is_err() {
            return false;
        }
        let path = Path::new(key.as_bytes());
        let removed = self.root.remove(&path.words, &path.label(arguments), target);
        self.len -= usize::from(removed);
        removed
    }

    /// Calls `found` with the targets of each pattern that matches; returns the steps it took.
    ///
    /// # Errors
    /// [`TooManySteps`] when it takes more than `budget` has left; then nothing was found.
    pub(crate) fn route(
        &self,
        key: &[u8],
        budget: &mut MatchBudget,
        found: &mut dyn FnMut(&T),
    ) -> Result<usize, TooManySteps> {
        let mut steps = 0;
        let mut loops = Loops::default();
        let mut reached: Reached<'_, T> = SmallVec::new();
        let mut next: Reached<'_, T> = SmallVec::new();
        loops.enter(&self.root);
        reached.push(&self.root);
        for word in words(key) {
            for node in reached.drain(..).chain(loops.nodes.iter().copied()) {
                steps += 1;
                budget.step()?;
                next.extend(node.words.get(word));
                next.extend(node.star.as_deref());
            }
            next.iter().for_each(|node| loops.enter(node));
            std::mem::swap(&mut reached, &mut next);
            if reached.is_empty() && loops.nodes.is_empty() {
                return Ok(steps);
            }
        }
        for node in reached.into_iter().chain(loops.nodes) {
            steps += 1;
            node.targets.visit(found);
        }
        Ok(steps)
    }

    /// The number of bindings.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// Whether a binding key is within the bound on words.
///
/// # Errors
/// [`RoutingError::TooManyWords`] beyond [`WORDS_MAX`] words.
pub fn check_key(key: &str) -> Result<(), RoutingError> {
    match words(key.as_bytes()).count() {
        found if found > WORDS_MAX => Err(RoutingError::TooManyWords { found, words_max: WORDS_MAX }),
        _ => Ok(()),
    }
}

/// Whether a topic pattern matches a routing key, worked out one cell at a time in a table of pattern words
/// by key words. Slow and plain on purpose: tests and the fuzz target judge the trie by it.
pub fn matches(pattern: &str, key: &[u8]) -> bool {
    let key: Vec<&[u8]> = words(key).collect();
    // matched[i]: the pattern so far matches the first i words of the key.
    let mut matched = vec![false; key.len() + 1];
    if let Some(empty) = matched.first_mut() {
        *empty = true;
    }
    for word in words(pattern.as_bytes()) {
        let mut before = false;
        let mut extended = Vec::with_capacity(matched.len());
        for (i, &without) in matched.iter().enumerate() {
            let last = i.checked_sub(1).and_then(|i| key.get(i));
            extended.push(match word {
                HASH => without || extended.last().is_some_and(|&longer| longer),
                STAR => before,
                _ => before && last.is_some_and(|last| *last == word),
            });
            before = without;
        }
        matched = extended;
    }
    matched.last().is_some_and(|&whole| whole)
}

/// The words of a key. As in RabbitMQ an empty key has none, while "." has two empty ones.
fn words(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let present = !key.is_empty();
    key.split(|&byte| byte == b'.').filter(move |_| present)
}

/// A pattern's way through the trie.
struct Path<'k> {
    key: &'k [u8],
    words: Vec<&'k [u8]>,
    collapsed: bool,
}

impl<'k> Path<'k> {
    fn new(key: &'k [u8]) -> Self {
        let mut path: Vec<&[u8]> = words(key).collect();
        let written = path.len();
        path.dedup_by(|word, before| *word == HASH && *before == HASH);
        Self { key, collapsed: path.len() < written, words: path }
    }

    /// `a.#` and `a.#.#` end at one node and are still two bindings: only then does the label hold the key.
    fn label(&self, arguments: &[u8]) -> Label {
        Label::new(if self.collapsed { self.key } else { &[] }, arguments)
    }
}

type Reached<'t, T> = SmallVec<[&'t Node<T>; 16]>;

/// The nodes under a `#` that were reached: each stays reachable up to the end of the key.
struct Loops<'t, T> {
    nodes: Reached<'t, T>,
    /// The same nodes by address, once they are many.
    seen: HashSet<*const Node<T>, RandomState>,
}

impl<T> Default for Loops<'_, T> {
    fn default() -> Self {
        Self { nodes: SmallVec::new(), seen: HashSet::default() }
    }
}

impl<'t, T> Loops<'t, T> {
    /// Takes up the `#` below a node that was just reached.
    fn enter(&mut self, parent: &'t Node<T>) {
        let Some(node) = parent.hash.as_deref() else { return };
        let known = match self.nodes.len() {
            0..FEW_LOOPS_MAX => self.nodes.iter().any(|known| ptr::eq(*known, node)),
            FEW_LOOPS_MAX => {
                self.seen.extend(self.nodes.iter().map(|node| ptr::from_ref(*node)));
                !self.seen.insert(node)
            }
            _ => !self.seen.insert(node),
        };
        if !known {
            self.nodes.push(node);
        }
    }
}

#[derive(Clone)]
struct Node<T> {
    words: Children<T>,
    star: Option<Arc<Self>>,
    hash: Option<Arc<Self>>,
    targets: Targets<T>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { words: Children::default(), star: None, hash: None, targets: Targets::default() }
    }
}

impl<T: Clone + Eq + Hash> Node<T> {
    fn child_or_insert(&mut self, word: &[u8]) -> &mut Self {
        Arc::make_mut(match word {
            STAR => self.star.get_or_insert_default(),
            HASH => self.hash.get_or_insert_default(),
            _ => self.words.get_or_insert(word),
        })
    }

    /// Removes a target at the end of `path`, and every node on the way that is left with nothing.
    fn remove(&mut self, path: &[&[u8]], label: &Label, target: &T) -> bool {
        let Some((word, rest)) = path.split_first() else { return self.targets.remove(label, target) };
        let child = match *word {
            STAR => self.star.as_mut(),
            HASH => self.hash.as_mut(),
            _ => self.words.get_mut(word),
        };
        let Some(child) = child.map(Arc::make_mut) else { return false };
        let removed = child.remove(rest, label, target);
        if child.is_empty() {
            match *word {
                STAR => self.star = None,
                HASH => self.hash = None,
                _ => self.words.remove(word),
            }
        }
        removed
    }

    fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.words.is_empty() && self.star.is_none() && self.hash.is_none()
    }
}

type Word = Arc<[u8]>;

/// The nodes below a node by literal word.
#[derive(Clone)]
enum Children<T> {
    Few(Vec<(Word, Arc<Node<T>>)>),
    Many(imbl::HashMap<Word, Arc<Node<T>>>),
}

impl<T> Default for Children<T> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl<T> Children<T> {
    fn get(&self, word: &[u8]) -> Option<&Node<T>> {
        match self {
            Self::Few(list) => list.iter().find(|(known, _)| **known == *word).map(|(_, node)| &**node),
            Self::Many(many) => many.get(word).map(|node| &**node),
        }
    }

    fn get_mut(&mut self, word: &[u8]) -> Option<&mut Arc<Node<T>>> {
        match self {
            Self::Few(list) => list.iter_mut().find(|(known, _)| **known == *word).map(|(_, node)| node),
            Self::Many(many) => many.get_mut(word),
        }
    }

    fn get_or_insert(&mut self, word: &[u8]) -> &mut Arc<Node<T>> {
        if let Self::Few(list) = self
            && list.len() >= FEW_CHILDREN_MAX
        {
            *self = Self::Many(list.drain(..).collect());
        }
        match self {
            Self::Few(list) => {
                let place = list.iter().position(|(known, _)| **known == *word).unwrap_or(list.len());
                if place == list.len() {
                    list.push((word.into(), Arc::default()));
                }
                let (_, node) = list.get_mut(place).expect("found or just pushed");
                node
            }
            Self::Many(many) => many.entry(word.into()).or_default(),
        }
    }

    fn remove(&mut self, word: &[u8]) {
        match self {
            Self::Few(list) => list.retain(|(known, _)| **known != *word),
            Self::Many(many) => {
                many.remove(word);
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Few(list) => list.is_empty(),
            Self::Many(many) => many.is_empty(),
        }
    }
}
