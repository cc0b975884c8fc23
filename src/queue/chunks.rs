//! A list for long queues: cheap at both ends, and never dear in between.
//!
//! ```text
//!   first                rest
//!   [ 1 3 4 7 ]          [ 8 9 11 ] [ 12 .. 90 ] [ 91 93 ]
//!     ^ pop_front                                     ^ push_back
//! ```
//!
//! One deque would move half of a long list to insert in the middle, and copy all of it to grow. Here an item moves
//! only its neighbours in one chunk, at most half of one, and a full list begins a chunk more. The chunks themselves
//! are a list that is a hundredth as long and moves only when a chunk comes or goes. A short list is its first chunk
//! and nothing else. It knows nothing of its items; their order is the caller's.

use std::collections::VecDeque;

/// Items of a chunk.
const CHUNK_ITEMS: usize = 128;
/// A chunk that lost so many that it has no more than this joins a neighbour, if both then have half a chunk at most.
const SMALL_CHUNK_ITEMS: usize = CHUNK_ITEMS / 4;

/// A list in chunks.
#[derive(Debug)]
pub struct Chunks<T> {
    /// Empty only when the list is. Its room stays when it empties.
    first: VecDeque<T>,
    /// None of its chunks is empty, and there is at least one.
    rest: Option<Box<Rest<T>>>,
    /// How many items and chunks were moved to make or close gaps.
    #[cfg(test)]
    pub(super) moved: usize,
}

#[derive(Debug)]
struct Rest<T>(VecDeque<VecDeque<T>>);

/// A place in a list: of an item, or behind the last one. Good until the list changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    chunk: usize,
    at: usize,
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self {
            first: VecDeque::new(),
            rest: None,
            #[cfg(test)]
            moved: 0,
        }
    }
}

impl<T> Chunks<T> {
    /// The first item.
    #[inline]
    pub fn front(&self) -> Option<&T> {
        self.first.front()
    }

    /// The first item, to change it.
    pub fn front_mut(&mut self) -> Option<&mut T> {
        self.first.front_mut()
    }

    /// The last item.
    #[inline]
    pub fn back(&self) -> Option<&T> {
        self.rest.as_ref().and_then(|rest| rest.0.back()).unwrap_or(&self.first).back()
    }

    /// Adds an item at the end.
    #[inline]
    pub fn push_back(&mut self, item: T) {
        let last = self.rest.as_mut().and_then(|rest| rest.0.back_mut()).unwrap_or(&mut self.first);
        if last.len() < CHUNK_ITEMS {
            last.push_back(item);
        } else {
            self.begin_chunk(item);
        }
    }

    #[cold]
    fn begin_chunk(&mut self, item: T) {
        let mut chunk = VecDeque::with_capacity(CHUNK_ITEMS);
        chunk.push_back(item);
        self.insert_chunk(self.chunks(), chunk);
    }

    /// Takes the first item out.
    #[inline]
    pub fn pop_front(&mut self) -> Option<T> {
        let item = self.first.pop_front();
        if self.first.is_empty() && self.rest.is_some() {
            self.remove_chunk(0);
        }
        item
    }

    /// The place behind the last item.
    pub fn end(&self) -> Spot {
        let chunk = self.chunks() - 1;
        Spot { chunk, at: self.chunk(chunk).map_or(0, VecDeque::len) }
    }

    /// The place of the first item for which `is_before` is false; it is true for all items up to there.
    pub fn partition_point(&self, is_before: impl Fn(&T) -> bool) -> Spot {
        let heads = self
            .rest
            .as_ref()
            .map_or(0, |rest| rest.0.partition_point(|chunk| chunk.front().is_some_and(&is_before)));
        let at = self.chunk(heads).map_or(0, |chunk| chunk.partition_point(&is_before));
        Spot { chunk: heads, at }
    }

    /// The item at a place; `None` behind the last one.
    pub fn get(&self, spot: Spot) -> Option<&T> {
        let Spot { chunk, at } = self.exact(spot);
        self.chunk(chunk)?.get(at)
    }

