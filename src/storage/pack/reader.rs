//! Reads a pack. Nothing is believed: the header, the footer and the index when it is opened, and each block with its
//! prefix when it is read. What is damaged is said, and never returned as a message.

use std::sync::Arc;

use bytes::Bytes;

use crate::message::block_header::{BlockHeader, HEADER_BYTES as BLOCK_HEADER_BYTES};
use crate::message::place::{Extent, QueueId, Seq};
use crate::message::run::Run;
use crate::stats::Gauge;
use crate::storage::disk::{Disk, DiskFile};
use crate::storage::error::StoreError;
use crate::storage::pack::Kind;
use crate::storage::pack::format::{
    self, ExtentRecord, FOOTER_BYTES, Footer, HEADER_BYTES, POINTER_BYTES, PREFIX_BYTES, Pointer, Prefix,
    RECORD_BYTES, corrupt,
};

/// So many bytes of an entry tell how long it is.
const START_BYTES: usize = PREFIX_BYTES + BLOCK_HEADER_BYTES;
/// So many are fetched for it.
const STARTS_BYTES: u64 = 4096;

/// A pack that is open for reading.
#[derive(Debug)]
pub struct Pack {
    number: u64,
    file: Box<dyn DiskFile>,
    footer: Footer,
}

/// What an extent gave.
#[derive(Debug, Default)]
pub struct ExtentRead {
    /// The messages, numbered, ascending. Those settled since are among them.
    pub runs: Vec<Run>,
    /// For each run where in the pack its block starts, if it is one that several queues have. Of the queue with which it
    /// was written that is not known: there it is copied, once more than the others', when it moves.
    pub shared: Vec<Option<u64>>,
    /// What could not be read, each with its place; its messages are in none of the runs.
    pub damaged: Vec<StoreError>,
}

impl Pack {
    /// Opens a pack and verifies all of it but its blocks.
    ///
    /// # Errors
    /// What the disk says, or [`StoreError::Corrupt`].
    pub fn open(disk: &dyn Disk, kind: Kind, number: u64) -> Result<Self, StoreError> {
        let name = kind.file_name(number);
        let file = disk.open(&name).map_err(StoreError::io("open", &name))?;
        let len = file.len().map_err(StoreError::io("measure", &name))?;
        let header = read_exactly(&*file, 0, HEADER_BYTES)?;
        format::check_header(&header, number, &name)?;
        let footer_at = len.saturating_sub(FOOTER_BYTES as u64);
        let footer = Footer::read(&read_exactly(&*file, footer_at, FOOTER_BYTES)?, number, &name, footer_at)?;
        let pack = Self { number, file, footer };
        if footer.index_offset.checked_add(u64::from(footer.extents) * RECORD_BYTES as u64) != Some(footer_at)
        {
            return Err(corrupt(&name, footer_at, "the index does not end where the footer starts"));
        }
        pack.index()?;
        Ok(pack)
    }

    /// Opens what cannot be opened, to read what can be read of it: blocks up to the end of the file, at the places that
    /// the checkpoint knows. There is no index.
    ///
    /// # Errors
    /// What the disk says.
    pub fn salvage(disk: &dyn Disk, kind: Kind, number: u64) -> Result<Self, StoreError> {
        let name = kind.file_name(number);
        let file = disk.open(&name).map_err(StoreError::io("open", &name))?;
        let index_offset = file.len().map_err(StoreError::io("measure", &name))?;
        Ok(Self { number, file, footer: Footer { number, index_offset, extents: 0, index_crc: 0 } })
    }

    /// Up to where there may be blocks.
    pub fn blocks_end(&self) -> u64 {
        self.footer.index_offset
    }

    /// The pack's number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its file's length in bytes.
    pub fn bytes(&self) -> u64 {
        let index = u64::from(self.footer.extents) * RECORD_BYTES as u64;
        self.footer.index_offset + index + FOOTER_BYTES as u64
    }

    /// The extents, by queue and number.
    ///
    /// # Errors
    /// What the disk says, or [`StoreError::Corrupt`].
    pub fn index(&self) -> Result<Vec<ExtentRecord>, StoreError> {
        let (offset, name) = (self.footer.index_offset, self.file.name());
        let len = usize::try_from(u64::from(self.footer.extents) * RECORD_BYTES as u64);
        let index = read_exactly(&*self.file, offset, len.unwrap_or(usize::MAX))?;
        if crc32c::crc32c(&index) != self.footer.index_crc {
            return Err(corrupt(name, offset, "the index is damaged"));
        }
        let records = index.chunks_exact(RECORD_BYTES).map(|record| ExtentRecord::read(record, self.number));
        records.collect::<Option<_>>().ok_or_else(|| corrupt(name, offset, "the index is damaged"))
    }

