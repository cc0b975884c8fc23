//! Writes one pack. Runs come in by queue and number; what is small and belongs together becomes one block.

use std::collections::HashMap;
use std::io::IoSlice;
use std::mem;

use bytes::Bytes;
use roaring::RoaringBitmap;
use smallvec::SmallVec;

use crate::message::block_header::BlockHeader;
use crate::message::fact_codec::Sink;
use crate::message::place::{Extent, Lsn, QueueId, Seq};
use crate::message::run::Run;
use crate::message::stored::Joined;
use crate::storage::disk::{Disk, DiskFile};
use crate::storage::error::StoreError;
use crate::storage::pack::Kind;
use crate::storage::pack::format::{self, ExtentRecord, Footer, Pointer, Prefix};

/// What is collected before it is written.
const BUFFER_BYTES: usize = 1024 * 1024;
/// A pack is synced in steps: one large sync would keep the log's small ones waiting, and what is on the device need
/// not fill the system's cache.
const SYNC_BYTES: u64 = 16 * 1024 * 1024;
/// An extent is closed when it has this many bytes, or its bodies have, wherever they are: what one read brings back.
const EXTENT_BYTES: u64 = 1024 * 1024;
/// An extent is closed before its numbers reach over more than this.
const EXTENT_SPAN_MAX: u64 = 1 << 24;
/// Neighbouring blocks are joined up to this size.
const JOINED_BYTES_MAX: usize = 16 * 1024;
/// A block that two queues have is written once from this size on, and one that a single queue has is not joined.
const SHARED_BYTES_MIN: usize = 4096;
/// A smaller one is written so many times at most: copies of one queue lie together and are read at once.
const COPIES_MAX: usize = 4;
/// What lives of a block in so many different ways is written for each.
const SHAPES_MAX: usize = 4;
/// One that is hardly larger than what would stand in its place is always copied.
const COPIED_BYTES_MAX: usize = 2 * (format::PREFIX_BYTES + format::POINTER_BYTES);

/// A pack being written. Dropped before it is finished it leaves a file that nobody knows, which a start removes.
#[derive(Debug)]
pub struct PackWriter {
    number: u64,
    kind: Kind,
    file: Box<dyn DiskFile>,
    buffer: Buffer,
    /// Where in the file the buffer starts.
    written: u64,
    /// Up to where it is on the device.
    synced: u64,
    /// The last queue and number.
    last: Option<(QueueId, Seq)>,
    joined: Option<(QueueId, Joined)>,
    open: Option<PackedExtent>,
    extents: Vec<PackedExtent>,
    blocks: Vec<PackedBlock>,
    /// Blocks that more queues may have, by where they came from.
    shared: HashMap<Origin, Vec<(Shape, Vec<SharedBlock>)>>,
    /// The last block that was written, and its queue, if it was all of one of which not all lives.
    last_whole: Option<(QueueId, Origin)>,
}

/// Where a block comes from that several queues have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The record of the log that starts here.
    Log(Lsn),
    /// A pack.
    Pack {
        /// Its number.
        number: u64,
        /// Where in it the block starts.
        offset: u64,
    },
}

/// A block that several queues have, as one of them knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// Where it comes from.
    pub origin: Origin,
    /// The number of its first message.
    pub first: Seq,
    /// How many messages it has, live or not.
    pub count: u32,
}

impl Shared {
    fn index_of(&self, seq: Seq) -> u32 {
        u32::try_from(seq.0 - self.first.0).unwrap_or(u32::MAX)
    }
}

/// Which messages of a block live in a queue: ranges of them, counted from its first.
type Shape = SmallVec<[(u32, u32); 1]>;

/// A block that is in the pack.
#[derive(Clone, Copy, Debug)]
struct SharedBlock {
    pointer: Pointer,
    header: BlockHeader,
    body_bytes: u64,
}

/// Whether a block is to be written once for all its queues. What is not is copied a few times at most, so that a pack
/// has no more than a few times the bytes of what it was made of.
pub fn is_shared(bytes: usize, queues: usize) -> bool {
    queues > 1 && (bytes >= SHARED_BYTES_MIN || (queues > COPIES_MAX && bytes > COPIED_BYTES_MAX))
}

/// An extent as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedExtent {
    /// Where, whose and what.
    pub record: ExtentRecord,
    /// Numbers, from the first on, that are not messages of the extent.
    pub gaps: RoaringBitmap,
}

/// What was written.
#[derive(Debug)]
pub struct PackSummary {
    /// The pack's number.
    pub number: u64,
    /// Its file's length.
    pub bytes: u64,
    /// All its extents, by queue and number.
    pub extents: Vec<PackedExtent>,
    /// All its blocks, when it is a pack of transient messages: those are found one by one.
    pub blocks: Vec<PackedBlock>,
}

