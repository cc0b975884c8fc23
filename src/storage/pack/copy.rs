//! What lives of a pack becomes part of another.

use crate::message::place::{QueueId, Seq};
use crate::message::run::Run;
use crate::storage::error::StoreError;
use crate::storage::pack::reader::ExtentRead;
use crate::storage::pack::writer::{Origin, PackWriter, Shared};

impl PackWriter {
    /// Adds what lives, in ascending ranges, of what was read of an extent of pack `number`. A block that several queues
    /// have is one in this pack too. Before each block `may_cut` is asked whether the extent ends here. How many messages
    /// were added.
    ///
    /// # Errors
    /// What the disk says.
    pub fn copy(
        &mut self,
        queue: QueueId,
        number: u64,
        read: &ExtentRead,
        live: impl IntoIterator<Item = (Seq, Seq)>,
        mut may_cut: impl FnMut(Seq, Seq) -> bool,
    ) -> Result<u64, StoreError> {
        let mut messages = 0;
        for (at, parts) in parts_within(&read.runs, live) {
            let Some(run) = read.runs.get(at) else { continue };
            let shared = read.shared.get(at).copied().flatten().map(|offset| Shared {
                origin: Origin::Pack { number, offset },
                first: run.first_seq(),
                count: run.count(),
            });
            // No extent lies within a block.
            if let (Some((first, _)), Some((_, end))) = (parts.first(), parts.last())
                && may_cut(*first, *end)
            {
                self.cut_extent()?;
            }
            messages += parts.iter().map(|(first, end)| end.0 - first.0).sum::<u64>();
            match shared {
                Some(shared) => self.push_shared(queue, shared, &parts, || Ok(run.clone()))?,
                None => {
                    let mut parts = parts.into_iter().filter_map(|(first, end)| run.part(first, end));
                    parts.try_for_each(|part| self.push(queue, &part))?;
                }
            }
        }
        Ok(messages)
    }
}

/// Which numbers of which run lie in the ranges. Both ascend, and so each is looked at once.
fn parts_within(
    runs: &[Run],
    ranges: impl IntoIterator<Item = (Seq, Seq)>,
) -> impl Iterator<Item = (usize, Vec<(Seq, Seq)>)> {
    let mut ranges = ranges.into_iter().peekable();
    let parts_of = move |(at, run): (usize, &Run)| {
        let mut parts = Vec::new();
        while let Some(&(first, end)) = ranges.peek()
            && first < run.end_seq()
        {
            let (low, high) = (first.max(run.first_seq()), end.min(run.end_seq()));
            if low < high {
                parts.push((low, high));
            }
            if end > run.end_seq() {
                // The next run may have more of it.
                break;
            }
            ranges.next();
        }
        (!parts.is_empty()).then_some((at, parts))
    };
    runs.iter().enumerate().filter_map(parts_of)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, proptest};

    use super::parts_within;
    use crate::message::block::BlockBuilder;
    use crate::message::block_header::{Marks, Stamp};
    use crate::message::names::Names;
    use crate::message::place::Seq;
    use crate::message::record::Content;
    use crate::message::run::Run;

    fn run(first: u64, end: u64) -> Run {
        let mut builder = BlockBuilder::default();
        for _ in first..end {
            builder.push(&Content { names: Names::EMPTY, properties: &[0, 0], body: b"m" });
        }
        let stamp = Stamp { marks: Marks::of(true), received_ms: 0 };
        let (block, count, body_bytes) = builder.seal(stamp, &Arc::default());
        Run::of_block(block, count, body_bytes).numbered_from(Seq(first))
    }

    /// Ascending ranges with gaps between some of them.
    fn ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
        let lengths = proptest::collection::vec((0u64..4, 1u64..6), 0..20);
        lengths.prop_map(|lengths| {
            let mut end = 1;
            let mut range = |(gap, len)| {
                let first = end + gap;
                end = first + len;
                (first, end)
            };
            lengths.into_iter().map(&mut range).collect()
        })
    }

    proptest! {
        #[test]
        fn what_lives_of_runs_is_found_in_one_walk(runs in ranges(), live in ranges()) {
            let looked_at = Cell::new(0);
            let ranges = live.iter().map(|&(first, end)| (Seq(first), Seq(end)));
            let ranges = ranges.inspect(|_| looked_at.set(looked_at.get() + 1));
            let all: Vec<Run> = runs.iter().map(|&(first, end)| run(first, end)).collect();
            let parts = parts_within(&all, ranges);
            let parts: Vec<_> =
                parts.flat_map(|(at, parts)| parts.into_iter().map(move |(first, end)| (at, first, end))).collect();
            prop_assert!(parts.iter().all(|&(at, first, end)| all[at].part(first, end).unwrap().end_seq() == end));
            let found: Vec<u64> = parts.iter().flat_map(|&(_, first, end)| first.0..end.0).collect();
            let is_in = |ranges: &[(u64, u64)], seq| ranges.iter().any(|&(first, end)| (first..end).contains(&seq));
            let expected: Vec<u64> = (0..200).filter(|seq| is_in(&runs, *seq) && is_in(&live, *seq)).collect();
            prop_assert_eq!(found, expected);
            prop_assert!(looked_at.get() <= live.len());
        }
    }
}