    /// Reads the messages of an extent of this queue.
    ///
    /// # Errors
    /// What the disk says; damage is in what is returned.
    pub fn read_extent(
        &self,
        queue: QueueId,
        at: &Extent,
        gauge: &Arc<Gauge>,
    ) -> Result<ExtentRead, StoreError> {
        let mut read = ExtentRead::default();
        if let Err(damage) = self.end_of(at) {
            read.damaged.push(damage);
            return Ok(read);
        }
        let bytes = Bytes::from(read_exactly(&*self.file, at.offset, at.bytes as usize)?);
        let mut expected = at.first;
        let mut from = 0;
        while from < bytes.len() {
            let offset = at.offset + from as u64;
            let Some(entry) = Entry::split(&bytes.slice(from..), queue, expected, at.last) else {
                read.damaged.push(corrupt(
                    self.file.name(),
                    offset,
                    format!("no block of queue {} is here", queue.0),
                ));
                break;
            };
            from += entry.bytes;
            expected = entry.prefix.first.after(entry.prefix.count);
            match self.read_entry(&entry, offset, gauge)? {
                Ok(run) => {
                    read.runs.push(run);
                    read.shared.push(entry.pointer.map(|pointer| pointer.offset));
                }
                Err(damage) => read.damaged.push(damage),
            }
        }
        Ok(read)
    }

    /// Reads of an extent of this queue the blocks only that have some of these numbers, ascending.
    ///
    /// # Errors
    /// As [`Pack::read_extent`].
    pub fn read_extent_at(
        &self,
        queue: QueueId,
        at: &Extent,
        numbers: &[(Seq, Seq)],
        gauge: &Arc<Gauge>,
    ) -> Result<ExtentRead, StoreError> {
        let mut read = ExtentRead::default();
        let end = match self.end_of(at) {
            Ok(end) => end,
            Err(damage) => {
                read.damaged.push(damage);
                return Ok(read);
            }
        };
        let mut starts = Starts { file: &*self.file, end, at: 0, bytes: Bytes::new() };
        let (mut offset, mut expected, mut left) = (at.offset, at.first, numbers);
        while offset < end && !left.is_empty() {
            let start = starts.read(offset)?;
            let Some((prefix, bytes)) = Entry::measure(&start, queue, expected, at.last) else {
                let problem = format!("no block of queue {} is here", queue.0);
                read.damaged.push(corrupt(self.file.name(), offset, problem));
                break;
            };
            expected = prefix.first.after(prefix.count);
            left = left.get(left.partition_point(|(_, end)| *end <= prefix.first)..).unwrap_or_default();
            if left.first().is_some_and(|(first, _)| *first < expected) {
                match self.read_whole(offset, bytes, queue, gauge)? {
                    Ok(run) => read.runs.push(run),
                    Err(damage) => read.damaged.push(damage),
                }
            }
            offset += bytes as u64;
        }
        Ok(read)
    }

    fn end_of(&self, at: &Extent) -> Result<u64, StoreError> {
        let end = at.offset.checked_add(u64::from(at.bytes)).filter(|end| *end <= self.footer.index_offset);
        end.ok_or_else(|| corrupt(self.file.name(), at.offset, "this extent is not within the pack"))
    }

    /// Reads the block whose prefix starts at `offset`: what a ledger knows of a spilled run.
    ///
    /// # Errors
    /// What the disk says, or [`StoreError::Corrupt`].
    pub fn read_block(&self, queue: QueueId, offset: u64, gauge: &Arc<Gauge>) -> Result<Run, StoreError> {
        let start = read_exactly(&*self.file, offset, PREFIX_BYTES + BLOCK_HEADER_BYTES)?;
        let header = start.get(PREFIX_BYTES..).and_then(|header| header.first_chunk());
        let header = header.and_then(|header| BlockHeader::from_bytes(header).ok());
        let missing = || corrupt(self.file.name(), offset, format!("no block of queue {} is here", queue.0));
        let len = header.map(|header| PREFIX_BYTES + header.bytes as usize).ok_or_else(missing)?;
        self.read_whole(offset, len, queue, gauge)?
    }