/// A block of a pack of transient messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedBlock {
    /// Whose messages.
    pub queue: QueueId,
    /// The first number.
    pub first: Seq,
    /// The number after the last.
    pub end: Seq,
    /// Where its prefix starts.
    pub offset: u64,
}

/// What waits to be written, in order; large bytes by reference.
#[derive(Debug, Default)]
struct Buffer {
    done: Vec<Bytes>,
    open: Vec<u8>,
    bytes: usize,
}

impl Sink for Buffer {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        self.open.extend_from_slice(bytes);
    }

    fn share(&mut self, bytes: Bytes) {
        self.bytes += bytes.len();
        if !self.open.is_empty() {
            self.done.push(mem::take(&mut self.open).into());
        }
        self.done.push(bytes);
    }
}

impl Buffer {
    /// The header of the block that the buffer holds.
    fn header(&self) -> BlockHeader {
        let start = self.done.first().map_or(&self.open[..], |first| first);
        let header = start.first_chunk().and_then(|header| BlockHeader::from_bytes(header).ok());
        header.expect("a run is written with its header first")
    }

    fn write_to(&mut self, file: &dyn DiskFile, offset: u64) -> Result<u64, StoreError> {
        let mut slices: Vec<IoSlice<'_>> = self.done.iter().map(|bytes| IoSlice::new(bytes)).collect();
        slices.push(IoSlice::new(&self.open));
        file.write_at(&slices, offset).map_err(StoreError::io("write", file.name()))?;
        let written = self.bytes as u64;
        self.done.clear();
        self.open.clear();
        self.bytes = 0;
        Ok(written)
    }
}

impl PackWriter {
    /// Begins a pack; its number was never used before.
    ///
    /// # Errors
    /// What the disk says.
    pub fn create(disk: &dyn Disk, kind: Kind, number: u64) -> Result<Self, StoreError> {
        let name = kind.file_name(number);
        disk.create_dir(kind.dir()).map_err(StoreError::io("create", kind.dir()))?;
        let file = disk.create(&name).map_err(StoreError::io("create", &name))?;
        let mut buffer = Buffer::default();
        buffer.put(&format::encode_header(number));
        Ok(Self {
            number,
            kind,
            file,
            buffer,
            written: 0,
            synced: 0,
            last: None,
            joined: None,
            open: None,
            extents: Vec::new(),
            blocks: Vec::new(),
            shared: HashMap::new(),
            last_whole: None,
        })
    }

    /// How long the file is so far.
    pub fn bytes(&self) -> u64 {
        self.written + self.buffer.bytes as u64
    }

    /// Adds messages of a queue, behind all that came before: queues ascending, numbers ascending.
    ///
    /// # Errors
    /// What the disk says.
    pub fn push(&mut self, queue: QueueId, run: &Run) -> Result<(), StoreError> {
        self.ascend(queue, run.first_seq(), run.end_seq());
        if run.stored_bytes() < SHARED_BYTES_MIN {
            return self.join(queue, run);
        }
        self.flush_joined()?;
        let mut block = Buffer::default();
        run.encode(&mut block);
        let header = block.header();
        let numbers = (run.first_seq(), run.end_seq());
        self.begin(queue, numbers, numbers, header)?;
        let prefix = Prefix { queue, first: run.first_seq(), count: run.count(), shared: false };
        self.buffer.put(&prefix.encode(header.crc));
        self.put_block(block);
        self.end(run.body_bytes())
    }

