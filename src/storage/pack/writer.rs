//! Writes one pack. Runs come in by queue and number; what is small and belongs together becomes one block.

use std::collections::HashMap;
use std::io::IoSlice;
use std::mem;

use bytes::Bytes;
use roaring::RoaringBitmap;

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
/// An extent is closed when it has this many bytes: what one read brings back.
const EXTENT_BYTES: u64 = 1024 * 1024;
/// An extent is closed before its numbers reach over more than this.
const EXTENT_SPAN_MAX: u64 = 1 << 24;
/// Neighbouring blocks are joined up to this size.
const JOINED_BYTES_MAX: usize = 16 * 1024;
/// A block of several queues is written once from this size on.
const SHARED_BYTES_MIN: usize = 4096;

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
    shared: HashMap<Lsn, Pointer>,
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
        })
    }

    /// How long the file is so far.
    pub fn bytes(&self) -> u64 {
        self.written + self.buffer.bytes as u64
    }

    /// Adds messages of a queue, behind all that came before: queues ascending, numbers ascending. `origin` is where
    /// the run's block came from, when other queues have live messages in it too: a large one is written once.
    ///
    /// # Errors
    /// What the disk says.
    pub fn push(&mut self, queue: QueueId, run: &Run, origin: Option<Lsn>) -> Result<(), StoreError> {
        debug_assert!(
            self.last.is_none_or(|last| last < (queue, run.first_seq())),
            "queues and numbers ascend"
        );
        self.last = Some((queue, Seq(run.end_seq().0 - 1)));
        let bytes = run.stored_bytes();
        let shared = origin.filter(|_| run.is_whole() && bytes >= SHARED_BYTES_MIN);
        if shared.is_none() && bytes <= JOINED_BYTES_MAX {
            return self.join(queue, run);
        }
        self.flush_joined()?;
        if let Some(&pointer) = shared.and_then(|origin| self.shared.get(&origin)) {
            return self.point(queue, run, pointer);
        }
        let mut block = Buffer::default();
        run.encode(&mut block);
        let header = block.header();
        self.begin(queue, run.first_seq(), run.end_seq(), header)?;
        let prefix = Prefix { queue, first: run.first_seq(), count: run.count(), shared: false };
        self.buffer.put(&prefix.encode(header.crc));
        if let Some(origin) = shared {
            let pointer = Pointer { offset: self.bytes(), bytes: header.bytes, crc: header.crc };
            self.shared.insert(origin, pointer);
        }
        block.done.into_iter().for_each(|bytes| self.buffer.share(bytes));
        self.buffer.put(&block.open);
        self.end(run.body_bytes())
    }

    /// Closes the extent: the next message begins another. A writer must when an extent of another pack lies between
    /// two numbers of a queue.
    ///
    /// # Errors
    /// What the disk says.
    pub fn cut_extent(&mut self) -> Result<(), StoreError> {
        self.flush_joined()?;
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
        self.begin(queue, first, first.after(count), header)?;
        self.buffer.put(&Prefix { queue, first, count, shared: false }.encode(header.crc));
        self.buffer.put(&block);
        self.end(body_bytes)
    }

    fn point(&mut self, queue: QueueId, run: &Run, pointer: Pointer) -> Result<(), StoreError> {
        let header = run.header();
        self.begin(queue, run.first_seq(), run.end_seq(), header)?;
        let prefix = Prefix { queue, first: run.first_seq(), count: run.count(), shared: true };
        self.buffer.put(&prefix.encode(pointer.crc));
        self.buffer.put(&pointer.encode());
        self.end(run.body_bytes())
    }

    /// Opens an extent for the numbers, or goes on in the open one.
    fn begin(&mut self, queue: QueueId, first: Seq, end: Seq, header: BlockHeader) -> Result<(), StoreError> {
        let goes_on = self.open.as_ref().is_some_and(|open| {
            let at = open.record.at;
            open.record.queue == queue
                && self.bytes() - at.offset < EXTENT_BYTES
                && end.0 - at.first.0 <= EXTENT_SPAN_MAX
        });
        if !goes_on {
            self.extents.extend(self.open.take());
        }
        if self.kind == Kind::Spill {
            self.blocks.push(PackedBlock { queue, first, end, offset: self.bytes() });
        }
        let received_ms = header.stamp.received_ms;
        let open = self.open.get_or_insert_with(|| PackedExtent {
            record: ExtentRecord {
                queue,
                lane: 0,
                at: Extent {
                    first,
                    last: first,
                    pack: self.number,
                    offset: self.written + self.buffer.bytes as u64,
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
        let relative = |seq: Seq| u32::try_from(seq.0 - record.at.first.0).unwrap_or(u32::MAX);
        if record.at.count > 0 {
            open.gaps.insert_range(relative(record.at.last) + 1..relative(first));
        }
        record.at.last = Seq(end.0 - 1);
        record.at.count += u32::from(header.count);
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