    /// The item at a place, to change it.
    pub fn get_mut(&mut self, spot: Spot) -> Option<&mut T> {
        let Spot { chunk, at } = self.exact(spot);
        self.chunk_mut(chunk)?.get_mut(at)
    }

    /// The place after that of an item.
    pub fn after(&self, spot: Spot) -> Spot {
        let Spot { chunk, at } = self.exact(spot);
        Spot { chunk, at: at + 1 }
    }

    /// The place of the item before; `None` at the beginning.
    pub fn before(&self, spot: Spot) -> Option<Spot> {
        let Spot { chunk, at } = spot;
        if let Some(at) = at.checked_sub(1) {
            return Some(Spot { chunk, at });
        }
        let chunk = chunk.checked_sub(1)?;
        let at = self.chunk(chunk)?.len().checked_sub(1)?;
        Some(Spot { chunk, at })
    }

    /// Puts an item before the one at a place; where that one is now.
    pub fn insert(&mut self, spot: Spot, item: T) -> Spot {
        let Spot { mut chunk, mut at } = spot;
        let len = self.chunk(chunk).map_or(0, VecDeque::len);
        if len >= CHUNK_ITEMS {
            if at == len {
                // Between two chunks, of which only one is known to be full.
                (chunk, at) = (chunk + 1, 0);
                if self.chunk(chunk).is_none_or(|next| next.len() >= CHUNK_ITEMS) {
                    self.insert_chunk(chunk, VecDeque::new());
                }
            } else {
                let behind = self.chunk_mut(chunk).map(|full| full.split_off(len / 2)).unwrap_or_default();
                self.moves(behind.len());
                self.insert_chunk(chunk + 1, behind);
                if at > len / 2 {
                    (chunk, at) = (chunk + 1, at - len / 2);
                }
            }
        }
        let len = self.chunk(chunk).map_or(0, VecDeque::len);
        self.moves(at.min(len - at));
        if let Some(chunk) = self.chunk_mut(chunk) {
            chunk.insert(at, item);
        }
        Spot { chunk, at: at + 1 }
    }

    /// Takes the item at a place out; where the one that followed it is now.
    pub fn remove(&mut self, spot: Spot) -> Spot {
        let Spot { chunk, at } = self.exact(spot);
        let Some(items) = self.chunk_mut(chunk) else { return spot };
        items.remove(at);
        let left = items.len();
        self.moves(at.min(left.saturating_sub(at)));
        if left == 0 && self.rest.is_some() {
            self.remove_chunk(chunk);
            return Spot { chunk, at: 0 }.min_end(self.end());
        }
        if left > SMALL_CHUNK_ITEMS {
            return Spot { chunk, at };
        }
        let fits =
            |other: Option<&VecDeque<T>>| other.is_some_and(|other| other.len() + left <= CHUNK_ITEMS / 2);
        if let Some(before) = chunk.checked_sub(1)
            && fits(self.chunk(before))
        {
            let at = at + self.chunk(before).map_or(0, VecDeque::len);
            self.join_next(before);
            return Spot { chunk: before, at };
        }
        if fits(self.chunk(chunk + 1)) {
            self.join_next(chunk);
        }
        Spot { chunk, at }
    }

    /// Appends the chunk behind to this one.
    fn join_next(&mut self, chunk: usize) {
        let Some(mut items) = self.chunk_mut(chunk + 1).map(std::mem::take) else { return };
        self.remove_chunk(chunk + 1);
        self.moves(items.len());
        if let Some(chunk) = self.chunk_mut(chunk) {
            chunk.append(&mut items);
        }
    }

    /// What the list takes of memory, in bytes, but for the room that a first chunk does not use.
    #[inline]
    pub fn bytes(&self) -> u64 {
        let first = self.first.len() * size_of::<T>();
        let Some(rest) = &self.rest else { return first as u64 };
        (first + rest.0.len() * (CHUNK_ITEMS * size_of::<T>() + size_of::<VecDeque<T>>())) as u64
    }