    /// Adds what lives of a block that other queues have too: `live`, ascending, are its numbers in this one. The bytes,
    /// which `block` gives, are written for the first queue in which the same of them lives. Where too much of a block
    /// lives in different ways all of it is written, and what does not live in a queue is said to be done with.
    ///
    /// # Errors
    /// What the disk says, or `block` does.
    pub fn push_shared(
        &mut self,
        queue: QueueId,
        shared: Shared,
        live: &[(Seq, Seq)],
        block: impl FnOnce() -> Result<Run, StoreError>,
    ) -> Result<(), StoreError> {
        let (Some(&(first, _)), Some(&(_, end))) = (live.first(), live.last()) else { return Ok(()) };
        let is_begun = self.last.is_some_and(|last| last >= (queue, shared.first));
        self.ascend(queue, first, end);
        self.flush_joined()?;
        if self.last_whole == Some((queue, shared.origin)) {
            live.iter().for_each(|&live| self.revive(live));
            return Ok(());
        }
        let shape: Shape =
            live.iter().map(|(first, end)| (shared.index_of(*first), shared.index_of(*end))).collect();
        let known = self.shared.entry(shared.origin).or_default();
        let known_blocks = known.iter().find(|(other, _)| *other == shape).map(|(_, blocks)| blocks.clone());
        let is_whole = known_blocks.is_none() && known.len() >= SHAPES_MAX && !is_begun;
        let shape = if is_whole { Shape::from_slice(&[(0, shared.count)]) } else { shape };
        let known_blocks = known_blocks
            .or_else(|| known.iter().find(|(other, _)| *other == shape).map(|(_, blocks)| blocks.clone()));
        let run = if known_blocks.is_none() { Some(block()?.numbered_from(shared.first)) } else { None };
        let mut blocks = known_blocks.unwrap_or_default().into_iter();
        let mut written = Vec::new();
        for &(low, high) in &shape {
            let numbers = (shared.first.after(low), shared.first.after(high));
            let lives = if is_whole { live.first().copied().unwrap_or(numbers) } else { numbers };
            match (blocks.next(), &run) {
                (Some(block), _) => self.point(queue, numbers, lives, block)?,
                (None, Some(run)) => written.extend(self.write_shared(queue, run, numbers, lives)?),
                (None, None) => debug_assert!(false, "as many blocks as ranges"),
            }
        }
        if !written.is_empty() {
            self.shared.entry(shared.origin).or_default().push((shape, written));
        }
        if is_whole {
            self.last_whole = Some((queue, shared.origin));
            live.iter().skip(1).for_each(|&live| self.revive(live));
        }
        Ok(())
    }

    /// Writes a part of a block that others will point to.
    fn write_shared(
        &mut self,
        queue: QueueId,
        run: &Run,
        numbers: (Seq, Seq),
        live: (Seq, Seq),
    ) -> Result<Option<SharedBlock>, StoreError> {
        let Some(part) = run.part(numbers.0, numbers.1) else { return Ok(None) };
        let mut bytes = Buffer::default();
        part.encode(&mut bytes);
        let header = bytes.header();
        self.begin(queue, numbers, live, header)?;
        let prefix = Prefix { queue, first: numbers.0, count: part.count(), shared: false };
        self.buffer.put(&prefix.encode(header.crc));
        let pointer = Pointer { offset: self.bytes(), bytes: header.bytes, crc: header.crc };
        self.put_block(bytes);
        let block = SharedBlock { pointer, header, body_bytes: part.body_bytes() };
        self.end(share(&block, live, numbers))?;
        Ok(Some(block))
    }

    fn point(
        &mut self,
        queue: QueueId,
        numbers: (Seq, Seq),
        live: (Seq, Seq),
        block: SharedBlock,
    ) -> Result<(), StoreError> {
        self.begin(queue, numbers, live, block.header)?;
        let prefix = Prefix { queue, first: numbers.0, count: block.header.count.into(), shared: true };
        self.buffer.put(&prefix.encode(block.header.crc));
        self.buffer.put(&block.pointer.encode());
        self.end(share(&block, live, numbers))
    }

    fn ascend(&mut self, queue: QueueId, first: Seq, end: Seq) {
        debug_assert!(self.last.is_none_or(|last| last < (queue, first)), "queues and numbers ascend");
        self.last = Some((queue, Seq(end.0 - 1)));
    }

    fn put_block(&mut self, block: Buffer) {
        block.done.into_iter().for_each(|bytes| self.buffer.share(bytes));
        self.buffer.put(&block.open);
    }

    /// More of the block that was written last lives.
    fn revive(&mut self, (first, end): (Seq, Seq)) {
        let Some(open) = &mut self.open else { return };
        let at = &mut open.record.at;
        open.gaps.remove_range(relative(at, first)..relative(at, end));
        at.count += relative(at, end) - relative(at, first);
    }

    /// Closes the extent: the next message begins another. A writer must when an extent of another pack lies between
    /// two numbers of a queue.
    ///
    /// # Errors
    /// What the disk says.
    pub fn cut_extent(&mut self) -> Result<(), StoreError> {
        self.flush_joined()?;
        self.last_whole = None;
        self.extents.extend(self.open.take());
        Ok(())
    }

    /// Writes what is left, the index and the footer. A durable pack is on the disk with its name when this returns.
    ///
    /// # Errors
    /// What the disk says.
    pub fn finish(mut self, disk: &dyn Disk) -> Result<PackSummary, StoreError> {
        self.cut_extent()?;
        let mut index = Vec::with_capacity(self.extents.len() * format::RECORD_BYTES);
        self.extents.iter().for_each(|extent| extent.record.encode(&mut index));
        let footer = Footer {
            number: self.number,
            index_offset: self.bytes(),
            extents: u32::try_from(self.extents.len()).expect("a window of the log has fewer messages"),
            index_crc: crc32c::crc32c(&index),
        };
        self.buffer.share(index.into());
        self.buffer.put(&footer.encode());
        self.flush()?;
        if self.kind == Kind::Durable {
            self.sync()?;
            disk.sync_dir(self.kind.dir()).map_err(StoreError::io("sync", self.kind.dir()))?;
            // The directory itself may be as new as the file.
            disk.sync_dir("").map_err(StoreError::io("sync", "the data directory"))?;
        }
        Ok(PackSummary {
            number: self.number,
            bytes: self.written,
            extents: self.extents,
            blocks: self.blocks,
        })
    }