    /// Reads an entry that is so long. The outer error is the disk's, the inner one the block's.
    fn read_whole(
        &self,
        offset: u64,
        len: usize,
        queue: QueueId,
        gauge: &Arc<Gauge>,
    ) -> Result<Result<Run, StoreError>, StoreError> {
        let missing = || corrupt(self.file.name(), offset, format!("no block of queue {} is here", queue.0));
        if offset + len as u64 > self.footer.index_offset {
            return Ok(Err(missing()));
        }
        let bytes = Bytes::from(read_exactly(&*self.file, offset, len)?);
        match Entry::split(&bytes, queue, Seq(0), Seq(u64::MAX)) {
            Some(entry) => self.read_entry(&entry, offset, gauge),
            None => Ok(Err(missing())),
        }
    }

    /// The outer error is the disk's, the inner one the block's.
    fn read_entry(
        &self,
        entry: &Entry,
        offset: u64,
        gauge: &Arc<Gauge>,
    ) -> Result<Result<Run, StoreError>, StoreError> {
        let damaged = |problem: String| Ok(Err(corrupt(self.file.name(), offset, problem)));
        let block = match entry.pointer {
            None => entry.block.clone(),
            Some(pointer) => {
                let end = pointer.offset.checked_add(u64::from(pointer.bytes));
                if end.is_none_or(|end| end > self.footer.index_offset) {
                    return damaged("a pointer points out of the pack".to_owned());
                }
                Bytes::from(read_exactly(&*self.file, pointer.offset, pointer.bytes as usize)?)
            }
        };
        let run = match Run::from_disk(&block, gauge) {
            Ok(run) => run,
            Err(error) => return damaged(error.to_string()),
        };
        let crc = BlockHeader::read(&block).map_or(0, |header| header.crc);
        if !Prefix::is_before(&entry.start, crc) || run.count() != entry.prefix.count {
            return damaged("a block is not the one its prefix was written for".to_owned());
        }
        Ok(Ok(run.numbered_from(entry.prefix.first)))
    }
}

/// A prefix and what follows it.
struct Entry {
    start: Bytes,
    prefix: Prefix,
    pointer: Option<Pointer>,
    block: Bytes,
    bytes: usize,
}

impl Entry {
    /// Splits an entry off, if it can be one of this queue with numbers of this range.
    fn split(bytes: &Bytes, queue: QueueId, first: Seq, last: Seq) -> Option<Self> {
        let (prefix, len) = Self::measure(bytes, queue, first, last)?;
        let (start, rest) = bytes.split_at_checked(PREFIX_BYTES)?;
        let pointer = if prefix.shared { Some(Pointer::read(rest)?) } else { None };
        let block = bytes.slice_ref(bytes.get(PREFIX_BYTES..len)?);
        Some(Self { start: bytes.slice_ref(start), prefix, pointer, block, bytes: len })
    }

    /// The prefix of such an entry, and how long that is, from its first bytes.
    fn measure(bytes: &[u8], queue: QueueId, first: Seq, last: Seq) -> Option<(Prefix, usize)> {
        let (start, rest) = bytes.split_at_checked(PREFIX_BYTES)?;
        let prefix = Prefix::read(start)?;
        if prefix.queue != queue || prefix.first < first || prefix.first.after(prefix.count - 1) > last {
            return None;
        }
        let len = match prefix.shared {
            true => POINTER_BYTES,
            false => BlockHeader::from_bytes(rest.first_chunk()?).ok()?.bytes as usize,
        };
        Some((prefix, PREFIX_BYTES + len))
    }
}

/// The first bytes of entries, fetched with what follows them: short ones share a read.
struct Starts<'a> {
    file: &'a dyn DiskFile,
    end: u64,
    at: u64,
    bytes: Bytes,
}

impl Starts<'_> {
    /// As many as tell an entry's length; fewer only where the extent ends.
    fn read(&mut self, offset: u64) -> Result<Bytes, StoreError> {
        let len = (START_BYTES as u64).min(self.end.saturating_sub(offset));
        let is_known = self.at <= offset && offset + len <= self.at + self.bytes.len() as u64;
        if !is_known {
            let len = STARTS_BYTES.min(self.end.saturating_sub(offset));
            self.bytes = read_exactly(self.file, offset, len as usize)?.into();
            self.at = offset;
        }
        let skip = (offset - self.at) as usize;
        Ok(self.bytes.slice(skip..skip + len as usize))
    }
}

fn read_exactly(file: &dyn DiskFile, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
    let room = file.len().map_err(StoreError::io("measure", file.name()))?.saturating_sub(offset);
    if (len as u64) > room {
        return Err(corrupt(file.name(), offset, "the file is cut off"));
    }
    let mut bytes = vec![0; len];
    let read = file.read_at(&mut bytes, offset).map_err(StoreError::io("read", file.name()))?;
    if read < len { Err(corrupt(file.name(), offset, "the file is cut off")) } else { Ok(bytes) }
}