    /// How many chunks there are, with the first.
    fn chunks(&self) -> usize {
        1 + self.rest.as_ref().map_or(0, |rest| rest.0.len())
    }

    fn chunk(&self, at: usize) -> Option<&VecDeque<T>> {
        match at.checked_sub(1) {
            None => Some(&self.first),
            Some(at) => self.rest.as_ref()?.0.get(at),
        }
    }

    fn chunk_mut(&mut self, at: usize) -> Option<&mut VecDeque<T>> {
        match at.checked_sub(1) {
            None => Some(&mut self.first),
            Some(at) => self.rest.as_mut()?.0.get_mut(at),
        }
    }

    /// Makes a chunk the one with this number, which is not the first.
    fn insert_chunk(&mut self, at: usize, chunk: VecDeque<T>) {
        let rest = self.rest.get_or_insert_with(|| Box::new(Rest(VecDeque::new())));
        let (at, len) = (at.saturating_sub(1).min(rest.0.len()), rest.0.len());
        rest.0.insert(at, chunk);
        self.moves(at.min(len - at));
    }

    #[cold]
    fn remove_chunk(&mut self, at: usize) {
        let Some(rest) = &mut self.rest else { return };
        let len = rest.0.len();
        match at.checked_sub(1) {
            None => self.first = rest.0.pop_front().unwrap_or_default(),
            Some(at) => drop(rest.0.remove(at)),
        }
        if rest.0.is_empty() {
            self.rest = None;
        }
        self.moves(at.min(len - at));
    }

    /// The same place, by the chunk that holds the item there. The end stays what it is.
    fn exact(&self, spot: Spot) -> Spot {
        let Spot { chunk, at } = spot;
        let is_behind = self.chunk(chunk).is_none_or(|items| at >= items.len());
        if is_behind && chunk + 1 < self.chunks() { Spot { chunk: chunk + 1, at: 0 } } else { spot }
    }

    /// Tests count what is moved.
    fn moves(&mut self, items: usize) {
        #[cfg(test)]
        {
            self.moved += items;
        }
        #[cfg(not(test))]
        let _nobody_counts = items;
    }
}