    /// Adds a small run to those before it.
    fn join(&mut self, queue: QueueId, run: &Run) -> Result<(), StoreError> {
        if let Some((owner, joined)) = &mut self.joined
            && *owner == queue
            && joined.push(run, JOINED_BYTES_MAX)
        {
            return Ok(());
        }
        self.flush_joined()?;
        self.joined = Some((queue, Joined::new(run)));
        Ok(())
    }

    fn flush_joined(&mut self) -> Result<(), StoreError> {
        let Some((queue, joined)) = self.joined.take() else { return Ok(()) };
        let (first, body_bytes) = (joined.first(), joined.body_bytes());
        let block = joined.finish();
        let header = BlockHeader::read(&block).expect("a joined block has its header");
        let count = u32::from(header.count);
        let numbers = (first, first.after(count));
        self.begin(queue, numbers, numbers, header)?;
        self.buffer.put(&Prefix { queue, first, count, shared: false }.encode(header.crc));
        self.buffer.put(&block);
        self.end(body_bytes)
    }

    /// Opens an extent for a block with these numbers, of which some live, or goes on in the open one.
    fn begin(
        &mut self,
        queue: QueueId,
        (first, end): (Seq, Seq),
        live: (Seq, Seq),
        header: BlockHeader,
    ) -> Result<(), StoreError> {
        let goes_on = self.open.as_ref().is_some_and(|open| {
            let at = open.record.at;
            open.record.queue == queue
                && self.bytes() - at.offset < EXTENT_BYTES
                && at.body_bytes < EXTENT_BYTES
                && end.0 - at.first.0 <= EXTENT_SPAN_MAX
        });
        if !goes_on {
            self.extents.extend(self.open.take());
        }
        self.last_whole = None;
        if self.kind == Kind::Spill {
            self.blocks.push(PackedBlock { queue, first, end, offset: self.bytes() });
        }
        let received_ms = header.stamp.received_ms;
        let offset = self.bytes();
        let open = self.open.get_or_insert_with(|| PackedExtent {
            record: ExtentRecord {
                queue,
                lane: 0,
                at: Extent {
                    first,
                    last: first,
                    pack: self.number,
                    offset,
                    bytes: 0,
                    count: 0,
                    body_bytes: 0,
                },
                received_min_ms: received_ms,
                received_max_ms: received_ms,
            },
            gaps: RoaringBitmap::new(),
        });
        let record = &mut open.record;
        let at = &mut record.at;
        if at.count > 0 {
            open.gaps.insert_range(relative(at, at.last) + 1..relative(at, first));
        }
        open.gaps.insert_range(relative(at, first)..relative(at, live.0));
        open.gaps.insert_range(relative(at, live.1)..relative(at, end));
        at.last = Seq(end.0 - 1);
        at.count += relative(at, live.1) - relative(at, live.0);
        record.received_min_ms = record.received_min_ms.min(received_ms);
        record.received_max_ms = record.received_max_ms.max(received_ms);
        Ok(())
    }

    /// The bytes of what was begun are in the buffer.
    fn end(&mut self, body_bytes: u64) -> Result<(), StoreError> {
        let bytes = self.bytes();
        if let Some(open) = &mut self.open {
            let at = &mut open.record.at;
            at.bytes =
                u32::try_from(bytes - at.offset).expect("an extent has a mebibyte and one message more");
            at.body_bytes += body_bytes;
        }
        if self.buffer.bytes >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.written += self.buffer.write_to(&*self.file, self.written)?;
        if self.kind == Kind::Durable && self.written - self.synced >= SYNC_BYTES {
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(StoreError::io("sync", self.file.name()))?;
        self.file.release_cache().map_err(StoreError::io("release", self.file.name()))?;
        self.synced = self.written;
        Ok(())
    }
}

/// A number, from the extent's first on.
fn relative(at: &Extent, seq: Seq) -> u32 {
    u32::try_from(seq.0 - at.first.0).unwrap_or(u32::MAX)
}

/// What the bodies of some messages of a block have, about.
fn share(block: &SharedBlock, live: (Seq, Seq), numbers: (Seq, Seq)) -> u64 {
    block.body_bytes * (live.1.0 - live.0.0) / (numbers.1.0 - numbers.0.0).max(1)
}