impl Spot {
    /// A place in a chunk that went was that of the end.
    fn min_end(self, end: Self) -> Self {
        if self.chunk > end.chunk { end } else { self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::{CHUNK_ITEMS, Chunks, Spot};

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push(usize),
        Pop(usize),
        /// So many items before each other, from about there on.
        Insert(usize, usize),
        /// So many items behind each other.
        Append(usize, usize),
        Remove(usize, usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let many = || 0usize..3 * CHUNK_ITEMS;
        let step = prop_oneof![
            many().prop_map(Step::Push),
            many().prop_map(Step::Pop),
            (any::<usize>(), many()).prop_map(|(at, count)| Step::Insert(at, count)),
            (any::<usize>(), many()).prop_map(|(at, count)| Step::Append(at, count)),
            (any::<usize>(), many()).prop_map(|(at, count)| Step::Remove(at, count)),
        ];
        proptest::collection::vec(step, 0..30)
    }

    /// Between two items that were pushed there is room for so many more.
    const GAP: u128 = 1 << 100;

    /// A list and the vector that it must be like: ascending numbers.
    #[derive(Default)]
    struct World {
        list: Chunks<u128>,
        like: Vec<u128>,
    }

    impl World {
        fn spot(&self, at: usize) -> Spot {
            match self.like.get(at) {
                Some(item) => self.list.partition_point(|other| other < item),
                None => self.list.end(),
            }
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Push(count) => {
                    for _ in 0..count {
                        let item = self.like.last().copied().unwrap_or_default() + GAP;
                        self.list.push_back(item);
                        self.like.push(item);
                    }
                }
                Step::Pop(count) => {
                    for _ in 0..count.min(self.like.len()) {
                        assert_eq!(self.list.pop_front(), Some(self.like.remove(0)));
                    }
                }
                Step::Insert(at, count) | Step::Append(at, count) => {
                    let mut at = at % (self.like.len() + 1);
                    let low = at.checked_sub(1).map_or(0, |at| self.like[at]);
                    let high = self.like.get(at).copied().unwrap_or(low + GAP);
                    let appends = matches!(step, Step::Append(..));
                    let step = (high - low) / (count as u128 + 1);
                    for nth in 1..=count as u128 {
                        let item = if appends { low + nth * step } else { high - nth * step };
                        let next = self.list.insert(self.spot(at), item);
                        self.like.insert(at, item);
                        assert_eq!(self.list.get(next), self.like.get(at + 1));
                        assert_eq!(self.list.before(next).and_then(|spot| self.list.get(spot)), Some(&item));
                        at += usize::from(appends);
                    }
                }
                Step::Remove(at, count) => {
                    for _ in 0..count.min(self.like.len()) {
                        let at = at % self.like.len();
                        let next = self.list.remove(self.spot(at));
                        self.like.remove(at);
                        assert_eq!(self.list.get(next), self.like.get(at));
                        let before = self.list.before(next).and_then(|spot| self.list.get(spot));
                        assert_eq!(before, at.checked_sub(1).map(|at| &self.like[at]));
                    }
                }
            }
        }

        /// No chunk is empty, none is too large, and nothing is counted that is not there.
        fn check(&self) {
            let rest = self.list.rest.iter().flat_map(|rest| rest.0.iter());
            let lens: Vec<usize> = rest.map(std::collections::VecDeque::len).collect();
            assert!(lens.iter().all(|len| (1..=CHUNK_ITEMS).contains(len)), "{lens:?}");
            assert!(self.list.rest.is_none() || (!self.list.first.is_empty() && !lens.is_empty()));
            assert_eq!(lens.iter().sum::<usize>() + self.list.first.len(), self.like.len());
            assert!(self.list.bytes() >= (self.like.len() * size_of::<u128>()) as u64);
        }

        fn walk(&self) -> (Vec<u128>, Vec<u128>) {
            let mut spot = self.list.partition_point(|_| false);
            let mut forth = Vec::new();
            while let Some(item) = self.list.get(spot) {
                forth.push(*item);
                spot = self.list.after(spot);
            }
            let mut back = Vec::new();
            let mut spot = self.list.end();
            while let Some(before) = self.list.before(spot) {
                back.push(*self.list.get(before).unwrap());
                spot = before;
            }
            back.reverse();
            (forth, back)
        }
    }

    proptest! {
        #[test]
        fn the_list_is_like_a_vector(steps in steps()) {
            let mut world = World::default();
            for step in steps {
                let before = world.list.moved;
                world.step(step);
                let (Step::Push(count) | Step::Pop(count) | Step::Insert(_, count) | Step::Append(_, count) | Step::Remove(_, count)) = step;
                // Half a chunk, half a chunk more when it is split or joined, and the few chunks of this test.
                prop_assert!(world.list.moved - before <= count * (CHUNK_ITEMS + 100));
                world.check();
                let (forth, back) = world.walk();
                prop_assert_eq!(&forth, &world.like);
                prop_assert_eq!(&back, &world.like);
                prop_assert_eq!((world.list.front(), world.list.back()), (world.like.first(), world.like.last()));
            }
        }
    }

    #[test]
    fn the_ends_move_nothing() {
        let mut list = Chunks::default();
        (0..100_000).for_each(|item| list.push_back(item));
        (0..100_000).for_each(|item| assert_eq!(list.pop_front(), Some(item)));
        assert_eq!((list.moved, list.bytes()), (0, 0));
    }

    #[test]
    fn what_is_thinned_out_gives_its_memory_back() {
        let mut list = Chunks::default();
        (0..100_000).for_each(|item| list.push_back(item));
        for item in 0..100_000 {
            if item % 1000 > 0 {
                list.remove(list.partition_point(|other| *other < item));
            }
        }
        let items = list.bytes() / size_of::<i32>() as u64;
        assert!(items <= 100 * 8, "100 items take the room of {items}");
    }
}
